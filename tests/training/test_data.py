"""Data modules: members and controls are disjoint, seeded, of one size, and what the files hold."""

import os
import warnings

import numpy as np
import pytest
import torch
from data_modules import everything, set_up
from PIL import Image
from skimage.data import lfw_subset
from torch.utils.data import Subset

from lightning_memaudit.training.data import FacesDataModule, ImagesDataModule
from lightning_memaudit.training.images import ImageDataModule, ImageTensorDataset
from lightning_memaudit.training.pictures import PictureFolder


def test_faces_are_real_faces_disjoint_and_in_range():
    module = set_up(FacesDataModule())
    members, controls = everything(module.train_dataset), everything(module.control_dataset)
    assert members.shape == controls.shape == (50, 1, 25, 25)
    assert 0 <= float(members.min()) < 0.1
    assert 0.9 < float(members.max()) <= 1
    distances = torch.cdist(members.flatten(1), controls.flatten(1))
    assert float(distances.min()) > 1.0
    assert module.num_near_duplicates == 0


def test_more_members_keep_the_fewer_and_the_controls():
    few, many = set_up(FacesDataModule(num_train=10)), set_up(FacesDataModule(num_train=50))
    assert torch.equal(everything(few.train_dataset), everything(many.train_dataset)[:10])
    assert torch.equal(everything(few.control_dataset), everything(many.control_dataset))
    other = set_up(FacesDataModule(seed=1))
    assert not torch.equal(everything(other.train_dataset), everything(many.train_dataset))


def test_all_takes_what_is_not_kept_for_controls():
    module = set_up(FacesDataModule(num_train="all", num_controls=20))
    # A few of the faces are there twice; a duplicate is never used.
    assert 70 <= len(module.train_dataset) <= 80
    both = torch.cat([everything(module.train_dataset), everything(module.control_dataset)])
    assert len(torch.unique(both.flatten(1), dim=0)) == len(both)


def test_batches_are_the_members_in_a_new_order_every_epoch():
    module = set_up(FacesDataModule(num_train=12, batch_size=5))
    loader = module.train_dataloader()
    first, second = torch.cat(list(loader)), torch.cat(list(loader))
    assert [len(batch) for batch in loader] == [5, 5, 2]
    assert not torch.equal(first, second)
    assert torch.equal(first.flatten(1).sum(1).sort().values, second.flatten(1).sum(1).sort().values)
    whole = next(iter(set_up(FacesDataModule(num_train=12)).train_dataloader()))
    assert torch.equal(whole, everything(module.train_dataset))


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (30, 12, 10, 3), dtype=np.uint8)


def test_a_folder_of_pictures_with_subfolders(tmp_path, pixels):
    for index, picture in enumerate(pixels):
        folder = tmp_path / "pictures" / f"{index % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / f"{index}.png")
    (tmp_path / "pictures" / "notes.txt").write_text("not a picture")
    module = set_up(ImagesDataModule(tmp_path / "pictures", num_train=20, num_controls=10))
    found = torch.cat([everything(module.train_dataset), everything(module.control_dataset)])
    expected = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    assert torch.equal(found.flatten(1).sum(1).sort().values, expected.flatten(1).sum(1).sort().values)


@pytest.mark.parametrize("kind", ["HWC", "CHW", "gray", "float", "npz"])
def test_arrays_of_every_layout(tmp_path, pixels, kind):
    expected = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    array = {
        "HWC": pixels,
        "CHW": pixels.transpose(0, 3, 1, 2),
        "gray": pixels[..., 0],
        "float": pixels.astype(np.float64) / 255,
        "npz": pixels,
    }[kind]
    if kind == "npz":
        path = tmp_path / "images.npz"
        np.savez(path, images=array, labels=np.zeros(30))
    else:
        path = tmp_path / "images.npy"
        np.save(path, array)
    module = set_up(ImagesDataModule(path, key="images" if kind == "npz" else None, num_train=20, num_controls=10))
    found = torch.cat([everything(module.train_dataset), everything(module.control_dataset)])
    if kind == "gray":
        expected = expected[:, :1]
    assert found.shape[1:] == expected.shape[1:]
    torch.testing.assert_close(found.flatten(1).sum(1).sort().values, expected.flatten(1).sum(1).sort().values)


def test_pictures_are_resized_to_cover_and_cropped(tmp_path):
    wide = np.zeros((20, 60, 3), dtype=np.uint8)
    wide[:, 20:40] = 255  # the middle is white
    for index in range(4):
        wide[:, 30] = 255 - 3 * index  # no two alike
        Image.fromarray(wide).save(tmp_path / f"{index}.png")
    module = set_up(ImagesDataModule(tmp_path, num_train=2, num_controls=2, image_size=10, grayscale=True))
    image = module.train_dataset[0]
    assert image.shape == (1, 10, 10)
    assert float(image[:, :, 1:-1].mean()) > 0.98, "the middle is what stays"


def test_duplicates_never_reach_both_groups(tmp_path, pixels):
    np.save(tmp_path / "images.npy", np.concatenate([pixels[:10], pixels[:10], pixels[10:20]]))
    module = set_up(ImagesDataModule(tmp_path / "images.npy", num_train=10, num_controls=10))
    members = {image.numpy().tobytes() for image in everything(module.train_dataset)}
    controls = {image.numpy().tobytes() for image in everything(module.control_dataset)}
    assert len(members) == len(controls) == 10
    assert not members & controls


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: FacesDataModule(num_train=60), "num_train=60"),
        (lambda path: FacesDataModule(num_train=0), "num_train=0"),
        (lambda path: FacesDataModule(num_controls=0), "num_controls=0"),
        (lambda path: FacesDataModule(batch_size=0), "batch_size=0"),
        (lambda path: ImagesDataModule(path / "nowhere"), "there is no such file or folder"),
        (lambda path: ImagesDataModule(path), "no pictures"),
        (lambda path: ImagesDataModule(path / "ints.npy"), "int64"),
        (lambda path: ImagesDataModule(path / "flat.npy"), r"shape \[30, 12\]"),
        (lambda path: ImagesDataModule(path / "bright.npy", num_train=2, num_controls=2), r"scaled to \[0, 1\]"),
        (lambda path: ImagesDataModule(path / "notes.txt"), "neither a folder nor"),
        (lambda path: ImagesDataModule(path / "several.npz"), "key=None"),
    ],
)
def test_bad_data_raises_one_line(tmp_path, make, message):
    np.save(tmp_path / "ints.npy", np.arange(4 * 8 * 8).reshape(4, 8, 8))
    np.save(tmp_path / "flat.npy", np.zeros((30, 12), dtype=np.uint8))
    np.save(tmp_path / "bright.npy", np.random.default_rng(0).uniform(0, 255, (5, 8, 8)))
    np.savez(tmp_path / "several.npz", a=np.zeros(3), b=np.zeros(3))
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        set_up(make(tmp_path))
    assert "\n" not in str(error.value)


def test_each_picture_keeps_its_path_within_the_folder(tmp_path, pixels):
    """Whose name is what, by the content: also through a Subset, and with names that are no UTF-8."""
    stored = {}
    for index, picture in enumerate(pixels):
        file = tmp_path / f"n{index % 3}" / f"katze {index} ü.png"
        if index == 4:
            file = tmp_path / os.fsdecode(b"caf\xe9.png")
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(picture).save(file)
        stored["caf\\xe9.png" if index == 4 else f"n{index % 3}/katze {index} ü.png"] = picture
    module = set_up(ImagesDataModule(tmp_path, num_train=20, num_controls=10))
    found = []
    for dataset in (module.train_dataset, module.control_dataset):
        assert isinstance(dataset.names, list)
        assert len(dataset.names) == len(dataset)
        part = Subset(dataset, [3, 1])
        for place, index in enumerate(part.indices):
            expected = stored[part.dataset.names[index]].transpose(2, 0, 1) / np.float32(255)
            np.testing.assert_array_equal(part[place].numpy(), expected)
        for index, name in enumerate(dataset.names):
            np.testing.assert_array_equal((dataset[index] * 255).round().numpy(), stored[name].transpose(2, 0, 1))
            name.encode("utf-8")
        found += dataset.names
    assert sorted(found) == sorted(stored)


def test_faces_are_named_by_their_place_in_the_original():
    module = set_up(FacesDataModule(num_train=10, num_controls=5))
    for dataset in (module.train_dataset, module.control_dataset):
        for index, name in enumerate(dataset.names):
            assert torch.equal(dataset[index][0], torch.from_numpy(lfw_subset()[int(name)]).float())


def test_images_of_a_tensor_are_named_by_number_unless_names_are_given():
    images = torch.rand(3, 1, 4, 4)
    assert ImageTensorDataset(images).names == ["0", "1", "2"]
    assert ImageTensorDataset(images, ("a", "b", "c")).names == ["a", "b", "c"]
    with pytest.raises(ValueError, match="names: 2 of them for 3 images"):
        ImageTensorDataset(images, ["a", "b"])


class Given(ImageDataModule):
    def __init__(self, pool, **more):
        super().__init__(**more)
        self.pool = pool

    def load(self):
        return self.pool, None


def test_of_duplicates_the_one_that_is_taken_gives_the_name(tmp_path, pixels):
    for index, picture in enumerate(pixels[:4]):
        for copy in "ab":
            Image.fromarray(picture).save(tmp_path / f"{index}{copy}.png")
    module = set_up(Given(PictureFolder(tmp_path), num_train=2, num_controls=2))
    names = module.train_dataset.names + module.control_dataset.names
    assert sorted(name[0] for name in names) == ["0", "1", "2", "3"]


def test_pictures_of_8_and_16_bits_in_one_folder(tmp_path, pixels):
    """They have one scale, and the same picture with 8 and with 16 bits is one picture."""
    gray = pixels[..., 0]
    for index, picture in enumerate(gray[:10]):
        Image.fromarray(picture).save(tmp_path / f"{index}-8.png")
    for index, picture in enumerate(gray[5:15], start=5):
        Image.fromarray(picture.astype(np.uint16) * 257).save(tmp_path / f"{index}-16.png")
    module = set_up(ImagesDataModule(tmp_path, num_train="all", num_controls=5, grayscale=True))
    assert len(module.train_dataset) == 10
    for dataset in (module.train_dataset, module.control_dataset):
        for index, name in enumerate(dataset.names):
            expected = gray[int(name.split("-")[0])] / 255
            np.testing.assert_allclose(dataset[index][0].numpy(), expected, atol=1e-7)


def test_linked_folders_are_followed_and_no_circle_is(tmp_path, pixels):
    for index, picture in enumerate(pixels[:6]):
        file = tmp_path / ("elsewhere" if index < 3 else "here/inside.png") / f"{index}.png"
        file.parent.mkdir(exist_ok=True, parents=True)
        Image.fromarray(picture).save(file)
    (tmp_path / "here" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "here" / "circle").symlink_to(tmp_path / "here")
    pictures = PictureFolder(tmp_path / "here")
    assert pictures.names == [f"inside.png/{index}.png" for index in (3, 4, 5)] + [f"linked/{i}.png" for i in range(3)]


@pytest.mark.parametrize(
    ("images", "dark"),
    [
        (torch.randint(0, 256, (20, 1, 8, 8), dtype=torch.uint8), False),
        (torch.randint(0, 2, (20, 1, 8, 8), dtype=torch.uint8), True),
        (torch.randint(0, 4096, (20, 1, 8, 8)) / 65535, True),
        (torch.rand(20, 1, 8, 8) / 255, True),
        (torch.rand(20, 1, 8, 8) / 5, False),
    ],
)
def test_images_that_use_a_fraction_of_their_type_are_said(images, dark):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        set_up(Given(images, num_train=10, num_controls=5))
    assert any("where 1 is white" in str(one.message) for one in caught) == dark


def test_a_folder_without_pictures_is_named_by_its_argument(tmp_path, pixels):
    np.save(tmp_path / "images.npy", pixels)
    (tmp_path / "none").mkdir()
    with pytest.raises(FileNotFoundError, match=r"control_path='.*none': no pictures in this folder"):
        set_up(ImagesDataModule(tmp_path / "images.npy", tmp_path / "none"))
