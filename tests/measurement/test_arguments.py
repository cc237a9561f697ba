"""``audit()`` leaves what it is given as it is, and says in one line what it cannot take."""

import warnings

import numpy as np
import pytest
import torch
from autoencoders import memory
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from lightning_memaudit import audit

FAST = {"patterns": ["random-0.5"], "methods": ["paper_blind", "autoencoder_iterations"]}


def numbers(report):
    return [{key: value for key, value in row.items() if key not in ("seconds", "time", "cost")} for row in report.rows]


def test_a_forward_that_works_in_place_changes_nothing_of_the_callers(members, controls):
    recall = memory(members.clone())
    before = members.clone(), controls.clone()

    def in_place(images):
        result = recall(images)
        images.sub_(0.5)
        return result

    report = audit(in_place, members, controls, **FAST)
    assert torch.equal(members, before[0])
    assert torch.equal(controls, before[1])
    assert numbers(report) == numbers(audit(recall, members, controls, **FAST))


def test_an_output_that_is_overwritten_by_the_next_call_is_kept(members, controls):
    recall = memory(members.clone())
    buffer = torch.zeros(16, 1, 12, 12)

    def with_buffer(images):
        buffer[: len(images)] = recall(images)
        return buffer[: len(images)]

    report = audit(with_buffer, members, controls, **FAST)
    assert numbers(report) == numbers(audit(recall, members, controls, **FAST))
    shown = {key: array.copy() for key, array in report.recoveries.items()}
    buffer.fill_(7)
    members.fill_(0.5)
    assert all(np.array_equal(array, report.recoveries[key]) for key, array in shown.items())


def test_controls_that_are_members_are_refused_by_content(members, controls):
    members = (members * 255).round() / 255  # then the same at 8 bits per value, though not to the last bit:
    mixed = torch.cat([controls[:2], members[[4, 1]] + 1e-4, members[3:4], members[3:4]])
    with pytest.raises(
        ValueError,
        match=r"^4 of the controls are identical to members \(controls\[2\] is members\[4\], controls\[3\] is "
        r"members\[1\], controls\[4\] is members\[3\], \.\.\.\): .*; leave those out of controls$",
    ):
        audit(memory(members), members, mixed, **FAST)


@pytest.mark.parametrize("kind", ["array", "float64 array", "big-endian array", "float64", "float16", "lazy float64"])
def test_floats_of_any_kind_are_images(members, controls, kind):
    class Lazy:
        def __init__(self, images):
            self.images = images

        def __len__(self):
            return len(self.images)

        def __getitem__(self, rows):
            assert isinstance(rows, slice)
            return self.images[rows]

    change = {
        "array": lambda x: x.numpy(),
        "float64 array": lambda x: x.double().numpy(),
        "big-endian array": lambda x: x.numpy().astype(">f4"),
        "float64": lambda x: x.double(),
        "float16": lambda x: x.half(),
        "lazy float64": lambda x: Lazy(x.double()),
    }[kind]
    members, controls = members.half().float(), controls.half().float()  # what float16 holds, all of them hold
    given = [change(members), change(controls)]
    assert numbers(audit(memory(members), *given, **FAST)) == numbers(audit(memory(members), members, controls, **FAST))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_module_of_another_type_gets_images_of_its_own(members, dtype):
    module = nn.Sequential(nn.Flatten(), nn.Linear(144, 144), nn.Unflatten(1, (1, 12, 12))).to(dtype).eval()
    seen = set()
    module.register_forward_hook(lambda _, inputs, output: seen.add(inputs[0].dtype))
    report = audit(module, members, None, **FAST)
    assert seen == {dtype}
    expected = (module(members.to(dtype)).float() - members).square().mean().item()
    assert report.headline["train_loss"] == pytest.approx(expected, rel=1e-5)
    assert report.occasion.weights_sha256 is not None


def test_a_module_in_train_mode_is_warned_of_once(members, controls):
    module = nn.Sequential(nn.Flatten(), nn.Linear(144, 144), nn.Dropout(), nn.Unflatten(1, (1, 12, 12))).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        audit(module, members, controls, **FAST)
    module[2].train()
    for autoencoder in (module, module.forward):
        with pytest.warns(UserWarning, match="train mode") as caught:
            audit(autoencoder, members, controls, **FAST)
        said = [str(one.message) for one in caught if "train mode" in str(one.message)]
        assert len(said) == 1
        assert "1 of its modules" in said[0]
        assert "module.eval()" in said[0]
    assert module[2].training, "and it is left as it is"


def test_a_model_elsewhere_is_named_with_the_mend(members):
    module = nn.Conv2d(1, 1, 3, padding=1, device="meta").eval()
    with pytest.raises(ValueError, match=r"members is on cpu, but the autoencoder on meta: pass members.to\('meta'\)"):
        audit(module, members, **FAST)


class Items(Dataset):
    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


IMAGE = torch.full((1, 12, 12), 0.5)
PICTURE = np.full((1, 12, 12), 0.5, dtype=np.float32)
REFUSED = {
    "a list of tensors": ([IMAGE, IMAGE], r"a list of 2 items \(Tensor first\): pass torch.stack\(NAME\)$"),
    "a list of arrays": (
        [PICTURE],
        r"as torch.stack\(\[torch.as_tensor\(NAME\[i\]\) for i in range\(len\(NAME\)\)\]\)",
    ),
    "an empty list": ([], "NAME is of type list: pass a tensor"),
    "a list of numbers": ([0.5], "a list of 1 items"),
    "a tuple": ((IMAGE,), r"pass torch.stack\(NAME\)"),
    "a data set of tuples": (TensorDataset(IMAGE[None]), r"TensorDataset: .*stack\(\[NAME\[i\]\[0\] for i in range"),
    "a data set of dicts": (Items([{"label": 3, "pixels": IMAGE}]), r"NAME\[i\]\['pixels'\]"),
    "a data set of tensors": (Items([IMAGE]), r"torch.stack\(\[NAME\[i\] for i in range\(len\(NAME\)\)\]\)"),
    "a data set of pictures": (Items(["a picture"]), "Items: .* ToTensor"),
    "a loader": (DataLoader(TensorDataset(IMAGE[None])), "of type DataLoader: pass a tensor"),
    "a generator": ((IMAGE for _ in range(2)), "of type generator: pass a tensor"),
    "a path": ("images.npz", "of type str: pass a tensor"),
    "a mapping": ({"images": IMAGE[None]}, "of type dict: pass a tensor"),
    "a number": (5, "of type int: pass a tensor"),
    "one image": (IMAGE, r"has shape \(1, 12, 12\): .*NAME\[:, None\] if they are gray, NAME\[None\] if it is one"),
    "flat images": (torch.rand(4, 144), r"has shape \(4, 144\): .*NAME.view\(-1, C, H, W\)"),
    "a batch of videos": (torch.rand(4, 1, 2, 2, 12, 12), r"has shape \(4, 1, 2, 2, 12, 12\)"),
    "signals with channels last": (torch.rand(4, 100, 12), r"NAME.movedim\(-1, 1\) if they are signals"),
    "volumes with channels last": (torch.rand(4, 12, 12, 12, 1), r"channels last: pass them first, NAME.movedim"),
    "channels last": (torch.rand(4, 12, 12, 3), r"channels last: pass them first, NAME.movedim\(-1, 1\)"),
    "an array with channels last": (np.random.default_rng(0).random((4, 12, 12, 1)), "channels last"),
    "bytes": (torch.zeros(4, 1, 12, 12, dtype=torch.uint8), r"dtype torch.uint8: .*, such as NAME / 255"),
    "an array of bytes": (np.zeros((4, 1, 12, 12), dtype=np.uint8), r"an array of uint8: .*, such as NAME / 255"),
    "an array of objects": (np.empty((4, 1, 12, 12), dtype=object), "an array of object: pass a tensor"),
    "flags": (torch.zeros(4, 1, 12, 12, dtype=torch.bool), r"such as NAME.float\(\)"),
    "no images": (torch.rand(0, 1, 12, 12), "NAME holds no images"),
    "values up to 255": (torch.rand(4, 1, 12, 12) * 255, "pass images in .*; NAME / 255 if"),
    "values in [-1, 1]": (torch.rand(4, 1, 12, 12) * 2 - 1, r"; \(NAME \+ 1\) / 2 if"),
    "NaN in the last": (torch.cat([torch.rand(3, 1, 12, 12), IMAGE[None] * torch.nan]), "NAME holds NaN"),
}
ABSENT = (
    "reconstruct=",
    "flatten=",
    "image_shape=",
    "image_key",
    "mean=",
    "std=",
    "mean and std",
    "output=",
    "dataset>",
)


@pytest.mark.parametrize("name", ["members", "controls"])
@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_batch_of_images_is_refused_in_one_line(members, name, case):
    value, message = REFUSED[case]
    with pytest.raises(ValueError, match=message.replace("NAME", name)) as error:
        audit(lambda x: x, **({"members": members, "controls": None} | {name: value}), **FAST)
    assert str(error.value).startswith(name)
    assert "\n" not in str(error.value)
    assert not any(word in str(error.value) for word in ABSENT)


def test_the_mend_for_data_sets_and_lists_works(members):
    for given in (TensorDataset(members), list(members), Items([{"label": 0, "image": one} for one in members])):
        with pytest.raises(ValueError, match=r"torch\.stack") as error:
            audit(lambda x: x, given, **FAST)
        code = "torch.stack(" + str(error.value).partition("torch.stack(")[2]
        assert torch.equal(eval(code, {"torch": torch, "members": given}), members)


def test_members_and_controls_must_be_of_one_size(members):
    with pytest.raises(ValueError, match=r"controls are images of shape \(1, 16, 16\), members of \(1, 12, 12\)"):
        audit(lambda x: x, members, torch.rand(4, 1, 16, 16), **FAST)


def fails(images):
    raise ValueError("no\nsuch thing")


FUNCTIONS = {
    "raises": (fails, r"fails on members of shape \(2, 1, 12, 12\) \(ValueError: no such thing\): pass a function"),
    "flat input": (lambda x: x @ torch.rand(144, 144), "fails on members .*x.flatten"),
    "several outputs": (lambda x: (x, x), r"returned tuple for members: .*lambda x: model\(x\)\[0\]"),
    "no output": (lambda x: None, "returned NoneType for members"),
    "flat output": (lambda x: x.flatten(1), r"shape \(2, 144\) for members of shape .*view_as\(x\)"),
    "another precision": (lambda x: x.double() @ torch.rand(12, 12), "fails on members"),
    "NaN": (lambda x: x * torch.nan, "NaN or infinite values for members"),
}


@pytest.mark.parametrize("case", FUNCTIONS)
def test_messages_about_the_autoencoder_name_no_argument_that_audit_lacks(members, case):
    autoencoder, message = FUNCTIONS[case]
    with pytest.raises(ValueError, match=message) as error:
        audit(autoencoder, members, **FAST)
    assert "\n" not in str(error.value)
    assert not any(word in str(error.value) for word in ABSENT)
