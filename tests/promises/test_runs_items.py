"""Data sets in the styles of other projects: what an item is, where the image is in it, and what it is called."""

from collections import namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from foreign_parts import RGB, Pictures, Plain, pictures
from foreign_runs import ForeignRun, check, saved_rows
from PIL import Image
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision.transforms import v2
from torchvision.transforms.functional import to_pil_image, to_tensor

pytestmark = pytest.mark.usefixtures("without_report")

GREY = (1, 8, 8)


def run_of(items, shape=GREY, unwrap=lambda batch: batch, collate=None, **more):
    """A run whose data sets are ``items(images)``."""
    members, controls = pictures(shape=shape), pictures(seed=1, shape=shape)
    loaders = [
        DataLoader(items(images), 3, shuffle=not number, collate_fn=collate)
        for number, images in enumerate((members, controls))
    ]
    settings = {"own_output": lambda m, x: m.net(x).view_as(x)} | more
    return ForeignRun(Plain(shape, unwrap), *loaders, members, controls, **settings)


def arrays_of(images):
    """(n, H, W, C) of bytes."""
    return (images * 255).round().byte().permute(0, 2, 3, 1).numpy()


def grey_without_channel():
    return run_of(lambda images: Pictures(images[:, 0]), unwrap=lambda batch: batch[:, None])


def pairs_of_image_and_label():
    return run_of(
        lambda images: TensorDataset(images, torch.arange(len(images))), unwrap=lambda batch: batch[0], names="012345"
    )


def label_before_image():
    return run_of(
        lambda images: [(index, image) for index, image in enumerate(images)],
        unwrap=lambda batch: batch[1],
        lines={"image_key": 1},
    )


class HuggingFace(Dataset):
    """Columns that are formatted when they are read, whole batches of them at once."""

    def __init__(self, images):
        self.columns = {
            "image": list(arrays_of(images)),
            "label": list(range(len(images))),
            "id": [f"img-{index:03d}" for index in range(len(images))],
        }
        self.format = None

    def set_transform(self, format):
        self.format = format

    def __len__(self):
        return len(self.columns["label"])

    def __getitem__(self, index):
        return self.__getitems__([index])[0]

    def __getitems__(self, indices):
        batch = {name: [column[index] for index in indices] for name, column in self.columns.items()}
        batch = batch if self.format is None else self.format(batch)
        return [dict(zip(batch, row, strict=True)) for row in zip(*batch.values(), strict=True)]


def hugging_face_arrays():
    return run_of(
        HuggingFace,
        RGB,
        lambda batch: batch["image"].permute(0, 3, 1, 2) / 255,
        lines={"image_key": "image", "reconstruct": nhwc_bytes},
        names=[f"img-{index:03d}" for index in range(6)],
    )


def nhwc_bytes(module, images):
    """What training_step does with (B, H, W, C) of bytes, there and back."""
    return module(images.permute(0, 3, 1, 2).float() / 255).permute(0, 2, 3, 1) * 255


def hugging_face_with_a_transform():
    def items(images):
        dataset = HuggingFace(images)
        dataset.set_transform(
            lambda batch: {
                "pixel_values": [torch.from_numpy(image).permute(2, 0, 1) / 127.5 - 1 for image in batch["image"]],
                "id": batch["id"],
            }
        )
        return dataset

    return run_of(
        items,
        RGB,
        lambda batch: batch["pixel_values"],
        lines={"image_key": "pixel_values", "mean": [0.5], "std": [0.5]},
        own_output=lambda m, x: (m.net(2 * x - 1).view_as(x) + 1) / 2,
        names=[f"img-{index:03d}" for index in range(6)],
    )


def channels_last_floats():
    return run_of(
        lambda images: Pictures(images.permute(0, 2, 3, 1).numpy()),
        RGB,
        lambda batch: batch.permute(0, 3, 1, 2),
        lines={"reconstruct": lambda module, images: module(images.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)},
    )


def channels_last_model():
    def by_hand(module, images):
        moved = images.permute(0, 2, 3, 1)
        return module.net(moved.contiguous()).view(moved.shape).permute(0, 3, 1, 2)

    return run_of(lambda images: Pictures(images.permute(0, 2, 3, 1).contiguous()), RGB, own_output=by_hand)


def pil_images_made_tensors_in_collate_fn():
    return run_of(
        lambda images: Pictures([to_pil_image(image) for image in images], lambda image: (image, 3)),
        RGB,
        lambda batch: batch["pixels"],
        lambda items: {"pixels": torch.stack([to_tensor(image) for image, _ in items]), "names": ["x"] * len(items)},
    )


def pil_images_in_dicts_normalized_in_collate_fn():
    def collate(items):
        images = torch.stack([to_tensor(item["image"]) for item in items])
        return torch.tensor([item["class"] for item in items]), (images - 0.5) / 0.5

    return run_of(
        lambda images: [{"image": to_pil_image(image), "class": 1} for image in images],
        RGB,
        lambda batch: batch[1],
        collate,
        lines={"image_key": "image"},
        own_output=lambda m, x: (m.net(2 * x - 1).view_as(x) + 1) / 2,
    )


def mnist_of_torchvision():
    class MNIST(Dataset):
        def __init__(self, images):
            self.data, self.targets = (images[:, 0] * 255).round().byte(), torch.arange(len(images))
            self.transform = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])

        def __len__(self):
            return len(self.data)

        def __getitem__(self, index):
            return self.transform(Image.fromarray(self.data[index].numpy())), int(self.targets[index])

    return run_of(MNIST, unwrap=lambda batch: batch[0])


def dicts_with_their_own_collate_fn():
    def collate(items):
        return {"x": torch.stack([item["inputs"]["image"] for item in items]), "y": [item["path"] for item in items]}

    return run_of(
        lambda images: [
            {"inputs": {"image": image}, "path": f"scans/{index}.png"} for index, image in enumerate(images)
        ],
        unwrap=lambda batch: batch["x"],
        collate=collate,
        lines={"image_key": ["inputs", "image"]},
        names=[f"scans/{index}.png" for index in range(6)],
    )


@dataclass
class Sample:
    image: torch.Tensor
    label: int
    image_id: str = ""


Record = namedtuple("Record", "label picture")


def stacked(name):
    return lambda items: torch.stack([getattr(item, name) for item in items])


def dataclasses():
    return run_of(
        lambda images: [Sample(image, 0, f"case {index}") for index, image in enumerate(images)],
        collate=stacked("image"),
        lines={"image_key": "image"},
        names=[f"case {index}" for index in range(6)],
    )


def named_tuples():
    return run_of(
        lambda images: [Record(0, image) for image in images],
        unwrap=lambda batch: batch.picture,
        lines={"image_key": "picture"},
    )


def objects():
    return run_of(
        lambda images: [SimpleNamespace(scan=image.numpy(), meta={"age": 7}) for image in images],
        collate=lambda items: SimpleNamespace(scans=torch.stack([torch.from_numpy(item.scan) for item in items])),
        unwrap=lambda batch: batch.scans,
        lines={"image_key": "scan"},
    )


def by_a_function_of_the_item():
    return run_of(
        lambda images: [{"frames": [image, image.flip(-1)]} for image in images],
        unwrap=lambda batch: batch["frames"][0],
        lines={"image_key": lambda item: item["frames"][0]},
    )


def two_views():
    """As contrastive learning has them: ((view, view), label)."""
    return run_of(
        lambda images: [((image, image.flip(-1)), 0) for image in images],
        unwrap=lambda batch: batch[0][0],
        lines={"image_key": [0, 0]},
    )


def the_second_of_three():
    return run_of(
        lambda images: [(image.flip(-2), image, image.flip(-1)) for image in images],
        unwrap=lambda batch: batch[1],
        lines={"image_key": 1},
    )


def other_items_in_validation():
    members, controls = pictures(), pictures(seed=1)
    return ForeignRun(
        Plain(unwrap=lambda batch: batch["x"]),
        DataLoader([{"x": image} for image in members], 3, shuffle=True),
        DataLoader([(0, image) for image in controls], 3),
        members,
        controls,
        lambda m, x: m.net(x).view_as(x),
        {"image_key": {"members": "x", "controls": 1}},
    )


def a_list_of_tensors():
    return run_of(lambda images: list(images))


def tensors_of_torchvision():
    return run_of(lambda images: [torchvision.tv_tensors.Image(image) for image in images], RGB)


def named(images):
    return [{"x": image, "path": f"{index}.png"} for index, image in enumerate(images)]


def sorted_in_collate_fn():
    """Buckets: the order within a batch is not that of the items; names must stay with their images."""

    def collate(items):
        return {"x": torch.stack([item["x"] for item in sorted(items, key=lambda item: float(item["x"].mean()))])}

    return run_of(
        named,
        unwrap=lambda batch: batch["x"],
        collate=collate,
        lines={"image_key": "x"},
        names=[f"{index}.png" for index in range(6)],
    )


class WithUnreadable(Pictures):
    def __getitem__(self, index):
        return None if index == 2 else super().__getitem__(index)


def skips_what_cannot_be_read():
    run = run_of(WithUnreadable, collate=lambda items: torch.stack([item for item in items if item is not None]))
    kept = [0, 1, 3, 4, 5]
    run.members, run.controls, run.names = run.members[kept], run.controls[kept], [str(index) for index in kept]
    return run


def a_class_for_a_name():
    return run_of(
        lambda images: [{"x": image, "name": ["cat", "dog"][index % 2]} for index, image in enumerate(images)],
        unwrap=lambda batch: batch["x"],
        lines={"image_key": "x"},
    )


RUNS = [
    grey_without_channel,
    pairs_of_image_and_label,
    label_before_image,
    hugging_face_arrays,
    hugging_face_with_a_transform,
    channels_last_floats,
    channels_last_model,
    pil_images_made_tensors_in_collate_fn,
    pil_images_in_dicts_normalized_in_collate_fn,
    mnist_of_torchvision,
    dicts_with_their_own_collate_fn,
    dataclasses,
    named_tuples,
    objects,
    by_a_function_of_the_item,
    two_views,
    the_second_of_three,
    other_items_in_validation,
    a_list_of_tensors,
    tensors_of_torchvision,
    sorted_in_collate_fn,
    skips_what_cannot_be_read,
    a_class_for_a_name,
]


@pytest.mark.parametrize("build", RUNS, ids=lambda build: build.__name__)
def test_the_run(build):
    check(build)


def save(folder, images, first=0):
    """As PNG files in two classes; their paths within the folder."""
    paths = []
    for index, array in enumerate(arrays_of(images)):
        path = folder / ("cats" if index < len(images) // 2 else "dogs") / f"{first + index:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path)
        paths.append(path.relative_to(folder).as_posix())
    return paths


class Paths(Dataset):
    """A list of files, as many write it."""

    def __init__(self, root):
        self.image_paths = sorted(root.rglob("*.png"))

    def __len__(self):
        return len(self.image_paths)

    def __getitem__(self, index):
        return to_tensor(Image.open(self.image_paths[index]).convert("RGB"))


@pytest.mark.parametrize("kind", ["ImageFolder", "ImageFolder by parts", "list of files"])
def test_images_are_called_by_their_files(tmp_path, kind):
    members, controls = pictures(shape=RGB), pictures(seed=1, shape=RGB)
    paths = save(tmp_path / "train", members, first=17)
    save(tmp_path / "val", controls, first=90)

    def build():
        if kind == "list of files":
            datasets = [Paths(tmp_path / part) for part in ("train", "val")]
        else:
            folders = [torchvision.datasets.ImageFolder(tmp_path / part, to_tensor) for part in ("train", "val")]
            datasets = folders if kind == "ImageFolder" else [torch.utils.data.Subset(one, range(6)) for one in folders]
        unwrap = (lambda batch: batch) if kind == "list of files" else (lambda batch: batch[0])
        loaders = [DataLoader(dataset, 3) for dataset in datasets]
        by_hand = lambda m, x: m.net(x).view_as(x)  # noqa: E731
        return ForeignRun(Plain(RGB, unwrap), *loaders, members, controls, by_hand, names=paths)

    assert paths[0] == "cats/0017.png"
    check(build)
    assert next(row["name"] for row in saved_rows("controls")) == "cats/0090.png"
    assert np.load("memaudit/recoveries/audit-0002.npz")["members/names"].tolist() == paths


def test_names_tell_images_apart():
    check(a_class_for_a_name)
    names = [row["name"] for row in saved_rows("members")]
    assert len(set(names)) == len(names)
