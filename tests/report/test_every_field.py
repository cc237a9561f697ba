"""Whatever stands in the results files is computed again, or named as not checked: a field that is neither fails here.

A forger changes one field in all rows, to a value of its kind.
"""

import copy
import json
import shutil
import warnings

import lightning as L
import pytest
import torch
from autoencoders import memory
from forgery import read_rows, write_rows
from torch.utils.data import DataLoader, TensorDataset

from lightning_memaudit import MemorizationAuditCallback
from lightning_memaudit.report.document import build_document
from lightning_memaudit.report.verify import arrays, described, extraction, left_out, repeated, rows, verify
from lightning_memaudit.report.verify.check import guarded
from lightning_memaudit.report.verify.unchecked import unchecked
from lightning_memaudit.report.write import write_report
from lightning_memaudit.results.chain import CHAIN, SEAL
from lightning_memaudit.results.run_folder import RunFolder

pytestmark = pytest.mark.usefixtures("without_page")

OF_RESULTS = (rows.same_counts, rows.whole_rows, rows.same_losses)
OF_RUN = (described.same_settings, described.same_method, left_out.whole_plan)
OF_ARRAYS = (
    *(arrays.same_arrays, arrays.same_scores, arrays.same_observations, arrays.same_images, arrays.same_duplicates),
    *(extraction.same_extraction, repeated.same_repeats),
)
"""What computes something again."""
AUTOENCODER = "what takes the autoencoder"
STARTS = "how many starts were made"
NUMBERS = (
    "margin_db",
    "max_starts",
    "num_starts",
    "num_settled",
    "num_diverged",
    "num_fixed_points",
    "num_evaluations",
)
RUN = "all else in run.json"
GROUP = ("num_available", "source", "reading", "mean", "std")
NAMED = {
    "images.jsonl": dict.fromkeys(("score", "certified", "num_evaluations"), AUTOENCODER),
    "audits.jsonl": {
        **{name: f"{name}" for name in ("trigger", "epoch", "step")},
        **dict.fromkeys(("time", "seconds"), "times"),
        **dict.fromkeys(("certification", "gradients_used", "doubts"), AUTOENCODER),
        "weights_sha256": "weights",
        **{f"extraction.{name}": STARTS for name in (*NUMBERS, "identity_like", "complete", "seed", "num_too_smooth")},
        "cost": "what an audit was expected to cost",
    },
    "run.json": {
        **dict.fromkeys(("created", "schema_version", "run_id", "model", "machine", "versions", "notes"), RUN),
        **{f"{group}.{name}": RUN for group in ("members", "controls") for name in GROUP},
        "controls.identity_check": RUN,
        **{f"settings.{name}": RUN for name in ("method_settings", "without_autoencoder", "save_recoveries")},
        **{f"near_duplicates.{name}": RUN for name in ("psnr_db", "contrast_db")},
    },
}
"""Fields by file that nothing computes again, each with a part of the line that names it as not checked."""


class Memory(L.LightningModule):
    def __init__(self, members):
        super().__init__()
        self.recall, self.weight = memory(members), torch.nn.Parameter(torch.ones(1))

    def forward(self, images):
        return self.recall(images) * self.weight

    def training_step(self, batch, _):
        return (self(batch[0]) - batch[0]).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    path = tmp_path_factory.mktemp("honest")
    images = torch.rand(24, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    images[12] = images[13] * 0.998
    members, controls = (DataLoader(TensorDataset(one), batch_size=4) for one in (images[:12], images[12:]))
    callback = MemorizationAuditCallback(patterns=["half"], methods=["blind_black_box", "biharmonic"], extraction=20)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    trainer = L.Trainer(max_epochs=1, callbacks=[callback], default_root_dir=path, **quiet)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(Memory(images[:12]), members, controls)
    return RunFolder(path / "memaudit")


def paths(content, before=()):
    for key, value in content.items():
        if (*before, key) not in ((CHAIN,), (SEAL,)):
            yield (*before, key)
            if isinstance(value, dict):
                yield from paths(value, (*before, key))


def other(value):
    """A value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, str):
        return f"{value[:-1]}0" if value[-1:] != "0" else f"{value[:-1]}1"
    return [*value, *(value[-1:] or [0])] if isinstance(value, list) else 1


def changed(content, path):
    made = copy.deepcopy(content)
    place = made
    for key in path[:-1]:
        place = place.get(key) or {}
    if path[-1] in place:
        place[path[-1]] = other(place[path[-1]])
    return made


def finds(folder):
    """Whether something is computed again that differs, or no report can be made."""
    try:
        build_document(folder)
        saved = folder.newest_recoveries()
        checks = [(check, folder) for check in (*OF_RESULTS, *OF_RUN)]
        checks += [(check, folder, saved) for check in OF_ARRAYS]
        return any(guarded("check", *check).passed is False for check in checks)
    except (ValueError, KeyError):
        return True


def named(name, path):
    return any(".".join(path[:depth]) in NAMED[name] for depth in range(1, len(path) + 1))


@pytest.mark.parametrize("name", NAMED)
def test_every_field_is_computed_again_or_named(honest, tmp_path, name):
    text = (honest.path / name).read_text()
    content = json.loads(text) if name == "run.json" else json.loads(text.splitlines()[0])
    for number, path in enumerate(path for path in paths(content) if not named(name, path)):
        folder = RunFolder(shutil.copytree(honest.path, tmp_path / f"{number}"))
        file = folder.path / name
        if name == "run.json":
            file.write_text(json.dumps(changed(content, path)))
        else:
            write_rows(file, [changed(row, path) for row in read_rows(file)])
        inner = any(other != path and other[: len(path)] == path for other in paths(content))
        assert inner or finds(folder), f"{name}: {'.'.join(path)} is neither computed again nor named as not checked"
        shutil.rmtree(folder.path)


def test_what_is_named_is_there_and_is_said(honest):
    write_report(honest, figures=False)
    said = [check.name for check in verify(honest) if check.passed is None]
    for name, fields in NAMED.items():
        text = (honest.path / name).read_text()
        content = json.loads(text) if name == "run.json" else json.loads(text.splitlines()[0])
        there = {".".join(path) for path in paths(content)}
        assert set(fields) <= there, f"{name} does not hold them any more"
        assert all(any(part in line for line in said) for part in fields.values())


@pytest.mark.parametrize("name", NAMED)
def test_what_is_taken_out_of_all_rows_is_still_named(honest, tmp_path, name):
    fields = NAMED[name] | ({"extraction": "extraction"} if name == "audits.jsonl" else {})
    for number, (field, part) in enumerate(fields.items()):
        folder = RunFolder(shutil.copytree(honest.path, tmp_path / f"{number}"))
        contents = [folder.run()] if name == "run.json" else read_rows(folder.path / name)
        for content in contents:
            *places, last = field.split(".")
            for place in places:
                content = content[place] or {}
            content.pop(last, None)
        write_rows(folder.path / name, contents)
        assert any(part in check.name for check in unchecked(folder, folder.newest_recoveries(), False)), field
        shutil.rmtree(folder.path)
