"""Reference models of a run: however they are given, measured as the model is, and no part of the training."""

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from training_runs import Module, audit_callback, fit, images

from lightning_memaudit.callback.reference import TRAINED_ON, check_given, load
from lightning_memaudit.measurement.groups import Group
from lightning_memaudit.measurement.identity import image_hashes
from lightning_memaudit.results.run_folder import RunFolder

pytestmark = pytest.mark.usefixtures("reads_here")

TRAIN, OTHERS = images(6), images(5, seed=1)


class Half(nn.Module):
    """Halves its input."""

    def __init__(self, factor=0.5):
        super().__init__()
        self.register_buffer("factor", torch.tensor(factor))

    def forward(self, x):
        return x * self.factor


def make_half():
    torch.rand(3)  # as initializing weights does
    return Half()


def run(reference, module=None, **options):
    torch.manual_seed(0)
    module = module or Module()
    callback = audit_callback(reference=reference, methods=["autoencoder_iterations"], **options)
    fit(callback, module, torch.utils.data.DataLoader(TRAIN, 2), torch.utils.data.DataLoader(OTHERS, 5))
    return callback, module


def expected(factor, group):
    error = (group - group * factor).square().mean((1, 2, 3))
    return (-10 * error.log10()).tolist()


def reference_psnr(callback, group="members"):
    return [row["reference_psnr"] for row in callback.last_report.images if row["group"] == group]


def saved(weight, path="other.ckpt", **more):
    torch.save({"state_dict": {"weight": torch.tensor(weight)}, "pytorch-lightning_version": "2.6.6", **more}, path)
    return path


@pytest.mark.parametrize("given", ["checkpoint", "state_dict", "import path", "module", "list"])
def test_a_reference_may_be_given_in_several_ways(given):
    reference = {
        "checkpoint": lambda: saved(0.5),
        "state_dict": lambda: torch.save({"weight": torch.tensor(0.5)}, "plain.pt") or "plain.pt",
        "import path": lambda: f"{__name__}.make_half",
        "module": Half,
        "list": lambda: [Half(), saved(0.5)],
    }[given]()
    callback, _ = run(reference)
    assert reference_psnr(callback) == pytest.approx(expected(0.5, TRAIN), rel=1e-4)
    assert reference_psnr(callback, "controls") == pytest.approx(expected(0.5, OTHERS), rel=1e-4)
    said = RunFolder("memaudit").run()["settings"]["reference"]
    assert len(said) == (2 if given == "list" else 1)
    assert all("weights " in one for one in said)


@pytest.mark.parametrize(
    "reference",
    [
        "module",
        pytest.param(f"{__name__}.make_half", marks=pytest.mark.slow),
        pytest.param("checkpoint", marks=pytest.mark.slow),
    ],
)
def test_the_training_is_the_same_to_the_last_bit(reference):
    def trained(reference):
        torch.manual_seed(3)
        module = Module()
        torch.nn.init.normal_(module.weight)
        loader = torch.utils.data.DataLoader(TRAIN, 2, shuffle=True)
        validation = torch.utils.data.DataLoader(OTHERS, 5)
        fit(audit_callback(reference=reference, at_epochs=[0, 1]), module, loader, validation, max_epochs=3)
        return module.weight.detach(), torch.rand(3)

    given = {"module": Half, "checkpoint": lambda: saved(0.5)}.get(reference, lambda: reference)()
    with_it, without = trained(given), trained(None)
    assert all(torch.equal(one, other) for one, other in zip(with_it, without, strict=True))


def test_the_module_that_is_given_stays_what_it_was():
    reference = Half().train()
    for parameter in reference.parameters():
        assert parameter.requires_grad
    run(reference)
    assert reference.training


@pytest.mark.slow
def test_a_reference_is_measured_in_the_first_audit_alone():
    calls = []

    class Counting(Half):
        def forward(self, x):
            calls.append(len(x))
            return super().forward(x)

        def __deepcopy__(self, memo):
            return self

    run(Counting(), at_epochs=[0, 1])
    first = len(calls)
    assert {row["audit"] for row in RunFolder("memaudit").audits()} == {0, 1}
    calls.clear()
    run(Counting(), at_epochs=[0])
    assert len(calls) == first


def test_a_checkpoint_says_what_it_was_trained_on_and_that_is_left_out():
    """The reference is trained on the first controls; these are no strangers to it."""
    fit(
        [audit_callback(dirpath="before"), ModelCheckpoint(dirpath="kept", save_last=True)],
        Module(),
        torch.utils.data.DataLoader(OTHERS[:2], 2),
        torch.utils.data.DataLoader(images(3, seed=7), 3),
    )
    (loaded,) = load("kept/last.ckpt", Module())
    assert loaded.trained_on == set(image_hashes(Group.whole("members", OTHERS[:2])))
    callback, _ = run("kept/last.ckpt")
    assert [one is None for one in reference_psnr(callback, "controls")] == [True, True, False, False, False]
    assert None not in reference_psnr(callback)


def test_state_is_found_only_where_the_callback_has_left_it():
    state = {"callbacks": {"Other": {"best": 1}, "Mine": {TRAINED_ON: ["a"]}}}
    assert load(saved(0.5, **state), Module())[0].trained_on == {"a"}
    assert load(saved(0.5), Module())[0].trained_on == frozenset()


@pytest.mark.parametrize(
    ("reference", "complaint"),
    [
        ("no/such.ckpt", "reference='no/such.ckpt': there is no such file, and nothing to call by that import path"),
        ("torch.no_such_thing", "there is no such file"),
        (3, "reference=3: pass a module, the path"),
        ([], r"reference=\[\]"),
        ({"class_path": "my.Model"}, "pass a module, the path of a checkpoint, an import path"),
    ],
)
def test_what_is_no_reference_is_refused_at_once(reference, complaint):
    with pytest.raises(ValueError, match=complaint):
        list(audit_callback(reference=reference).what.methods)


@pytest.mark.parametrize(
    ("reference", "complaint"),
    [
        (lambda: saved(0.9), "returns the very same as the audited autoencoder"),
        (lambda: saved([0.5, 0.5]), "does not fit the model: size mismatch for weight"),
        (lambda: torch.save([1, 2], "list.pt") or "list.pt", "holds no weights"),
        (
            lambda: torch.save({"weight": Half()}, "object.pt") or "object.pt",
            "unpickling could run code: save",
        ),
        (lambda: "torch.rand", r"reference='torch.rand' fails \(TypeError"),
        (lambda: "builtins.dict", "reference='builtins.dict' returns dict, no module"),
        (lambda: nn.Conv2d(1, 2, 1), r"reference\[0\]: the model returned shape"),
    ],
)
def test_what_cannot_be_used_is_said_before_the_first_step(reference, complaint):
    module = Module()
    with pytest.raises(ValueError, match=complaint):
        run(reference(), module)
    assert module.weight == 0.9


def test_a_copy_of_a_module_leaves_its_trainer_behind():
    _, module = run(None)
    assert module.trainer is not None
    (loaded,) = load(saved(0.5), module)
    assert loaded.module._trainer is None
    assert module.trainer is not None
    check_given(module)
