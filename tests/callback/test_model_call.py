"""What reconstructs, found by name, import path or function, given images or the run's own batch; and bad outputs."""

import functools
from collections import OrderedDict
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from training_runs import Items, Module, audit_callback, fit, images

from lightning_memaudit.callback.conditions import conditions_of
from lightning_memaudit.callback.model import ConditionalAutoencoder, ModelCall, ModuleAutoencoder, takes_batch
from lightning_memaudit.callback.seen import Normalization, Seen

IMAGES = images(6)


def reconstruct(module, images):
    return {"out": images * module.weight}


class Conditional(nn.Module):
    """Every label has a factor of its own."""

    def __init__(self):
        super().__init__()
        self.factors = nn.Embedding(3, 1)
        nn.init.constant_(self.factors.weight, 0)
        self.factors.weight.data += torch.tensor([[0.25], [0.5], [0.75]])

    def forward(self, x, label):
        return x * self.factors(label).view(-1, 1, 1, 1)

    def from_batch(self, batch):
        x, label = batch
        return self(x, label)

    def of_images(self, x, batch=None):
        return x

    def tensor_called_batch(self, images, /):
        return images


def of_pair(module, batch):
    return module(*batch)


@pytest.fixture
def my_calls(tmp_path, monkeypatch):
    """A file of the user's, where Python finds it."""
    (tmp_path / "my_calls.py").write_text(
        "def half(module, images):\n    return {'out': images * module.weight}\n\n\n"
        "def decoded(returned):\n    return returned['out']\n\n\n"
        "def of_pair(module, batch):\n    return module(*batch)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("without_report", "my_calls")
def test_import_paths_and_functions_as_keys_in_a_run():
    module = Module(unwrap=lambda batch: batch["x"])
    nn.init.constant_(module.weight, 0.5)
    callback = audit_callback(
        at_epochs=[0],
        at_fit_end=False,
        reconstruct="my_calls.half",
        output="my_calls.decoded",
        image_key={"members": lambda item: item["x"], "controls": 1},
    )
    controls = Items(IMAGES.flip(3), lambda image: (0, image))
    fit(callback, module, DataLoader(Items(IMAGES, lambda image: {"x": image}), 2), DataLoader(controls, 2))
    expected = float((0.5 * IMAGES).square().mean())
    assert callback.last_report.headline["train_loss"] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("decode", "reconstruct='decode': Conditional has no such method; name one that returns the reconstruction"),
        ("factors.weight", "reconstruct='factors.weight': no function can be imported from there, and Conditional has"),
        ("my_calls.nothing", "reconstruct='my_calls.nothing': no function can be imported from there"),
        ("torch.pi", "pass <module>.<function (module, images)>"),
        ("training", "Conditional has no such method"),
    ],
)
@pytest.mark.usefixtures("my_calls")
def test_what_cannot_be_called_is_one_line(name, words):
    for call in (ModelCall(name).bind, ModelCall(name).takes_batch):
        with pytest.raises(ValueError, match=r".") as error:
            call(Conditional())
        assert words in str(error.value)
        assert "\n" not in str(error.value)


class Caller:
    def __call__(self, module, batch):
        return module(*batch)

    def method(self, module, batch):
        return module(*batch)


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("forward", False), ("from_batch", True), ("of_images", False), ("tensor_called_batch", False),
        ("my_calls.of_pair", True), ("my_calls.half", False), (of_pair, True), (reconstruct, False),
        (Caller(), True), (Caller().method, True), (functools.partial(of_pair), True), (torch.mul, False),
        (lambda module, images, batch=None: images, False), (lambda module, *batch: batch, False),
        (lambda batch, images: images, False), (functools.wraps(of_pair)(lambda *given: of_pair(*given)), True),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("my_calls")
def test_who_takes_a_batch(what, expected):
    assert ModelCall(what).takes_batch(Conditional()) is expected
    if callable(what):
        assert takes_batch(what) is expected


def test_a_forward_pass_gets_images_whatever_it_calls_them():
    class Forward(Module):
        def forward(self, batch):
            return batch * self.weight

    assert not ModelCall().takes_batch(Forward())
    assert takes_batch(Forward().forward), "asked alone, it is a method like any other"
    assert takes_batch(Conditional().from_batch)


@pytest.mark.parametrize("what", [of_pair, "my_calls.of_pair", "from_batch"])
@pytest.mark.parametrize("most", [2, 100])
@pytest.mark.usefixtures("my_calls")
def test_conditional_models_get_batches_of_one_label(what, most):
    """Equal to the brute force: every image alone, with its label. ``most`` images fit the memory."""
    module, labels = Conditional(), torch.tensor([0, 2, 1, 0, 2, 0])
    how = ModelCall(what, normalization=Normalization([0.5], [0.25]))
    sizes = []

    def limited(batch):
        sizes.append(len(batch[0]))
        if sizes[-1] > most:
            raise torch.OutOfMemoryError("no")
        return call(batch)

    call = how.bind(module)
    autoencoder = how.autoencoder(limited, conditional=how.takes_batch(module))
    seen = Seen(how.normalization)
    conditions = conditions_of((seen.apply(IMAGES), labels), [0])
    with torch.no_grad():
        for condition in set(conditions):
            rows = [row for row, one in enumerate(conditions) if one == condition]
            if most == 2 and len(rows) > most and autoencoder.most_images is None:
                with pytest.warns(UserWarning, match="out of memory"):
                    result = autoencoder.given(condition)(IMAGES[rows])
            else:
                result = autoencoder.given(condition)(IMAGES[rows])
            for row, image in zip(rows, result, strict=True):
                expected = (IMAGES[row] - 0.5) / 0.25 * [0.25, 0.5, 0.75][labels[row]] * 0.25 + 0.5
                torch.testing.assert_close(image, expected)
    assert sizes.count(3) == 1, "what was learned of the memory holds for all conditions"


@pytest.mark.usefixtures("my_calls")
def test_a_conditional_model_cannot_be_called_without_its_condition():
    for what in (of_pair, "my_calls.of_pair"):
        autoencoder = ModelCall(what).autoencoder(lambda batch: batch[0])  # known without the module
        with pytest.raises(ValueError, match="reconstruct takes a batch") as error:
            autoencoder(IMAGES)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="reconstruct takes a batch"):
        ConditionalAutoencoder(lambda batch: batch[0])(IMAGES)


def test_the_settings_say_what_is_seen_unless_it_is_known():
    shapes, dtypes = [], []

    def call(x):
        shapes.append(tuple(x.shape))
        dtypes.append(x.dtype)
        return x

    assert torch.equal(ModelCall(flatten=True).autoencoder(call)(IMAGES), IMAGES)
    assert torch.equal(ModelCall(flatten=True).autoencoder(call, Seen(dtype=torch.float64))(IMAGES), IMAGES)
    assert torch.equal(ModelCall().autoencoder(call, Seen(channels_last=True))(IMAGES), IMAGES)
    assert torch.equal(ModelCall().autoencoder(call, Seen(flat=True))(IMAGES), IMAGES)
    assert shapes == [(6, 64), (6, 64), (6, 8, 8, 1), (6, 64)]
    assert dtypes == [torch.float32, torch.float64, torch.float32, torch.float32]
    known = ModelCall(normalization=Normalization([0.5])).autoencoder(lambda x: x * 0, Seen(Normalization([0.125])))
    assert known(IMAGES).unique().item() == 0.125


def test_a_double_module_gets_doubles():
    module = nn.Conv2d(1, 1, 3, padding=1).double()
    with torch.no_grad():
        result = ModelCall().autoencoder(module, Seen(dtype=torch.float64))(IMAGES)
        assert result.dtype == torch.float32
        torch.testing.assert_close(result, module(IMAGES.double()).float())


class Output(OrderedDict):
    pass


@dataclass
class Fields:
    code: Tensor
    image: Tensor


def token(x):
    return x.reshape(len(x), 4, 16)


@pytest.mark.parametrize(
    ("call", "more", "end"),
    [
        (lambda x: (x.mean(), x * 2), {}, ", such as 1"),
        (lambda x: (x, x * 2), {}, ", such as 1"),
        (lambda x: (x.clone(), x * 2), {}, ", such as 1"),
        (lambda x: (x.clone(), x.add_(1), x * 2), {}, ", such as 2"),
        (lambda x: [x * 2, x * 3], {}, ", such as 0 or 1"),
        (lambda x: {"loss": x.mean(), "recon": x * 2}, {}, ", such as 'recon'"),
        (lambda x: {"out": {"x": x, "recon": x * 2}}, {"output": "out"}, ", such as ['out', 'recon']"),
        (lambda x: Output(loss=x.mean(), logits=token(x), pixels=x * 2), {}, ", such as 'pixels'"),
        (lambda x: Fields(x.mean(), x * 2), {}, ", such as 'image'"),
        (lambda x: SimpleNamespace(sample=x * 2, _cache=x * 3), {}, ", such as 'sample'"),
        (lambda x: (x.mean(), x * 2), {"seen": Seen(flat=True)}, ", such as 1"),
        (lambda x: (x.mean(), x.view(-1, 1, 8, 8) * 2), {"seen": Seen(flat=True)}, ", such as 1"),
        (lambda x: (x, x * 2), {"seen": Seen(Normalization([0.5]), channels_last=True)}, ", such as 1"),
        (lambda x: Output(loss=x.mean(), logits=token(x)), {}, ", or reconstruct=<function (module, images)>"),
        (lambda x: (x, x.flatten(1) * 2), {}, ", or reconstruct=<function"),
        (lambda x: "text", {}, ", or reconstruct=<function"),
        (lambda x: None, {}, ", or reconstruct=<function"),
    ],
)  # fmt: skip
def test_only_what_may_be_the_reconstruction_is_suggested(call, more, end):
    with pytest.raises(ValueError, match="not a tensor: pass output=<index, key or attribute>") as error:
        ModuleAutoencoder(call, **more)(IMAGES)
    text = str(error.value)
    assert text.partition(" of the reconstruction")[2].startswith(end)
    assert text.endswith(end) or "or reconstruct" in end
    assert "\n" not in text


@pytest.mark.usefixtures("without_report")
def test_a_run_whose_model_returns_another_layout_stops_before_its_first_step():
    class Layout(Module):
        def forward(self, x):
            return (x * self.weight).permute(0, 2, 3, 1)

    class Patches(Module):
        def forward(self, x):
            return SimpleNamespace(loss=x.mean(), logits=(x * self.weight).reshape(len(x), 4, -1))

    members = images(4, shape=(3, 8, 8))
    loaders = DataLoader(Items(members), 2), DataLoader(Items(members.flip(3)), 2)
    for module, arguments, words in (
        (Layout(), {}, r"permute\(0, 3, 1, 2\)"),
        (Patches(), {"output": "logits"}, "as those of patches are"),
    ):
        with pytest.raises(ValueError, match=words):
            fit(audit_callback(**arguments), module, *loaders)
        assert module.weight.item() == pytest.approx(0.9), "not one step"
