"""The page as PDF, printed by a browser of the Chromium family that is on this machine. Nothing goes over a network."""

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from lightning_memaudit.results.files import replacing

_COMMANDS = (
    *("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"),
    *("microsoft-edge", "microsoft-edge-stable", "msedge", "brave-browser"),
)
_PLACES = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Microsoft Edge.app/Contents/MacOS/Microsoft Edge",
    r"C:\Program Files\Google\Chrome\Application\chrome.exe",
    r"C:\Program Files (x86)\Microsoft\Edge\Application\msedge.exe",
)
_FLAGS = (
    *("--headless", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--no-default-browser-check"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions"),
    *("--no-pdf-header-footer", "--print-to-pdf-no-header"),
)
_DATES = re.compile(rb"(/(?:CreationDate|ModDate) \(D:)\d{14}")
_SECONDS = 300


def find_browser() -> str:
    """The browser that prints.

    Raises:
        FileNotFoundError: There is none.
    """
    found = next(filter(None, (*map(shutil.which, _COMMANDS), *filter(os.path.isfile, _PLACES))), None)
    if found is None:
        raise FileNotFoundError(
            "--pdf: no browser is here to print with (looked for Chromium, Chrome, Edge and Brave): install one, such "
            "as with `apt-get install chromium`, or leave --pdf out and print report.html in your own browser"
        )
    return found


def write_pdf(page: Path, browser: str | None = None) -> Path:
    """Print a page to a PDF file beside it; the same page gives the same bytes.

    Args:
        page: ``report.html``, or any page of this package.
        browser: Default: the one that :func:`find_browser` finds.

    Raises:
        FileNotFoundError: There is no browser.
        RuntimeError: It did not print.
    """
    browser = browser or find_browser()
    target = page.with_suffix(".pdf")
    printed = target.with_name(f".{target.name}.printing")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [browser, *_FLAGS, f"--user-data-dir={profile}", f"--print-to-pdf={printed.resolve()}"]
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            command.append("--no-sandbox")  # which root cannot have; the page is our own
        quiet = {**os.environ, "DBUS_SESSION_BUS_ADDRESS": "/dev/null"}
        try:
            done = subprocess.run(
                [*command, page.resolve().as_uri()],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_SECONDS,
                env=quiet,
            )
            if not printed.is_file():
                last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
                raise RuntimeError(f"{browser} printed nothing: {last}")
            content = printed.read_bytes()
        except subprocess.TimeoutExpired as error:
            raise RuntimeError(f"{browser} did not print {page} within {_SECONDS} s") from error
        finally:
            printed.unlink(missing_ok=True)
    with replacing(target) as file:
        # Of the same length, so that the positions that the file notes stay true.
        file.write(_DATES.sub(rb"\g<1>20000101000000", content))
    return target
