"""How a module is called as an autoencoder: outputs, ranges, shapes, precision, and how many images at once."""

import pytest
import torch
from fault_workers import raising
from lightning.pytorch import Trainer
from torch import nn
from torch.utils.data import DataLoader
from training_runs import Items, Module, audit_callback, fit, images, saved_truth

from lightning_memaudit.callback.caller import Caller
from lightning_memaudit.callback.keys import select
from lightning_memaudit.callback.model import HalvingBatches, ModelCall, ModuleAutoencoder
from lightning_memaudit.callback.seen import Normalization, Seen
from lightning_memaudit.measurement.processes import Processes

pytestmark = [
    pytest.mark.usefixtures("without_report", "reads_here"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*", "ignore:.*exists and is not empty.*"),
]


class Variational(Module):
    def forward(self, x):
        mean = x.flatten(1)[:, :4]
        return x * self.weight, mean, torch.zeros_like(mean)

    def as_dict(self, x):
        return {"loss": 0.0, "out": {"x_hat": x * self.weight}}

    def of_flat(self, x):
        assert x.ndim == 2
        return x * self.weight

    def of_symmetric(self, x):
        assert float(x.min()) < -0.5
        return x * self.weight

    def in_place(self, x):
        return x.mul_(self.weight)

    def half(self, x):
        return (x * self.weight).half()


@pytest.mark.parametrize(
    ("arguments", "weight"),
    [
        ({"output": 0}, 1.0),
        ({"reconstruct": "as_dict", "output": ["out", "x_hat"]}, 1.0),
        ({"reconstruct": "of_flat", "flatten": True}, 1.0),
        ({"reconstruct": "of_symmetric", "mean": [0.5], "std": [0.5]}, 1.0),
        ({"reconstruct": "in_place"}, 0.5),
        ({"reconstruct": "half"}, 1.0),
        ({"reconstruct": lambda module, x: x * module.weight}, 0.5),
    ],
)
def test_models(arguments, weight):
    """The loss tells whether f was called as it should: it is that of ``weight * x`` in the model's range."""
    module = Variational()
    nn.init.constant_(module.weight, weight)
    members = images(4)
    data = members * 2 - 1 if "mean" in arguments else members
    callback = audit_callback(at_epochs=[0], at_fit_end=False, **arguments)
    fit(callback, module, DataLoader(Items(data), 2), DataLoader(Items(data.flip(3)), 2))
    expected = float(((1 - weight) * members).square().mean())
    assert callback.last_report.headline["train_loss"] == pytest.approx(expected, rel=1e-3, abs=1e-6)
    assert torch.allclose(saved_truth(), members, atol=1e-6), "the images themselves were changed"


def test_normalization_is_undone_and_applied():
    images = torch.rand(2, 3, 4, 4)
    normalization = Normalization([0.5, 0.4, 0.3], [0.2, 0.3, 0.4])
    torch.testing.assert_close(normalization.undo(normalization.apply(images)), images)
    torch.testing.assert_close(normalization.apply(images)[:, 1], (images[:, 1] - 0.4) / 0.3)
    with pytest.raises(ValueError, match="std"):
        Normalization(std=[0.0])
    with pytest.raises(ValueError, match="2 values for images of 3 channels"):
        Normalization(mean=[0.5, 0.5]).apply(images)


def test_outputs_are_selected_by_index_key_or_attribute():
    images = torch.rand(2, 1, 4, 4)
    calls = {
        1: lambda x: (0, x),
        "reconstruction": lambda x: {"reconstruction": x},
        "sample": lambda x: type("Output", (), {"sample": x})(),
    }
    for output, call in calls.items():
        assert torch.equal(ModuleAutoencoder(call, output)(images), images)
    assert torch.equal(ModuleAutoencoder(lambda x: x, seen=Seen(flat=True))(images), images)
    with pytest.raises(ValueError, match="selects nothing"):
        select({"a": 1}, "b", "output")


def test_half_the_images_at_once_is_tried_until_they_fit():
    sizes = []

    def call(images):
        sizes.append(len(images))
        if len(images) > 3:
            raise torch.OutOfMemoryError("no")
        return images * 2

    halving = HalvingBatches(call)
    images = torch.rand(13, 1, 2, 2)
    with pytest.warns(UserWarning, match="out of memory with 13 images") as caught:
        assert torch.equal(halving(images), images * 2)
    assert len(caught) == 1
    assert sizes == [13, 6, 3, 3, 3, 3, 1]
    sizes.clear()
    halving(images)
    assert sizes == [3, 3, 3, 3, 1], "remembered"
    with pytest.raises(ValueError, match="other"):
        HalvingBatches(raising(ValueError("other")))(images)


class Doubles(Module):
    """Makes tensors of its own, of the type that the run has set."""

    def forward(self, x):
        assert torch.zeros(1).dtype == torch.float64
        return x * self.weight


@pytest.fixture
def in_double_precision():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("in_double_precision")
def test_whatever_type_of_numbers_a_run_has_set_audits_work_in_32_bits_and_its_model_in_its_own():
    caller = Caller(Trainer(accelerator="cpu", logger=False), Doubles(), ModelCall(), Processes())
    with caller.calling() as (call, _):
        call(images(1))  # asks for the run's own
        of_audit = torch.get_default_dtype()
    assert of_audit == torch.float32
    assert torch.get_default_dtype() == torch.float64


@pytest.mark.usefixtures("in_double_precision")
def test_a_run_that_has_set_another_type_of_numbers_for_all_is_audited_alike():
    callback = audit_callback(methods=["blind", "biharmonic"])
    fit(callback, Doubles().double(), DataLoader(images(6).double(), 3), DataLoader(images(6, 1).double(), 3))
    assert len(callback.last_report.rows) == 4
    assert torch.equal(saved_truth(), images(6).float())
    assert torch.get_default_dtype() == torch.float64
