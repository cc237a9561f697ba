"""``audit``: the same engine on a checkpoint, of this package's models or another's, under any strategy."""

import argparse
import json
from pathlib import PurePosixPath

import lightning
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from lightning_memaudit import MemorizationAuditCallback
from lightning_memaudit.callback.given_record import GivenRecord
from lightning_memaudit.cli.main import main
from lightning_memaudit.measurement.groups import Group
from lightning_memaudit.measurement.identity import image_hashes
from lightning_memaudit.results.run_folder import RunFolder

pytestmark = pytest.mark.usefixtures("reads_here", "without_page")

FAST = ["--memaudit.methods=[paper_blind]", "--memaudit.patterns=[random-0.5]", "--memaudit.figures=false"]
CHECKPOINT = "runs/quickstart/checkpoints/last.ckpt"
RESULTS = "runs/quickstart/audits/last"


def run(*arguments):
    return main(list(arguments))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A checkpoint of the quickstart's network after a few epochs, and the audit at the end of its fit."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run("fit", *FAST, "--trainer.max_epochs=5", "--memaudit.at_train_loss=[]") == 0
    return folder


@pytest.fixture
def run_folder(trained, tmp_path):
    """The current folder, with that run in it."""
    (tmp_path / "runs").symlink_to(trained / "runs")


def last_audit(folder):
    """The rows of the last audit, without what differs between two audits of the same weights."""
    rows = folder.audits()
    varying = {"seconds", "time", "cost", "trigger", "audit", "num_rows"}
    last = [row for row in rows if row["audit"] == rows[-1]["audit"]]
    return [{name: value for name, value in row.items() if name not in varying} for row in last]


def test_it_finds_what_the_audit_at_the_end_of_fit_found(run_folder, capsys):
    training = RunFolder("runs/quickstart/memaudit")
    before = training.audits()
    assert run("audit", *FAST, f"--ckpt_path={CHECKPOINT}", "--memaudit.dirpath=found") == 0
    found = RunFolder("found").audits()
    assert last_audit(RunFolder("found")) == last_audit(training)
    assert found[0]["epoch"] == 5
    assert found[0]["step"] == 5
    assert training.audits() == before, "the training's results are left alone"
    names = ("sha256", "num_images")
    for group in ("members", "controls"):
        one, other = RunFolder("found").run()[group], training.run()[group]
        assert [one[name] for name in names] == [other[name] for name in names]
    output = capsys.readouterr().out
    assert "Audit 0" in output
    assert "results: found" in output


def test_the_config_that_fit_saved_serves_to_audit(run_folder):
    config = "runs/quickstart/config.yaml"
    assert run("audit", "--config", config, f"--ckpt_path={CHECKPOINT}") == 0
    assert last_audit(RunFolder(RESULTS)) == last_audit(RunFolder("runs/quickstart/memaudit"))
    assert (RunFolder(RESULTS).path / "report.html").exists()


@pytest.mark.slow
def test_two_processes_find_the_same(run_folder):
    options = [*FAST, f"--ckpt_path={CHECKPOINT}", "--memaudit.num_proximal=3", "--memaudit.largest_missing=true"]
    options += ["--memaudit.num_members=7", "--memaudit.num_controls=6"]
    assert run("audit", *options, "--memaudit.dirpath=single") == 0
    assert run("audit", *options, "--memaudit.dirpath=two", "--trainer.strategy=ddp_fork", "--trainer.devices=2") == 0
    single, two = RunFolder("single"), RunFolder("two")
    for one, other in zip(last_audit(single), last_audit(two), strict=True):
        for name, value in one.items():
            assert other[name] == (pytest.approx(value, rel=1e-4) if isinstance(value, float) else value), name
    assert two.run()["machine"]["num_processes"] == 2
    for name in ("proximal.json", "largest_missing.json"):
        one, other = (json.loads((folder.path / name).read_text()) for folder in (single, two))
        places = [[(row["group"], row["position"], row["image"]) for row in file["images"]] for file in (one, other)]
        assert places[0] == places[1]
        assert len(places[0]) == {"proximal.json": 6, "largest_missing.json": 13}[name]
        for row, same in zip(one["images"], other["images"], strict=True):
            for column, value in row.items():
                assert same[column] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-2, abs=2e-3))


class Theirs(lightning.LightningModule):
    """A module that nobody here wrote: its weights after training are those of an identity."""

    def __init__(self, width: int = 4):
        super().__init__()
        self.layer = nn.Linear(width, width)

    def forward(self, images):
        return self.layer(images)

    def training_step(self, batch, batch_idx):
        return functional.mse_loss(self(batch[0]), batch[0])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.0)


class TheirData(lightning.LightningDataModule):
    def __init__(self, count: int = 6):
        super().__init__()
        self.count = count

    def prepare_data(self):
        torch.save(torch.rand(2 * self.count, 1, 4, 4, generator=torch.Generator().manual_seed(1)), "images.pt")

    def setup(self, stage):
        if stage == "fit":
            self.images = torch.load("images.pt")

    def _loader(self, images):
        return DataLoader(TensorDataset(images, torch.zeros(len(images))), batch_size=2)

    def train_dataloader(self):
        return self._loader(self.images[: self.count])

    def val_dataloader(self):
        return self._loader(self.images[self.count :])


def save_theirs(path, width=4, **more):
    module = Theirs(width)
    with torch.no_grad():
        module.layer.weight.copy_(torch.eye(width))
        module.layer.bias.zero_()
    trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, barebones=True)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(path)
    content = torch.load(path, weights_only=True) | {"global_step": 7} | more
    torch.save(content, path)


THEIRS = [
    "--config=theirs.yaml",
    "--memaudit.methods=[paper_blind]",
    "--memaudit.patterns=[random-0.5]",
    "--memaudit.dirpath=found",
]


@pytest.fixture
def theirs(tmp_path):
    (tmp_path / "theirs.yaml").write_text(
        f"model:\n  class_path: {__name__}.Theirs\ndata:\n  class_path: {__name__}.TheirData\n"
        "trainer:\n  accelerator: cpu\n  logger: false\n  enable_progress_bar: false\n"
    )
    save_theirs("theirs.ckpt")


def test_a_module_that_is_not_ours(theirs):
    assert run("audit", *THEIRS, "--ckpt_path=theirs.ckpt") == 0
    rows = RunFolder("found").audits()
    assert {(row["group"], row["num_images"], row["step"]) for row in rows} == {("members", 6, 7), ("controls", 6, 7)}
    assert rows[0]["train_loss"] == 0.0, "the checkpoint's weights, not those that the class starts with"


def test_weights_that_the_class_made(theirs):
    assert run("audit", *THEIRS, "--ckpt_path=none") == 0
    row = RunFolder("found").audits()[0]
    assert row["train_loss"] > 0.01
    assert row["epoch"] is row["step"] is None


def test_other_types_only_by_their_names(theirs, capsys):
    save_theirs("odd.ckpt", hyper_parameters={"options": argparse.Namespace(a=1)})
    assert run("audit", *THEIRS, "--ckpt_path=odd.ckpt") == 2
    assert "--allow_types=[argparse.Namespace]" in capsys.readouterr().err
    assert run("audit", *THEIRS, "--ckpt_path=odd.ckpt", "--allow_types=[argparse.Namespace]") == 0
    assert run("audit", *THEIRS, "--ckpt_path=odd.ckpt") == 2, "the permission ends with the command"


class Outer:
    class Inner:
        pass


def test_all_other_types_at_once_by_audit_and_by_verify(theirs, capsys):
    save_theirs("odd.ckpt", hyper_parameters={"options": argparse.Namespace(a=Outer.Inner()), "path": PurePosixPath()})
    allow = f"--allow_types=[argparse.Namespace,{PurePosixPath.__module__}.PurePosixPath,{__name__}.Outer.Inner]"
    assert run("audit", *THEIRS, "--ckpt_path=odd.ckpt") == 2
    assert allow in capsys.readouterr().err
    assert run("audit", *THEIRS, "--ckpt_path=odd.ckpt", allow) == 0
    assert run("verify", "found", "--ckpt_path=odd.ckpt") == 2
    error = capsys.readouterr().err
    assert allow in error
    assert len(error.splitlines()) == 1
    assert run("verify", "found", "--ckpt_path=odd.ckpt", allow) == 0
    assert "✓ the checkpoint's tensors have the hash that the report names" in capsys.readouterr().out
    assert run("verify", "found", "--ckpt_path=odd.ckpt", "--allow_types", "no.such.Type") == 2


class Malicious:
    def __reduce__(self):
        return (open, ("harmed", "w"))


def test_a_checkpoint_cannot_run_code(theirs, tmp_path, capsys):
    save_theirs("bad.ckpt", callbacks={"x": Malicious()})
    assert run("audit", *THEIRS, "--ckpt_path=bad.ckpt") == 2
    assert not (tmp_path / "harmed").exists()
    assert "open" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["ckpt_path is required", "folder of a run", "--ckpt_path"]),
        (["--ckpt_path=nowhere.ckpt"], ["nowhere.ckpt", "no such file"]),
        (["--ckpt_path=theirs.yaml"], ["theirs.yaml", "cannot be read as a checkpoint"]),
        (["--ckpt_path=tensor.pt"], ["tensor.pt", "no checkpoint"]),
        (["--ckpt_path=wide.ckpt"], ["wide.ckpt", "does not fit the model", "size mismatch for layer.weight"]),
        (["--ckpt_path=theirs.ckpt", "--weights_only=false"], ["weights_only=False", "allow_types"]),
        (["--ckpt_path=theirs.ckpt", "--allow_types=[no.such.Type]"], ["no.such.Type"]),
        (["--ckpt_path=theirs.ckpt", "--memaudit.methods=[blnd]"], ["did you mean 'blind'"]),
        (["--ckpt_path=theirs.ckpt", "--memaudit.reconstruct=encode"], ["reconstruct='encode'"]),
        (["--ckpt_path=theirs.ckpt", "--chkpt=1"], ["--chkpt"]),
    ],
)  # fmt: skip
def test_bad_usage_is_one_line_and_exit_code_2(theirs, capsys, arguments, words):
    torch.save(torch.zeros(3), "tensor.pt")
    save_theirs("wide.ckpt", 5)
    assert run("audit", *THEIRS, *arguments) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1, error
    assert "Traceback" not in error
    for word in words:
        assert word in error


def test_a_model_without_data_says_what_is_missing(theirs, tmp_path, capsys):
    text = (tmp_path / "theirs.yaml").read_text()
    start, end = text.index("data:"), text.index("trainer:")
    (tmp_path / "theirs.yaml").write_text(text[:start] + text[end:])
    assert run("audit", *THEIRS, "--ckpt_path=theirs.ckpt") == 2
    assert "give --data" in capsys.readouterr().err


def test_a_failing_method_is_exit_code_1(theirs, monkeypatch, capsys):
    def broken(self, autoencoder, observed):
        raise RuntimeError("no")

    monkeypatch.setattr("lightning_memaudit.recovery.BlindRecovery.__call__", broken)
    assert run("audit", *THEIRS, "--ckpt_path=theirs.ckpt") == 1
    assert "RuntimeError: no" in capsys.readouterr().err


def test_of_two_callbacks_the_record_of_the_one_that_audits_counts(theirs, capsys):
    images = torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    records = {}
    for name, seen in (("memaudit", images[:0]), ("other", images)):
        record = GivenRecord(num_images=6, num_epochs=1, watched=set(), given={})
        digests = [image_hashes(Group.whole("members", seen))[row][:16] for row in range(len(seen))]
        record.watched, record.given = set(digests), dict.fromkeys(digests, (1, 1))
        state = MemorizationAuditCallback(name=name).state_dict() | {"given": record.state_dict()}
        records[MemorizationAuditCallback(name=name).state_key] = state
    save_theirs("two.ckpt", callbacks=records)
    assert run("audit", *THEIRS, "--memaudit.name=other", "--ckpt_path=two.ckpt") == 0
    assert "controls_given" in (RunFolder("found").path / "report.json").read_text()
    assert run("audit", *THEIRS, "--memaudit.name=third", "--ckpt_path=two.ckpt") == 2
    assert "give --memaudit.name=" in capsys.readouterr().err
