"""What can be known to be wrong is said before the first step: one line with the argument, the value and the mend."""

import errno
import json
import random
import tempfile
import warnings

import numpy as np
import pytest
import torch
import training_runs
from torch import nn
from torch.utils.data import DataLoader
from training_runs import Items, audit_callback, images, trainer_with

pytestmark = [
    pytest.mark.usefixtures("without_report", "reads_here"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
]


class Broken(Items):
    def __getitem__(self, index):
        raise OSError(f"cannot open\npicture {index}")


class Module(training_runs.Module):
    def pair(self, x):
        return x.mean(), x * self.weight

    def smaller(self, x):
        return x[:, :, ::2]

    def not_a_number(self, x):
        return x / torch.zeros_like(x)

    def fails(self, x):
        return nn.functional.linear(x, torch.ones(3, 5))


def dummies(items):
    return torch.zeros(len(items))


class Calling(Module):
    def training_step(self, batch, batch_idx):
        return nn.functional.mse_loss(self(batch), batch)


def fit(train, validation, collate=dummies, module=Module, **arguments):
    """Run one epoch; batches are dummies as a rule, so that only the audit looks at the items."""
    trainer = trainer_with(audit_callback(**arguments), max_epochs=1, num_sanity_val_steps=0)
    loaders = [DataLoader(data, 2, collate_fn=collate) for data in (train, validation)]
    try:
        trainer.fit(module(), *loaders)
    finally:
        assert trainer.global_step in (0, len(loaders[0]))
        fit.steps = trainer.global_step
    return trainer


def with_one(value, at=4):
    """Images of which a late one is odd."""
    tensor = images()
    tensor[at] = value
    return Items(tensor)


MEMBERS, CONTROLS = Items(images()), Items(images(5, seed=1))
RAGGED = Items([*images(3), images(1, shape=(1, 8, 9))[0]])

BAD_ARGUMENTS = {
    "every_n_epochs=0: must be at least 1": {"every_n_epochs": 0},
    "at_epochs=[-1]: epochs are counted from 0": {"at_epochs": [-1]},
    "at_train_loss=[0.1, -1.0]: levels must be positive": {"at_train_loss": [0.1, -1.0]},
    "at_train_loss=[nan]: levels must be positive": {"at_train_loss": [float("nan")]},
    "num_members=0: must be at least 1": {"num_members": 0},
    "num_controls=-3: must be at least 1": {"num_controls": -3},
    "log_images=-1: must be 0 or more": {"log_images": -1},
    "save_recoveries=-1: must be 0 or more": {"save_recoveries": -1},
    "on_error='ignore': pass 'warn' or 'raise'": {"on_error": "ignore"},
    "threshold_db=nan: must be a positive number of decibels": {"threshold_db": float("nan")},
    "threshold_db=0: must be": {"threshold_db": 0},
    "threshold_db=100: must be a positive number of decibels, at most 90, such as 30": {"threshold_db": 100},
    "'random-0.9' and 'random-0.90' are the same; leave one of": {"patterns": ["random-0.9", "half", "random-0.90"]},
    "patterns=[]: name at least one": {"patterns": []},
    "did you mean random": {"patterns": ["randon-0.5"]},
    "methods=[]: name at least one of": {"methods": []},
    "method 'blnd' is unknown: did you mean 'blind'?": {"methods": ["blnd"]},
    "block_size=0: must be at least 1": {"block_size": 0},
    "process_timeout=0: must be a positive number of seconds": {"process_timeout": 0},
    "name='a/b': pass letters": {"name": "a/b"},
    "name='..': pass letters": {"name": ".."},
    "std=[0.0]: must be positive": {"std": [0.0]},
    "mean=[inf]: must be finite": {"mean": [float("inf")]},
    "no audit would ever run within max_epochs=1": {"at_fit_end": False, "every_n_epochs": 2},
    "at_epochs=[7], at_fit_end=False: no audit": {"at_fit_end": False, "at_epochs": [7]},
    "reconstruct='decode': Module has no such method; name one": {"reconstruct": "decode"},
    "output='x' selects nothing from the Tensor": {"output": "x"},
    "output=5 selects nothing from the tuple": {"reconstruct": "pair", "output": 5},
    "the model returned shape (2, 1, 4, 8) for input (2, 1, 8, 8)": {"reconstruct": "smaller"},
    "the autoencoder returned NaN or infinite values for members: check its weights": {"reconstruct": "not_a_number"},
    "fails on members of shape (2, 1, 8, 8) (RuntimeError: ": {"reconstruct": "fails"},
    "mean or std has 2 values for images of 1 channels": {"mean": [0.5, 0.5]},
    "image_key=1 is not in the data set's Tensor": {"image_key": 1, "members": Items(images(shape=()))},
    "image_key='pixels' is not in the data set's dict; it has keys ['x']": {
        "image_key": "pixels",
        "members": Items([{"x": 1}]),
    },
    "the data set gives a dict with keys ['x'] where an image tensor should be: pass image_key=": {
        "members": Items([{"x": 1}])
    },
    "the data set gives a str where an image tensor should be: pass image_key=": {"members": Items(["a.png"])},
    "members: images are torch.int32 with values up to 9, of unknown range: pass std=": {
        "members": Items(np.full((3, 1, 8, 8), 9, np.int32))
    },
    "items 0 and 3 of the data set have shapes (1, 8, 8) and (1, 8, 9)": {"members": RAGGED},
    "item 0 of the data set has shape (64,): images are (C, H, W), volumes (C, D, H, W)": {
        "members": Items(images(shape=(64,)))
    },
    "item 0 of the data set has shape (1, 8, 8): image_shape=(3, 8, 8) does not fit": {"image_shape": (3, 8, 8)},
    "members has values in [-1, ": {"members": with_one(-1.0)},
    "controls has values in [": {"controls": with_one(2.0)},
    "std=[0.00392157] if they go up to 255": {"members": with_one(255.0)},
    "mean=[0.5], std=[0.5] if they are in [-1, 1]": {"members": with_one(-0.9)},
    "members holds NaN or infinite values": {"members": with_one(float("nan"))},
    "members holds no images: pass at least one": {"members": Items([])},
    "1 of the controls are identical to members": {"controls": Items(torch.cat([images(1, seed=3), images(6)[2:3]]))},
    "item 0 of Broken cannot be read (OSError: cannot open picture 0): mend": {"members": Broken([1, 2])},
}


@pytest.mark.parametrize("on_error", ["warn", "raise"])
@pytest.mark.parametrize("message", BAD_ARGUMENTS)
def test_bad_input_raises_one_line_before_the_first_step(message, on_error):
    fit.steps = 0
    arguments = {"on_error": on_error} | BAD_ARGUMENTS[message]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match=r".") as error:
            fit(MEMBERS, CONTROLS, **arguments)
    text = str(error.value)
    assert message in text
    assert "\n" not in text
    assert fit.steps == 0
    assert torch.is_grad_enabled()


def test_the_folder_must_be_writable(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match=r"file cannot be made, a file is in its way: pass another dirpath"):
        fit(MEMBERS, CONTROLS, dirpath=tmp_path / "file")
    assert fit.steps == 0

    def read_only(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", read_only)
    with pytest.raises(PermissionError, match=r"cannot be written to \(Read-only file system\): pass another dirpath"):
        fit(MEMBERS, CONTROLS)
    assert fit.steps == 0


def test_a_corrupt_results_file_is_reported_before_the_first_step(tmp_path):
    folder = tmp_path / "memaudit"
    folder.mkdir()
    rows = [json.dumps({"audit": number, "num_rows": 1}) for number in range(3)]
    (folder / "audits.jsonl").write_text("\n".join([rows[0], "{broken", rows[2], ""]))
    with pytest.raises(ValueError, match=r"audits\.jsonl is corrupt at line 2: remove that line, or restore"):
        fit(MEMBERS, CONTROLS)
    assert fit.steps == 0


class Flipping(Items):
    def __getitem__(self, index):
        image = self.items[index]
        return image.flip(-1) * random.random() if random.random() < 0.9 else image


def test_what_is_only_doubtful_warns_and_goes_on():
    with pytest.warns(UserWarning, match="reading the same training image twice gave different ones"):
        fit(Flipping(images()), CONTROLS)
    with pytest.warns(UserWarning, match=r"at_epochs=\[9\]: no such audit within max_epochs=1"):
        fit(MEMBERS, CONTROLS, at_epochs=[1, 9])
    with pytest.warns(UserWarning, match="every_n_epochs=4: no such audit within max_epochs=1"):
        fit(MEMBERS, CONTROLS, every_n_epochs=4)
    assert fit.steps == 3


def test_a_good_run_passes_without_a_warning():
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*(members|controls|memaudit|audit).*")
        trainer = fit(MEMBERS, CONTROLS, torch.stack, Calling, at_epochs=[0])
    assert trainer.global_step == 3
