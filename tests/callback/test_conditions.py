"""Batches of conditional models: what belongs to one image, when two images' conditions are equal, and the way back."""

import copy
import pickle
from collections import OrderedDict, defaultdict, namedtuple
from dataclasses import dataclass
from types import MappingProxyType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from lightning_memaudit.callback.conditions import Condition, conditions_of

IMAGES = torch.rand(4, 1, 2, 3, generator=torch.Generator().manual_seed(0))
OTHERS = torch.rand(5, 1, 2, 3, generator=torch.Generator().manual_seed(1))
LABELS = [3, 5, 3, 3]

Labelled = namedtuple("Labelled", "image label")


@dataclass(frozen=True)
class Frozen:
    image: Any
    label: Any = None


@dataclass
class Slotted:
    __slots__ = ("image", "label")
    image: Any
    label: Any


class Plain:
    def __init__(self, image, label):
        self.label, self.image = label, image


class Named(int):
    """More than its attributes."""

    def __new__(cls, value, name):
        self = super().__new__(cls, value)
        self.name = name
        return self


def with_more(label):
    """A dataclass with more than its fields."""
    item = Frozen(None)
    object.__setattr__(item, "more", label)
    return item


def items(wrap):
    """What a loader makes of a data set's items, of any number of images and labels."""
    return lambda images, labels: wrap(images, torch.tensor(labels))


MAKERS = {
    "pair": (items(lambda x, y: (x, y)), [0]),
    "label first": (items(lambda x, y: [y, x]), [-1]),
    "mapping": (items(lambda x, y: {"label": y, "image": x}), ["image"]),
    "ordered mapping": (items(lambda x, y: OrderedDict(image=x, label=y)), ["image"]),
    "default mapping": (items(lambda x, y: defaultdict(list, image=x, label=y)), ["image"]),
    "read-only mapping": (items(lambda x, y: MappingProxyType({"image": x, "label": y})), ["image"]),
    "named tuple": (items(Labelled), ["image"]),
    "named tuple by index": (items(Labelled), [0]),
    "frozen dataclass": (items(Frozen), ["image"]),
    "slotted dataclass": (items(Slotted), ["image"]),
    "object": (items(Plain), ["image"]),
    "namespace": (items(lambda x, y: SimpleNamespace(image=x, label=y)), ["image"]),
    "nested": (items(lambda x, y: {"a": (y, [Frozen(x)]), "b": {"scale": torch.tensor(2.0)}}), ["a", 1, 0, "image"]),
    "names": (lambda x, labels: {"x": x, "names": [f"class {label}" for label in labels]}, ["x"]),
    "ragged": (lambda x, labels: (x, [{"boxes": torch.full((label, 4), 1.0)} for label in labels]), [0]),
    "ragged rows": (lambda x, labels: (x, [torch.full((1, label), 1.0) for label in labels]), [0]),
    "arrays": (lambda x, labels: (x, np.array(labels)), [0]),
    "strings": (lambda x, labels: (x, np.array([str(label) for label in labels])), [0]),
    "half precision": (items(lambda x, y: (x, y.bfloat16())), [0]),
    "one hot": (items(lambda x, y: (x, torch.nn.functional.one_hot(y, 9).bool())), [0]),
    "collated": (
        lambda x, labels: default_collate([{"x": i, "y": {"id": n}} for i, n in zip(x, labels, strict=True)]), ["x"]
    ),
    "shared": (items(lambda x, y: (x, y, torch.ones(1), torch.ones(7, 2), {"t": 0.5, "n": None})), [0]),
    "input and target": (items(lambda x, y: (x, x, y)), [1]),
    "input and a copy": (items(lambda x, y: (x, x.clone(), y)), [0]),
}  # fmt: skip


def same(one, other):
    """Compares types and contents, written without the code under test."""
    if isinstance(one, torch.Tensor | np.ndarray):
        assert type(one) is type(other)
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        assert bool((one == other).all())
        return
    assert type(one) is type(other) or MappingProxyType in (type(one), type(other))
    if isinstance(one, dict | MappingProxyType):
        assert list(one) == list(other)
        one, other = list(one.values()), list(other.values())
    elif isinstance(one, Slotted):
        one, other = [one.image, one.label], [other.image, other.label]
    elif hasattr(one, "__dict__"):
        same(vars(one), vars(other))
        return
    if isinstance(one, list | tuple):
        assert len(one) == len(other)
        for mine, its in zip(one, other, strict=True):
            same(mine, its)
    else:
        assert one == other


@pytest.mark.parametrize("name", MAKERS)
def test_split_and_put_together_again(name):
    """A batch of other images of one label is what the loader would have made of them."""
    make, path = MAKERS[name]
    batch = make(IMAGES, LABELS)
    conditions = conditions_of(batch, path)
    assert [[one == other for other in conditions] for one in conditions] == [
        [one == other for other in LABELS] for one in LABELS
    ]
    assert len(set(conditions)) == 2
    for condition, label in zip(conditions, LABELS, strict=True):
        same(condition.batch_with(OTHERS), make(OTHERS, [label] * len(OTHERS)))
        same(condition.batch_with(OTHERS[:1]), make(OTHERS[:1], [label]))
    same(batch, make(IMAGES, LABELS))


@pytest.mark.parametrize("name", [name for name in MAKERS if name not in ("shared", "ragged rows")])
def test_a_batch_of_one_image(name):
    make, path = MAKERS[name]
    three, five, again = (Condition(make(IMAGES[[n]], LABELS[n : n + 1]), path) for n in (0, 1, 2))
    assert three == again != five
    same(three.batch_with(OTHERS), make(OTHERS, [3] * len(OTHERS)))


def test_the_batch_is_the_images():
    first, second = conditions_of(IMAGES[:2])
    assert first == second
    assert first.batch_with(OTHERS) is OTHERS


def test_what_the_model_does_to_a_batch_changes_no_condition():
    batch = {"x": IMAGES, "label": torch.tensor(LABELS), "scale": torch.ones(7), "names": list("abcd"), "log": []}
    condition = conditions_of(batch, ["x"])[0]
    before = copy.deepcopy(condition.batch_with(OTHERS))
    batch["label"].zero_()  # the loader's memory, used again
    given = condition.batch_with(OTHERS.clone())
    given["x"].zero_()
    given["label"][0] = 9  # of one image: the labels are no views of one number
    assert given["label"].tolist() == [9, 3, 3, 3, 3]
    given["scale"].add_(1)
    given["names"].append("e")
    given["log"].append("called")
    del given["label"]
    same(condition.batch_with(OTHERS), before)


def test_the_same_image_is_no_condition_and_never_the_truth():
    """Where the batch holds the input again as its target, the target would tell the model what is to be recovered."""
    for target in (IMAGES, IMAGES.clone(), IMAGES[:]):
        given = conditions_of((IMAGES, target), [0])[0].batch_with(OTHERS)
        assert torch.equal(given[1], OTHERS)
        assert given[1] is not given[0]
    black = torch.zeros(2, 1, 2, 3)
    mask = conditions_of((black, torch.zeros(2, 1, 2, 3)), [0])[0].batch_with(OTHERS)[1]
    assert not mask.any(), "a black image equals an empty mask, which is another thing"


def test_conditions_differ_in_whatever_is_not_the_image():
    def condition(**more):
        return Condition({"x": IMAGES[:1], **more}, ["x"])

    different = [
        condition(), condition(a=1), condition(a=True), condition(a=1.0), condition(a="1"), condition(a=None),
        condition(a=b"1"), condition(a=[]), condition(a=()), condition(a={}), condition(b=1), condition(a=[1, 2]),
        condition(a=torch.tensor([1])), condition(a=torch.tensor([1.0])), condition(a=torch.tensor(1)),
        condition(a=torch.tensor([[1]])), condition(a=np.array([1])), condition(a=["1"]), condition(a=["1", ""]),
        condition(a=[["1"], ""]), condition(a=lambda: 0), condition(a=lambda: 0), condition(a=float("inf")),
        Condition((IMAGES[:1],), [0]), Condition([IMAGES[:1]], [0]), Condition((IMAGES[:1], 1), [0]),
        Condition((1, IMAGES[:1]), [1]), condition(a=torch.rand(2, 3).to_sparse()), condition(a=Named(1, "a")),
        condition(a=Named(2, "a")), condition(a=Named(2, "b")), condition(a=with_more(1)), condition(a=with_more(2)),
        condition(a=SimpleNamespace(n=1)), condition(a=SimpleNamespace(n=2)), condition(a=SimpleNamespace(m=2)),
    ]  # fmt: skip
    for number, one in enumerate(different):
        for other in different[:number]:
            assert one != other, (one, other)
    assert condition() != "a condition"
    shared = lambda: 0  # noqa: E731 - what cannot be pickled
    assert condition(a=shared) == condition(a=shared)
    assert condition(a=float("nan")) == condition(a=float("nan"))


def test_conditions_can_be_pickled():
    condition = conditions_of({"x": IMAGES, "y": torch.tensor(LABELS), "n": list("aabb")}, ["x"])[1]
    again = pickle.loads(pickle.dumps(condition))
    assert again == condition
    assert hash(again) == hash(condition)
    same(again.batch_with(OTHERS), condition.batch_with(OTHERS))


class Unpacking:
    """Gives images that it does not hold: whatever were put there would not reach the model."""

    def __init__(self, data, labels):
        self.labels, self.data = labels, data

    def __getitem__(self, index):
        return self.data * 1

    @property
    def image(self):
        return self.data


class Keyed:
    """Has an attribute of the name of an item that is something else."""

    def __init__(self, data):
        self.image, self.data = data.clone(), data

    def keys(self):
        return ["image"]

    def __getitem__(self, key):
        return self.data


def test_images_that_cannot_be_replaced_are_refused():
    with pytest.raises(ValueError, match="the image cannot be replaced within the batch, a Keyed"):
        conditions_of(Keyed(IMAGES), ["image"])
    unpacking = Unpacking(IMAGES, torch.tensor(LABELS))
    assert len(conditions_of(unpacking, ["data"])) == 4
    for path in ([0], ["image"]):
        with pytest.raises(ValueError, match="the image cannot be replaced within the batch, a Unpacking") as error:
            conditions_of(unpacking, path)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"image_key=\[1\]: the batch has a int there, not a tensor of images"):
        conditions_of((IMAGES, 3), [1])
    with pytest.raises(ValueError, match=r"image_key=\['y'\] is not in"):
        conditions_of({"x": IMAGES}, ["y"])


def test_a_list_of_as_many_columns_as_there_are_images():
    """Two columns of a batch of two are not the images' rows; two names are."""
    columns = [torch.tensor([3, 5]), torch.tensor([0.5, 0.25])]
    given = conditions_of({"x": IMAGES[:2], "y": columns, "z": ["a", "b"]}, ["x"])[1].batch_with(OTHERS)
    assert [column.tolist() for column in given["y"]] == [[5] * 5, [0.25] * 5]
    assert given["z"] == ["b"] * 5


def test_a_batch_that_contains_itself_ends():
    batch = {"x": IMAGES[:2], "y": torch.tensor([1, 2])}
    batch["self"] = SimpleNamespace(batch=batch)
    assert conditions_of(batch, ["x"])[0].batch_with(OTHERS)["y"].tolist() == [1] * 5
