"""Images as data sets give them: in tuples, lists, dicts or flat, and none to compare with."""

import pytest
import torch
from torch.utils.data import DataLoader
from training_runs import Items, Module, audit_callback, fit, images, rows, saved_truth

from lightning_memaudit.callback.reading.batch_images import locate

pytestmark = [
    pytest.mark.usefixtures("without_report"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*", "ignore:.*exists and is not empty.*"),
]


@pytest.mark.parametrize(
    ("wrap", "unwrap", "image_key"),
    [
        (lambda x: x, lambda batch: batch, None),
        (lambda x: (x, 3), lambda batch: batch[0], None),
        (lambda x: [x, x.mean()], lambda batch: batch[0], None),
        (lambda x: (3, x), lambda batch: batch[1], 1),
        (lambda x: {"id": 1, "pixels": x}, lambda batch: batch["pixels"], "pixels"),
        (lambda x: {"inputs": (1, {"view": x})}, lambda batch: batch["inputs"][1]["view"], ["inputs", 1, "view"]),
        (lambda x: x.numpy(), lambda batch: batch, None),
    ],
)
def test_batches(wrap, unwrap, image_key):
    members, controls = images(6), images(4, seed=1)
    callback = audit_callback(image_key=image_key)
    fit(callback, Module(unwrap), DataLoader(Items(members, wrap), 2), DataLoader(Items(controls, wrap), 2))
    assert torch.equal(saved_truth(), members)
    assert torch.equal(saved_truth("controls"), controls)


def test_flat_data_sets():
    members = images(4)
    flat, others = Items(members.flatten(1)), Items(members.flatten(1).flip(1))
    fit(audit_callback(image_shape=[1, 8, 8], flatten=True), Module(), DataLoader(flat), DataLoader(others))
    assert torch.equal(saved_truth(), members)


def test_without_controls_it_warns_and_goes_on():
    with pytest.warns(UserWarning, match="controls: no images that were not trained on"):
        fit(audit_callback(), Module(), DataLoader(Items(images(3))))
    assert rows("memaudit", "controls") == []


def test_batches_of_a_data_set_that_hold_an_empty_list_are_read():
    assert locate([images(4), []], None, items=[]) == (0,)


def test_targets_beside_images_that_are_listed_are_said():
    def collate(items):
        return list(items), torch.stack(items).flip(0)

    loaders = [DataLoader(Items(images(4, seed=seed)), 4, collate_fn=collate) for seed in (0, 1)]
    with pytest.warns(UserWarning, match=r"2 different images of one shape, at 0 and 1: .*image_key=1"):
        fit(audit_callback(), Module(lambda batch: torch.stack(batch[0])), *loaders)
    assert torch.equal(saved_truth(), images(4))
