"""Models that keep state in every place but a buffer train to the last bit alike, attached or not; or are named."""

import random
import warnings

import lightning
import numpy as np
import pytest
import torch
from stateful_models import RESTORED, Data, GeneratorFunction, HeldFast, OldCache, forget_calls
from training_runs import audit_callback, trainer_with

pytestmark = pytest.mark.usefixtures("without_report", "reads_here")


def train(kind, *callbacks):
    """All that could differ: weights, optimizer, random states, the module's state and the data module's."""
    forget_calls()
    lightning.seed_everything(1, verbose=False)
    model, data = kind(), Data()
    trainer = trainer_with(*callbacks, max_epochs=3, num_sanity_val_steps=0, check_val_every_n_epoch=2)
    trainer.fit(model, datamodule=data)
    randomness = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    weights = model.state_dict(), trainer.optimizers[0].state_dict()
    return trainer, (weights, randomness, model.state(), repr(data.calls), data.asked)


def plain(value):
    """To be compared by equality: tensors and arrays as bytes."""
    if isinstance(value, torch.Tensor | np.ndarray):
        array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value
        return str(array.dtype), array.shape, array.tobytes()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def audited(kind):
    callback = audit_callback(every_n_epochs=1, at_epochs=[0], num_members=4, num_controls=4, on_error="raise")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _, found = train(kind, callback)
    assert callback._history.num_audits == 4
    return plain(found), [str(one.message) for one in caught if "could not be restored" in str(one.message)]


@pytest.mark.parametrize("kind", RESTORED, ids=lambda kind: kind.__name__)
def test_the_training_and_the_state_are_the_same_to_the_last_bit(kind):
    expected = plain(train(kind)[1])
    found, said = audited(kind)
    assert found == expected
    assert said == []


@pytest.mark.parametrize(
    ("kind", "culprit"),
    [
        (GeneratorFunction, "helper.stream (generator)"),
        (HeldFast, "streams[1] (iterator)"),
        (OldCache, "mask (cache)"),
    ],
)
def test_what_cannot_be_set_back_is_named_in_one_warning(kind, culprit):
    _, said = audited(kind)
    assert len(said) == 1
    assert f"after an audit: {culprit}: the training may differ" in said[0]
