"""Keys select from whatever items, batches and outputs are made of; import paths name functions."""

import argparse
import sys
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lightning_memaudit.callback.keys import imported, key_for, key_path, select
from lightning_memaudit.callback.reading.items import NoImageFound, find_in_item, tensors_in
from lightning_memaudit.callback.state.shared_memory import make_private

Pair = namedtuple("Pair", "label image")


@dataclass
class Item:
    image: int = 7


class Slots:
    __slots__ = ("image",)

    def __init__(self):
        self.image = 7


class Output(OrderedDict):
    """As those of Hugging Face and diffusers: keys and positions."""

    def __getitem__(self, key):
        return super().__getitem__(list(self)[key] if isinstance(key, int) else key)


class Keyed:
    """Not registered as a mapping, and an attribute of it is no item."""

    image = "an attribute"

    def keys(self):
        return ["image"]

    def __getitem__(self, key):
        return {"image": 7}[key]


class Row:
    """A table's row: items by name, no attributes."""

    def __getitem__(self, key):
        return {"image": 7}[key]


RECORD = np.array([(1.5, 7)], dtype=[("label", float), ("image", int)])[0]


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ({"image": 7}, "image"),
        ({"items": 7}, "items"),
        ({"my.image": 7}, "my.image"),
        ({3: 7}, 3),
        ((0, 7), 1),
        ([0, 7], -1),
        (Pair(0, 7), "image"),
        (Pair(0, 7), 1),
        (Item(), "image"),
        (Slots(), "image"),
        (argparse.Namespace(image=7), "image"),
        (SimpleNamespace(image=7), ["image"]),
        (Output(loss=0, image=7), "image"),
        (Output(loss=0, image=7), 1),
        (Keyed(), "image"),
        (Row(), "image"),
        (RECORD, "image"),
        ({"a": (0, [Item()])}, ["a", 1, 0, "image"]),
        ({"image": 7}, lambda item: item["image"]),
        ((0, Item()), [1, lambda item: item.image]),
        ((3, 4), "builtins.sum"),
        (7, None),
        (7, []),
    ],
)
def test_what_a_key_selects(value, key):
    assert select(value, key, "image_key") == 7


@pytest.mark.parametrize(
    ("value", "key", "what", "words"),
    [
        ({"x": 1}, "pixels", "image_key", "image_key='pixels' is not in the data set's dict; it has keys ['x']"),
        (Pair(0, 1), "pixels", "image_key", "data set's Pair; it has fields ['label', 'image']"),
        (Item(), "pixels", "image_key", "Item; it has fields ['image']"),
        (Item(), 0, "image_key", "image_key=0 is not in the data set's Item; it has fields ['image']"),
        (SimpleNamespace(a=1, _b=2), "pixels", "image_key", "SimpleNamespace; it has fields ['a']"),
        (RECORD, "pixels", "image_key", "it has fields ['label', 'image']"),
        ((1, 2), 2, "output", "output=2 selects nothing from the tuple that the model returned; it has 2 elements"),
        ({"a": [1]}, ["a", 3], "output", "output=['a', 3] selects nothing from the list"),
        ({"x": 1}, "no.such.function", "output", "output='no.such.function' selects nothing from the dict"),
        ({"x": 1}, "torch.pi", "output", "output='torch.pi' selects nothing"),
        (torch.zeros(2), "logits", "output", "output='logits' selects nothing from the Tensor that the model returned"),
        ({n: n for n in range(50)}, "x", "output", "18, 19] and 30 more"),
        ({"x": 1}, 1.5, "output", "output=1.5 is no key: pass an index, a name, several of them, or a function"),
        ({"x": 1}, {"members": 0}, "output", "output={'members': 0} is no key"),
    ],
)
def test_what_is_not_there_is_one_line_with_argument_value_and_what_is(value, key, what, words):
    with pytest.raises(ValueError, match=r".") as error:
        select(value, key, what)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_function_that_fails_is_named():
    def pixels(item):
        raise OSError("no\nfile")

    with pytest.raises(ValueError, match=r"pixels fails on a dict; it has keys \['x'\] \(OSError: no file\)"):
        select({"x": 1}, pixels, "image_key")
    with pytest.raises(MemoryError):  # not the key's fault: half the images may fit
        select({"x": 1}, lambda item: bytes(2**62), "output")


def test_import_paths(tmp_path, monkeypatch):
    package = tmp_path / "my_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "calls.py").write_text(
        "class Calls:\n    @staticmethod\n    def decode(x):\n        return x + 1\nN = 3\n"
    )
    (package / "broken.py").write_text("import no_such_module_at_all\n")
    (package / "script.py").write_text("raise SystemExit(3)\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert imported("my_package.calls.Calls.decode")(1) == 2
    for path in ("my_package", "my_package.calls", "my_package.calls.N", "my_package.calls.x", "my_package.no.x"):
        assert imported(path) is None
    for path in ("forward", "no_such_module.x", "a..b", ".x", "x.", "", "2.5", "a b.c"):
        assert imported(path) is None
    with pytest.raises(ValueError, match=r"'my_package.broken.f': importing my_package.broken fails \(ModuleNotFound"):
        imported("my_package.broken.f")
    with pytest.raises(ValueError, match=r"importing my_package.script fails \(SystemExit: 3\)"):
        imported("my_package.script.f")


def test_nothing_is_imported_for_what_is_there(tmp_path, monkeypatch):
    """Data sets and state dicts have keys with dots, and a file of that name may do anything."""
    (tmp_path / "vae_of_mine.py").write_text("def encoder(item):\n    return 'imported'\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert select({"vae_of_mine.encoder": 7}, "vae_of_mine.encoder", "output") == 7
    assert "vae_of_mine" not in sys.modules
    assert select({}, "vae_of_mine.encoder", "output") == "imported"


def test_keys_of_groups():
    both = {"members": ["inputs", 0], "controls": 1}
    assert key_for("members", both) == ["inputs", 0]
    assert key_for("controls", both) == 1
    assert key_for("controls", {"members": 1}) is None
    for same in (None, 0, "members", ["members", "controls"], len):
        assert key_for("members", same) == same
    for bad in ({}, {"inputs": 0}, {"members": 0, "validation": 1}):
        with pytest.raises(ValueError, match=r"image_key=.*gives each group a key of its own") as error:
            key_for("members", bad)
        assert "\n" not in str(error.value)


def test_paths():
    assert key_path(None) == ()
    assert key_path(0) == (0,)
    assert key_path("abc") == ("abc",)
    assert key_path([0, "a"]) == (0, "a")
    assert key_path(len) == (len,)


@pytest.mark.parametrize(
    ("item", "named"),
    [
        ({"label": torch.zeros(1, 8, 8), "image": torch.rand(1, 8, 8)}, "image"),
        ({"segmentation": torch.zeros(8, 8).long(), "label": torch.rand(1), "ct": torch.rand(1, 8, 8, 8)}, "ct"),
        ({"classes": np.zeros((8, 8), np.int64), "x": np.zeros((1, 8), np.float32)}, "x"),
        ({"label": 3, "length": torch.rand(8), "signal": torch.rand(2, 50)}, "signal"),
        ({"y": torch.zeros(8, 8, dtype=torch.uint8), "mask": torch.rand(1, 8, 8)}, "y"),
        ({"label": torch.rand(1, 8, 8)}, "label"),
    ],
)
def test_the_key_that_a_message_names_holds_an_image_rather_than_a_label(item, named):
    with pytest.raises(NoImageFound, match=f"such as '{named}'$"):
        find_in_item(item, None)


@pytest.mark.parametrize(("name", "likely"), [("x", "x"), ("mask", None), ("target_map", None)])
def test_the_only_image_is_not_taken_without_being_asked_where_it_is_called_a_label(name, likely):
    with pytest.raises(NoImageFound) as raised:
        find_in_item({"path": "a.png", name: torch.rand(1, 8, 8)}, None)
    assert raised.value.likely == likely


def test_sparse_images_are_read_as_dense_ones():
    image = torch.rand(1, 8, 8).round()
    assert torch.equal(find_in_item((image.to_sparse(), 3), None), image)
    assert torch.equal(next(tensors_in({"x": image.to_sparse()}))[1], image)
    make_private([image.to_sparse()])  # which has no memory of its own that could be shared
