"""What several tests of the report share: a run with its report, a copy of it to spoil, an audit of a memory."""

import shutil

import pytest
import torch
from autoencoders import memory
from run_folder_fixture import make_run_folder
from undrawn import drawing

from lightning_memaudit import audit
from lightning_memaudit.cli.main import main
from lightning_memaudit.report.write import write_report
from lightning_memaudit.results.run_folder import RunFolder


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A run that memorized, with the report written."""
    folder = make_run_folder(
        tmp_path_factory.mktemp("finished"),
        methods=("blind", "known_mask", "biharmonic"),
        untrained=True,
        train_losses=(1e-2, 1e-5),
        num_images=24,
        num_controls=24,
    )
    (folder.path / "run_config.yaml").write_text("model: {lr: 0.001} # <script>alert(1)</script>\n")
    folder.write_run(folder.run())
    return folder, write_report(folder, figures=False)


@pytest.fixture
def run(finished, tmp_path):
    """A copy of it to spoil."""
    return _copy(finished[0], tmp_path)


@pytest.fixture(scope="session")
def finished_with_figures(finished, tmp_path_factory):
    """The same run, its figures drawn too."""
    folder = _copy(finished[0], tmp_path_factory.mktemp("figures"))
    write_report(folder)
    return folder


@pytest.fixture
def run_with_figures(finished_with_figures, tmp_path):
    """A copy of that to spoil."""
    return _copy(finished_with_figures, tmp_path)


def _copy(folder, place):
    shutil.copytree(folder.path.parent, place / "copy")
    return RunFolder(place / "copy" / "memaudit")


@pytest.fixture(scope="session")
def drawn_page(finished, tmp_path_factory):
    """Its page with the charts."""
    with drawing():
        return write_report(_copy(finished[0], tmp_path_factory.mktemp("drawn")), figures=False).html


@pytest.fixture(scope="session")
def comparison(finished, tmp_path_factory):
    """One page on three runs, with the charts."""
    options = {"memorizes": False, "identity": True, "color": True, "train_losses": (1e-4,), "network": "UNet"}
    other = make_run_folder(tmp_path_factory.mktemp("identity"), **options)
    third = make_run_folder(tmp_path_factory.mktemp("few"), num_controls=0, train_losses=(1e-4,))
    path = tmp_path_factory.mktemp("page") / "all.html"
    runs = [str(folder.path) for folder in (finished[0], other, third)]
    with drawing():
        assert main(["report", *runs, "--no_figures", "--output", str(path)]) == 0
    return path


@pytest.fixture
def report():
    members, controls = torch.rand(4, 1, 12, 12), torch.rand(3, 1, 12, 12)
    return audit(memory(members), members, controls, patterns=["random-0.5"], methods=["blind", "biharmonic"])
