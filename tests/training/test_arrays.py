"""Arrays of every kind: each is read to the values that were written, or refused in one line that names its file."""

import re

import numpy as np
import pytest
import torch

from lightning_memaudit.cli.main import main
from lightning_memaudit.training.arrays import ArrayImages, open_array
from lightning_memaudit.training.data import ImagesDataModule

RANDOM = np.random.default_rng(0)
BYTES = RANDOM.integers(0, 256, (20, 12, 10, 3), dtype=np.uint8)
WORDS = RANDOM.integers(0, 65536, (20, 12, 10), dtype=np.uint16)
FLOATS = RANDOM.random((20, 12, 10))
CHW = BYTES.transpose(0, 3, 1, 2)


def gray(values):
    return values[:, None]


RIGHT = {
    "uint8": (BYTES, CHW / 255),
    "uint8 (N, C, H, W)": (CHW, CHW / 255),
    "uint8 in Fortran's order": (np.asfortranarray(BYTES), CHW / 255),
    "uint16": (WORDS, gray(WORDS) / 65535),
    "uint16 big-endian": (WORDS.astype(">u2"), gray(WORDS) / 65535),
    "uint16 of color": (BYTES.astype(np.uint16) * 257, CHW / 255),
    "float16": (FLOATS.astype(np.float16), gray(FLOATS)),
    "float32": (FLOATS.astype(np.float32), gray(FLOATS)),
    "float32 big-endian": (FLOATS.astype(">f4"), gray(FLOATS)),
    "float64": (FLOATS, gray(FLOATS)),
    "float64 big-endian": (FLOATS.astype(">f8"), gray(FLOATS)),
    "longdouble": (FLOATS.astype(np.longdouble), gray(FLOATS)),
    "bool": (FLOATS > 0.5, gray(FLOATS > 0.5)),
}


def save(path, array):
    if path.suffix == ".npy":
        np.save(path, array)
    else:
        np.savez_compressed(path, only=array)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".NPY"])
@pytest.mark.parametrize("kind", RIGHT)
def test_every_kind_is_read_to_its_right_value(tmp_path, kind, suffix):
    stored, expected = RIGHT[kind]
    path = tmp_path / f"images{suffix.lower()}"
    save(path, stored)
    path = path.rename(tmp_path / f"images{suffix}")
    module = ImagesDataModule(path, num_train="all", num_controls=5)
    module.setup()
    seen = set()
    for dataset in (module.train_dataset, module.control_dataset):
        for index, name in enumerate(dataset.names):
            place = int(re.fullmatch(rf"images{re.escape(suffix)}\[(\d+)\]", name)[1])
            seen.add(place)
            image = dataset[index]
            assert image.dtype == torch.float32
            np.testing.assert_allclose(image.numpy(), expected[place], atol=3e-4 if kind == "float16" else 1e-7)
    assert seen == set(range(20)), "every image has its own name"


@pytest.mark.parametrize(
    ("shape", "layout", "expected"),
    [
        ((20, 12, 10), "auto", (1, 12, 10)),
        ((20, 12, 10, 1), "auto", (1, 12, 10)),
        ((20, 12, 10, 4), "auto", (4, 12, 10)),
        ((20, 1, 12, 10), "auto", (1, 12, 10)),
        ((20, 2, 12, 10), "CHW", (2, 12, 10)),
        ((20, 12, 10, 2), "HWC", (2, 12, 10)),
        ((20, 3, 12, 4), "CHW", (3, 12, 4)),
        ((20, 3, 12, 4), "HWC", (4, 3, 12)),
    ],
)
def test_layouts(shape, layout, expected):
    array = RANDOM.integers(0, 256, shape, dtype=np.uint8)
    image = ArrayImages(array, layout)[7]
    assert tuple(image.shape) == expected
    last = layout == "HWC" or (layout == "auto" and shape[-1] in (1, 4))
    for channel, values in enumerate(image.numpy()):
        stored = array[7] if array.ndim == 3 else array[7][..., channel] if last else array[7][channel]
        np.testing.assert_array_equal(values, stored)


def with_one(value):
    array = FLOATS.copy()
    array[13, 2, 3] = value
    return array


REFUSED = {
    "int32": (BYTES.astype(np.int32) * 9 - 4, ["int32", "from -4 to 2291", "uint16"]),
    "int64 of bytes": (BYTES.astype(np.int64), ["int64", "from 0 to 255", "give uint8"]),
    "int8": (BYTES.view(np.int8), ["int8", "from -128 to 127"]),
    "uint32 big-endian": (WORDS.astype(">u4"), [">u4", f"from {WORDS.min()} to {WORDS.max()}"]),
    "float of 255": (BYTES / 1.0, ["float64", "scaled to [0, 1]", "to 255"]),
    "float around 0": (FLOATS * 2 - 1, ["float64", "from -0.9", "scaled to [0, 1]"]),
    "a little too bright": (with_one(1.001), ["image 13 ", "to 1.001", "scaled to [0, 1]"]),
    "a little too dark": (with_one(-0.001), ["image 13 ", "from -0.001"]),
    "NaN": (with_one(np.nan), ["image 13 ", "NaN"]),
    "infinite": (with_one(np.inf), ["image 13 ", "to inf"]),
    "beyond float32": (with_one(1e300), ["image 13 ", "to 1e+300"]),
    "complex": (FLOATS + 0j, ["complex128", "does not hold images"]),
    "text": (np.array([["ab", "c"]]).reshape(1, 1, 2), ["<U2", "does not hold images"]),
    "records": (np.zeros((4, 3, 3), dtype=[("a", "u1")]), ["does not hold images"]),
    "one image": (np.zeros((12, 10), dtype=np.uint8), ["shape [12, 10]", "(N, H, W)"]),
    "a number": (np.float32(0.5), ["shape []"]),
    "five axes": (np.zeros((2, 3, 4, 5, 3), dtype=np.uint8), ["shape [2, 3, 4, 5, 3]"]),
    "no images": (np.zeros((0, 12, 10), dtype=np.uint8), ["shape [0, 12, 10]"]),
    "no pixels": (np.zeros((5, 0, 10), dtype=np.uint8), ["shape [5, 0, 10]"]),
    "channels of either axis": (
        np.zeros((5, 3, 12, 4), dtype=np.uint8),
        ["layout=auto", "[5, 3, 12, 4]", "set HWC or"],
    ),
    "channels of no axis": (np.zeros((5, 2, 12, 10), dtype=np.uint8), ["layout=auto", "[5, 2, 12, 10]"]),
    "objects": (np.array([BYTES[0], None], dtype=object), ["holds Python objects", "numpy.save"]),
}


@pytest.mark.parametrize("image_size", [None, 8])
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_array_of_images_is_one_line_with_the_file(tmp_path, kind, suffix, image_size):
    stored, words = REFUSED[kind]
    path = tmp_path / f"images{suffix}"
    save(path, stored)
    with pytest.raises(ValueError, match=re.escape(str(path))) as error:
        ImagesDataModule(path, num_train="all", num_controls=1, image_size=image_size).setup()
    message = str(error.value)
    assert "\n" not in message
    assert "pickle" not in message
    for word in words:
        assert word in message, message


def whole(path):
    save(path, FLOATS)
    return path.read_bytes()


def members(path, **content):
    import zipfile

    with zipfile.ZipFile(path, "w") as archive:
        for name, text in content.items():
            archive.writestr(name, text)


def flipped(path):
    content = bytearray(whole(path))
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


DAMAGED = {
    **{
        f"{suffix} cut at {share}": (suffix, lambda path, share=share: path.write_bytes(cut(path, share)), "")
        for suffix in (".npy", ".npz")
        for share in (0.001, 0.01, 0.5, 0.99)
    },
    ".npz with a byte changed": (".npz", flipped, ""),
    "empty .npy": (".npy", lambda path: path.write_bytes(b""), "it is empty"),
    "empty .npz": (".npz", lambda path: path.write_bytes(b""), "it is empty"),
    "text": (".npy", lambda path: path.write_text("1, 2, 3\n4, 5, 6\n"), "not in numpy's format"),
    "a zip of no arrays": (".npz", lambda path: members(path, notes="text"), "what it holds is none"),
    "a zip of a broken array": (".npz", lambda path: members(path, **{"a.npy": b"\x93NUMPY\x01\x00v\x00{"}), ""),
}


def cut(path, share):
    content = whole(path)
    return content[: max(5, int(share * len(content)))]


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_file_is_one_line_with_path_reason_and_mend(tmp_path, kind, capsys):
    suffix, damage, words = DAMAGED[kind]
    path = tmp_path / f"images{suffix}"
    damage(path)
    with pytest.raises(ValueError, match=rf"^path={re.escape(repr(str(path)))} cannot be read as an array \(") as error:
        ImagesDataModule(path).setup()
    message = str(error.value)
    assert "\n" not in message
    assert re.search(r"\S\); (save it again|write it) with numpy.save", message), message
    assert words in message
    assert "pickle" not in message
    with pytest.raises(ValueError, match="control_path="):
        open_array(path, argument="control_path")


def test_a_file_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    path = tmp_path / "images.npy"
    whole(path)
    monkeypatch.setattr(np, "load", lambda *_, **__: open_as_nobody(path))
    with pytest.raises(ValueError, match=r"images.npy' cannot be read as an array \(Permission denied\)"):
        open_array(path)


def open_as_nobody(path):
    raise PermissionError(13, "Permission denied", str(path))


def test_a_key_that_is_missing_is_named_with_those_that_are_there(tmp_path):
    path = tmp_path / "images.npz"
    np.savez(path, train=BYTES, test=BYTES, labels=np.array([None], dtype=object))
    assert open_array(path, "test").shape == BYTES.shape, "objects beside it do no harm"
    for key in (None, "images"):
        with pytest.raises(ValueError, match=rf"key={key!r} is not in .*images.npz; it holds train, test, labels"):
            open_array(path, key)
    members(path)
    with pytest.raises(ValueError, match="it holds nothing"):
        open_array(path)


def test_a_layout_that_is_none_is_refused():
    with pytest.raises(ValueError, match="layout='NHWC': give one of auto, HWC, CHW"):
        ArrayImages(BYTES, "NHWC")


@pytest.mark.parametrize(
    ("kind", "words"), [("int32", "int32 with values from"), ("float of 255", "scaled to"), ("objects", "objects")]
)
def test_the_command_line_says_it_with_exit_code_2(tmp_path, capsys, kind, words):
    path = tmp_path / "images.npz"
    save(path, REFUSED[kind][0])
    assert main(["fit", "--data=ImagesDataModule", f"--data.path={path}", "--data.num_train=10"]) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1, error
    assert error.startswith("error: ")
    assert str(path) in error
    assert words in error
