"""The paper's data sets, from small files in their real formats."""

import hashlib
import pickle

import numpy as np
import pytest
import torch
from data_modules import everything, set_up
from PIL import Image
from scipy.io import savemat
from torchvision import datasets

from lightning_memaudit.training.datasets import Cifar10DataModule, SvhnDataModule, TinyImageNetDataModule


def random_pixels(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def sorted_rows(images):
    rows = images.flatten(1)
    return rows[rows.sum(1).argsort()]


@pytest.fixture
def cifar10(tmp_path, monkeypatch):
    """Batches of 8 images in CIFAR-10's format; torchvision's checks stay on, with the checksums of these files."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    pixels = random_pixels(6, 8, 3 * 32 * 32)
    names = [name for name, _ in datasets.CIFAR10.train_list + datasets.CIFAR10.test_list]
    for name, batch in zip(names, pixels, strict=True):
        (folder / name).write_bytes(pickle.dumps({"data": batch, "labels": [0] * 8}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["only"]}))
    for part in ("train_list", "test_list"):
        files = [[name, md5(folder / name)] for name, _ in getattr(datasets.CIFAR10, part)]
        monkeypatch.setattr(datasets.CIFAR10, part, files)
    meta = datasets.CIFAR10.meta | {"md5": md5(folder / "batches.meta")}
    monkeypatch.setattr(datasets.CIFAR10, "meta", meta)
    images = torch.from_numpy(pixels).view(6, 8, 3, 32, 32).float() / 255
    return tmp_path, images[:5].flatten(0, 1), images[5]


def test_cifar10_members_are_its_training_images_and_controls_its_test_images(cifar10):
    root, train, test = cifar10
    module = set_up(Cifar10DataModule(root, num_train="all", num_controls=8))
    assert torch.equal(sorted_rows(everything(module.train_dataset)), sorted_rows(train))
    assert torch.equal(sorted_rows(everything(module.control_dataset)), sorted_rows(test))
    for dataset, original in ((module.train_dataset, train), (module.control_dataset, test)):
        assert torch.equal(everything(dataset), original[[int(name) for name in dataset.names]])
    few = set_up(Cifar10DataModule(root, num_train=10, num_controls=8))
    assert torch.equal(everything(few.train_dataset), everything(module.train_dataset)[:10])


def test_a_damaged_file_is_refused(cifar10):
    root, *_ = cifar10
    with (root / "cifar-10-batches-py" / "data_batch_3").open("ab") as file:
        file.write(b"x")
    with pytest.raises(FileNotFoundError, match="missing there or damaged"):
        set_up(Cifar10DataModule(root))


def test_an_exact_duplicate_across_the_split_is_left_out(cifar10, monkeypatch):
    root, train, test = cifar10
    folder = root / "cifar-10-batches-py"
    name = "data_batch_1"
    batch = pickle.loads((folder / name).read_bytes())
    batch["data"][0] = (test[3] * 255).round().byte().flatten().numpy()
    (folder / name).write_bytes(pickle.dumps(batch))
    files = [[one, md5(folder / one)] for one, _ in datasets.CIFAR10.train_list]
    monkeypatch.setattr(datasets.CIFAR10, "train_list", files)
    module = set_up(Cifar10DataModule(root, num_train="all", num_controls=8))
    assert len(module.train_dataset) == len(train) - 1


@pytest.fixture
def svhn(tmp_path, monkeypatch):
    """A file of 400 images in SVHN's format; the last value of each image counts its place in the file."""
    pixels = random_pixels(32, 32, 3, 400)
    pixels[-1, -1, 0] = np.arange(400) // 256
    pixels[-1, -1, 1] = np.arange(400) % 256
    savemat(tmp_path / "train_32x32.mat", {"X": pixels, "y": np.ones((400, 1), dtype=np.uint8)})
    url, name, _ = datasets.SVHN.split_list["train"]
    split_list = datasets.SVHN.split_list | {"train": [url, name, md5(tmp_path / name)]}
    monkeypatch.setattr(datasets.SVHN, "split_list", split_list)
    return tmp_path, torch.from_numpy(pixels).permute(3, 2, 0, 1).float() / 255


def places(dataset):
    corner = (everything(dataset)[:, :2, -1, -1] * 255).round().long()
    return corner[:, 0] * 256 + corner[:, 1]


@pytest.mark.parametrize("seed", range(8))
def test_svhn_keeps_members_away_from_controls_in_the_file(svhn, seed):
    root, images = svhn
    module = set_up(SvhnDataModule(root, num_train="all", num_controls=10, gap=15, seed=seed))
    members, controls = places(module.train_dataset), places(module.control_dataset)
    assert [int(name) for name in module.train_dataset.names] == members.tolist()
    assert [int(name) for name in module.control_dataset.names] == controls.tolist()
    assert torch.equal(everything(module.train_dataset), images[members])
    assert torch.equal(everything(module.control_dataset), images[controls])
    distance = (members[:, None] - controls).abs()
    assert int(distance.min()) > 15
    between = [(int(controls.min()) < members) & (members < int(controls.max()))]
    assert not torch.cat(between).any(), "the controls' part is contiguous"
    assert len(members) >= 400 - 40 - 2 * 15
    few = set_up(SvhnDataModule(root, num_train=20, num_controls=10, gap=15, seed=seed))
    assert torch.equal(places(few.train_dataset), members[:20])


@pytest.fixture
def tiny_imagenet(tmp_path):
    """Three classes of four pictures each, one of them grey, as some of Tiny ImageNet are."""
    root = tmp_path / "tiny-imagenet-200"
    expected = {}
    pixels = iter(random_pixels(20, 64, 64, 3))
    for part, folders in (("train", ["n01/images", "n02/images", "n03/images"]), ("val", ["images"])):
        expected[part] = []
        for folder in folders:
            (root / part / folder).mkdir(parents=True)
            for number in range(4):
                picture = Image.fromarray(next(pixels))
                path = root / part / folder / f"{folder[:3]}_{number}.JPEG"
                (picture.convert("L") if number == 0 else picture).save(path, "JPEG")
                expected[part].append(np.asarray(Image.open(path).convert("RGB")))
    (root / "train" / "n01" / "n01_boxes.txt").write_text("n01_0.JPEG\t0\t0\t63\t63\n")
    (root / "val" / "val_annotations.txt").write_text("ima_0.JPEG\tn01\t0\t0\t63\t63\n")
    (root / "test" / "images").mkdir(parents=True)
    stacked = {
        part: torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255 for part, images in expected.items()
    }
    return tmp_path, stacked


@pytest.mark.parametrize("inside", [False, True])
def test_tiny_imagenet_from_its_folders(tiny_imagenet, inside):
    root, expected = tiny_imagenet
    folder = root / "tiny-imagenet-200"
    root = folder if inside else root
    module = set_up(TinyImageNetDataModule(root, num_train="all", num_controls=4))
    assert torch.equal(sorted_rows(everything(module.train_dataset)), sorted_rows(expected["train"]))
    assert torch.equal(sorted_rows(everything(module.control_dataset)), sorted_rows(expected["val"]))
    for part, dataset in (("train", module.train_dataset), ("val", module.control_dataset)):
        for index, name in enumerate(dataset.names):
            stored = np.array(Image.open(folder / part / name).convert("RGB"))
            assert torch.equal(dataset[index], torch.from_numpy(stored).permute(2, 0, 1).float() / 255)


def test_a_damaged_picture_of_tiny_imagenet_is_named(tiny_imagenet):
    root, _ = tiny_imagenet
    damaged = root / "tiny-imagenet-200" / "train" / "n02" / "images" / "n02_3.JPEG"
    damaged.write_bytes(damaged.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"n02_3.JPEG cannot be read as a picture \(.+\); mend or remove it"):
        set_up(TinyImageNetDataModule(root, num_train="all", num_controls=4))


@pytest.mark.parametrize("kind", [Cifar10DataModule, SvhnDataModule, TinyImageNetDataModule])
def test_a_missing_data_set_is_one_line_with_the_mend(tmp_path, kind):
    with pytest.raises(FileNotFoundError, match="root=") as error:
        set_up(kind(tmp_path))
    message = str(error.value)
    assert "\n" not in message
    assert str(tmp_path) in message
    assert "download" in message or "unpack" in message
