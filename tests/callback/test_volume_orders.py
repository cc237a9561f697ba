"""Volumes and signals as a model sees them, and back; what their files are called."""

from types import SimpleNamespace

import pytest
import torch

from lightning_memaudit.callback.reading.image_names import name_in
from lightning_memaudit.callback.seen import Normalization, Seen


@pytest.mark.parametrize("shape", [(3, 9), (3, 4, 5, 6)])
@pytest.mark.parametrize(
    "settings", [{}, {"channels_last": True}, {"flat": True}, {"channels_last": True, "flat": True}]
)
def test_an_image_of_any_axes_comes_back(shape, settings):
    images = torch.rand(2, *shape)
    seen = Seen(Normalization([0.5, 0.4, 0.3], [0.25, 0.5, 0.125]), **settings)
    given = seen.apply(images)
    expected = (images.movedim(1, -1) - torch.tensor([0.5, 0.4, 0.3])) / torch.tensor([0.25, 0.5, 0.125])
    expected = expected if settings.get("channels_last") else expected.movedim(-1, 1)
    torch.testing.assert_close(given, expected.flatten(1) if settings.get("flat") else expected)
    torch.testing.assert_close(seen.undo(given, images), images)


@pytest.mark.parametrize("data_range", [(-1000, 3000), (0, 255), (-1, 1)])
def test_a_range_is_an_affine_map(data_range):
    low, high = data_range
    normalization = Normalization.of_range(data_range)
    values = torch.linspace(low, high, 7).view(1, 1, 7)
    torch.testing.assert_close(normalization.undo(values), torch.linspace(0, 1, 7).view(1, 1, 7), atol=1e-6, rtol=0)
    torch.testing.assert_close(normalization.apply(normalization.undo(values)), values, atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (([1, 0],), r"data_range=\[1, 0\]: give the lowest and the highest"),
        (([0, float("inf")],), "data_range="),
        (([0],), "data_range="),
        (([0, 1], [0.5]), "says the same as mean and std; pass one of them"),
    ],
)
def test_a_range_that_is_none_is_one_line(given, message):
    with pytest.raises(ValueError, match=message):
        Normalization.of_range(*given)


def test_a_volume_with_its_axes_in_another_order_is_refused():
    images = torch.rand(2, 3, 4, 5, 6)
    with pytest.raises(ValueError, match=r"returns this output \.permute\(0, 4, 1, 2, 3\)"):
        Seen().undo(images.movedim(1, -1), images)
    with pytest.raises(ValueError, match="may be in another order"):
        Seen().undo(torch.rand(2, 8, 45), images)


@pytest.mark.parametrize("key", ["image", [0, "image"]])
def test_of_several_files_of_an_item_the_images_own_names_it(key):
    files = {name: SimpleNamespace(_meta={"filename_or_obj": f"{name}.nii"}) for name in ("label", "image")}
    assert name_in(files, key) == "image.nii"
    older = {"label_meta_dict": {"filename_or_obj": "label.nii"}, "image_meta_dict": {"filename_or_obj": "image.nii"}}
    assert name_in({"label": 0, "image": 0, **older}, key) == "image.nii"
