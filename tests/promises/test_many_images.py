"""25,000 images on the CPU: memory stays flat from audit to audit, and a kill leaves complete audits only."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

import lightning_memaudit
from lightning_memaudit.cli.main import shipped_configs
from lightning_memaudit.results.run_folder import RunFolder

NUM_MEMBERS, NUM_CONTROLS = 25_000, 500
ROOT = Path(lightning_memaudit.__file__).parent.parent
MEGABYTE = 2**20


def synthetic_images(count):
    """Smooth random colors, (count, 32, 32, 3) uint8, no two alike."""
    generator = np.random.default_rng(0)
    corners = generator.integers(0, 256, (count, 4, 3)).astype(np.float32)
    across = np.linspace(0, 1, 32, dtype=np.float32)
    weights = np.stack(
        [np.outer(one, two) for one in (across, 1 - across) for two in (across, 1 - across)], -1
    )  # (32, 32, 4)
    images = np.empty((count, 32, 32, 3), dtype=np.uint8)
    for begin in range(0, count, 1000):
        block = np.einsum("hwk,nkc->nhwc", weights, corners[begin : begin + 1000])
        images[begin : begin + 1000] = (block + generator.normal(0, 8, block.shape)).clip(0, 255)
    return images


def config(folder):
    quickstart = yaml.safe_load((shipped_configs() / "quickstart.yaml").read_text())
    quickstart["model"]["init_args"]["network"]["init_args"] |= {
        "image_shape": [3, 32, 32],
        "num_layers": 2,
        "width": 32,
    }
    quickstart["data"] = {
        "class_path": "lightning_memaudit.training.data.ImagesDataModule",
        "init_args": {
            "path": str(folder / "images.npy"),
            "num_train": NUM_MEMBERS,
            "num_controls": NUM_CONTROLS,
            "batch_size": 1000,
        },
    }
    quickstart["memaudit"] = {
        "every_n_epochs": 1,
        "num_members": None,
        "num_controls": None,
        "patterns": ["random-0.5"],
        "methods": {
            "paper_blind": {
                "class_path": "lightning_memaudit.recovery.BlindRecovery",
                "init_args": {"penalties": [0.1], "alternation": {"num_iterations": 20}},
            },
            "autoencoder_iterations": {
                "class_path": "lightning_memaudit.recovery.AutoencoderIterations",
                "init_args": {"num_iterations": 20},
            },
        },
    }
    quickstart["trainer"] |= {"max_epochs": 4, "callbacks": [], "default_root_dir": str(folder)}
    return quickstart


def resident(pid):
    """Resident and peak memory of a process in bytes."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return tuple(int(lines[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.timeout(1200)
def test_25000_images_in_flat_memory_and_a_kill_leaves_complete_audits(tmp_path):
    np.save("images.npy", synthetic_images(NUM_MEMBERS + NUM_CONTROLS))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config(tmp_path)))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "lightning_memaudit", "fit", "--config", "config.yaml"]
    folder = RunFolder(tmp_path / "memaudit")
    began = time.perf_counter()
    high, killed = {}, False
    with open("log", "w") as log:  # noqa: PTH123
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        while process.poll() is None:
            time.sleep(0.1)
            done = _audits_done(folder)
            try:
                now, peak = resident(process.pid)
            except (FileNotFoundError, KeyError):
                break
            high[done] = max(high.get(done, 0), now)
            if done == 3:
                size = (folder.path / "images.jsonl").stat().st_size
                if size > (high.setdefault("size", size)):  # the fourth audit is being written
                    process.send_signal(signal.SIGKILL)
                    killed = True
        process.wait()
    seconds = time.perf_counter() - began
    output = Path("log").read_text()
    assert killed, output[-2000:]
    print(
        f"{NUM_MEMBERS} members, {seconds:.0f} s for four audits, peak {peak / MEGABYTE:.0f} MiB; highest while audits "
        f"1, 2, 3 were under way: {[round(high[done] / MEGABYTE) for done in (0, 1, 2)]} MiB"
    )
    assert high[2] < high[1] + 100 * MEGABYTE
    assert peak < 4096 * MEGABYTE
    assert output.count("51000 recoveries") == 4, "every audit says how much there is to do"

    numbers = [row["audit"] for row in folder.audits()]
    assert numbers == [0] * 4 + [1] * 4 + [2] * 4
    counts = {}
    for row in folder.iterate_images():
        counts[row["audit"], row["group"]] = counts.get((row["audit"], row["group"]), 0) + 1
    assert counts == {
        (audit, group): 2 * count
        for audit in range(3)
        for group, count in (("members", NUM_MEMBERS), ("controls", NUM_CONTROLS))
    }
    folder.prepare()
    assert len((folder.path / "images.jsonl").read_bytes().splitlines()) == 3 * 2 * (NUM_MEMBERS + NUM_CONTROLS)


def _audits_done(folder):
    path = folder.path / "audits.jsonl"
    return path.read_bytes().count(b"\n") // 4 if path.exists() else 0
