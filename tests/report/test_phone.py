"""The page in a frame as narrow as a phone: what is read there fits, and what does not can be scrolled to."""

import json
import os
import re
import shutil
import subprocess

import pytest
from run_folder_fixture import make_run_folder

from lightning_memaudit.report.write import write_report

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync", "--disable-dev-shm-usage"]
FLAGS += ["--hide-scrollbars"]  # as a phone, which lays them over the page
PROBE = """<script>
for (const details of document.querySelectorAll('details:not(.all)')) details.open = true;
const wide = [...document.querySelectorAll('.scroll')].filter(one => one.scrollWidth > one.clientWidth + 1);
const broken = [...document.querySelectorAll('.whole')].filter(one => one.getClientRects().length > 1);
parent.postMessage({width: innerWidth, page: document.documentElement.scrollWidth,
  wide: wide.map(one => one.getAttribute('aria-label')), broken: broken.length,
  whole: document.querySelectorAll('.whole').length}, '*');
</script>"""
FRAME = """<title></title><script>addEventListener('message', event => document.title = JSON.stringify(event.data));
</script><iframe src="probe.html" style="border:0;width:400px;height:900px"></iframe>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium")
@pytest.mark.usefixtures("drawn")
def test_what_a_phone_shows(tmp_path):
    page = write_report(make_run_folder(tmp_path), figures=False).html.read_text()
    (tmp_path / "probe.html").write_text(page.replace("</body>", PROBE + "</body>"))
    (tmp_path / "frame.html").write_text(FRAME)
    done = subprocess.run(
        [
            CHROMIUM,
            *FLAGS,
            f"--user-data-dir={tmp_path / 'profile'}",
            "--virtual-time-budget=3000",
            "--dump-dom",
            (tmp_path / "frame.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "DBUS_SESSION_BUS_ADDRESS": "/dev/null"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    seen = json.loads(re.search(r"<title>(.*?)</title>", done.stdout)[1])
    assert seen["width"] == 400
    assert seen["page"] <= 400, "only tables and charts scroll, not the page"
    assert not {"Membership", "Configuration"} & set(seen["wide"])
    assert seen["whole"] > 3
    assert not seen["broken"], "a pattern's name is in one line"
