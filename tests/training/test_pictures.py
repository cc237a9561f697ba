"""Pictures of every kind: each is read to the values that were written, or refused in one line that names it."""

import re
import struct

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from torch.utils.data import DataLoader

from lightning_memaudit.cli.main import main
from lightning_memaudit.training.data import ImagesDataModule
from lightning_memaudit.training.pictures import PictureFolder, read_picture

RANDOM = np.random.default_rng(0)
COLORS = RANDOM.integers(0, 256, (12, 10, 4), dtype=np.uint8)
RGB, GRAY = COLORS[..., :3], COLORS[..., 0]
DEEP = RANDOM.integers(0, 65536, (12, 10), dtype=np.uint16)
FLOAT = RANDOM.random((12, 10), dtype=np.float32)
LUMA = RGB @ np.array([0.299, 0.587, 0.114])  # ITU-R 601
PALETTE = RANDOM.integers(0, 256, (8, 3), dtype=np.uint8)
PLACES = RANDOM.integers(0, 8, (12, 10), dtype=np.uint8)
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: np.rot90(a, -1)[:, ::-1],
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, -1)[::-1],
    8: lambda a: np.rot90(a),
}
"""What a viewer makes of the stored pixels, by the orientation that the camera noted."""


def palette_picture():
    picture = Image.fromarray(PLACES, "P")
    picture.putpalette(PALETTE.tobytes())
    return picture


def of_mode(mode, values):
    return Image.frombytes(mode, (values.shape[1], values.shape[0]), values.tobytes())


def cmyk_to_rgb(values):
    ink = values.astype(float)
    return np.clip(255 - ink[..., :3] * (255 - ink[..., 3:]) / 255 - ink[..., 3:], 0, 255)


def ycbcr_to_rgb(values):
    y, cb, cr = np.moveaxis(values.astype(float) - (0, 128, 128), -1, 0)
    return np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], -1)


# Its corners are no colors: these are.
YCBCR = np.stack([LUMA, 128 + 0.564 * (RGB[..., 2] - LUMA), 128 + 0.713 * (RGB[..., 0] - LUMA)], -1).round()
YCBCR = YCBCR.astype(np.uint8)


def written(path, values, **more):
    tifffile.imwrite(path, values, **more)


def saved(path, picture, **more):
    picture.save(path, **more)


def written_of_12_bits(path, values):
    """Two values in three bytes, which no library at hand writes."""
    first, second = values[:, ::2], values[:, 1::2]
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], -1).astype(np.uint8)
    height, width = values.shape
    tags = {256: width, 257: height, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: packed.size}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    start = 8 + packed.size
    path.write_bytes(
        struct.pack("<2sHI", b"II", 42, start) + packed.tobytes() + struct.pack("<H", len(tags)) + entries + bytes(4)
    )


# Name of the file, how it is written, and what it holds in [0, 1]: (H, W) or (H, W, 3).
KINDS = {
    "8-bit gray": ("a.png", saved, Image.fromarray(GRAY), GRAY / 255),
    "8-bit color": ("a.png", saved, Image.fromarray(RGB), RGB / 255),
    "bmp": ("a.bmp", saved, Image.fromarray(RGB), RGB / 255),
    "16-bit png": ("a.png", saved, Image.fromarray(DEEP), DEEP / 65535),
    "dark 16-bit png": ("a.png", saved, Image.fromarray(DEEP // 400), DEEP // 400 / 65535),
    "16-bit pgm": ("a.pgm", saved, Image.fromarray(DEEP), DEEP / 65535),
    "16-bit tiff": ("a.tif", written, DEEP, DEEP / 65535),
    "big-endian 16-bit tiff": ("a.tif", lambda path, a: written(path, a, byteorder=">"), DEEP, DEEP / 65535),
    "packed 16-bit tiff": ("a.tiff", lambda path, a: written(path, a, compression="zlib"), DEEP, DEEP / 65535),
    "16-bit tiff, 0 white": (
        "a.tif",
        lambda path, a: written(path, a, photometric="miniswhite"),
        DEEP,
        1 - DEEP / 65535,
    ),
    "8-bit tiff, 0 white": ("a.tif", lambda path, a: written(path, a, photometric="miniswhite"), GRAY, 1 - GRAY / 255),
    "12 of 16-bit tiff": ("a.tif", written_of_12_bits, DEEP >> 4, (DEEP >> 4) / 4095),
    "float tiff, 0 white": ("a.tif", lambda path, a: written(path, a, photometric="miniswhite"), FLOAT, 1 - FLOAT),
    "float tiff": ("a.tif", written, FLOAT, FLOAT),
    "big-endian float tiff": ("a.tif", lambda path, a: written(path, a, byteorder=">"), FLOAT, FLOAT),
    "1 bit": ("a.png", saved, Image.fromarray(GRAY > 99), (GRAY > 99) / 1),
    "palette": ("a.png", saved, palette_picture(), PALETTE[PLACES] / 255),
    "gif": ("a.gif", saved, palette_picture(), PALETTE[PLACES] / 255),
    "palette, one place transparent": (
        "a.png",
        lambda path, picture: picture.save(path, transparency=3),
        palette_picture(),
        PALETTE[PLACES] / 255,
    ),
    "RGBA": ("a.png", saved, Image.fromarray(COLORS), RGB / 255),
    "RGBA webp": (
        "a.webp",
        lambda path, picture: picture.save(path, lossless=True, exact=True),
        Image.fromarray(COLORS),
        RGB / 255,
    ),
    "LA": ("a.png", saved, of_mode("LA", COLORS[..., :2].copy()), GRAY / 255),
    "PA": ("a.tif", saved, palette_picture().convert("PA"), PALETTE[PLACES] / 255),
    "CMYK": ("a.tif", saved, of_mode("CMYK", COLORS), cmyk_to_rgb(COLORS) / 255),
    "YCbCr": ("a.tif", saved, of_mode("YCbCr", YCBCR), ycbcr_to_rgb(YCBCR) / 255),
    "ascii pgm of 100 steps": (
        "a.pgm",
        lambda path, a: path.write_text(f"P2\n10 12\n100\n{' '.join(map(str, a.ravel()))}\n"),
        GRAY % 101,
        GRAY % 101 / 100,
    ),
}


def expected_image(values, grayscale):
    if not grayscale:
        return (np.repeat(values[..., None], 3, axis=2) if values.ndim == 2 else values).transpose(2, 0, 1)
    return (values if values.ndim == 2 else values @ np.array([0.299, 0.587, 0.114]))[None]


def can_be_read(path):
    try:
        with Image.open(path) as picture:
            picture.load()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("grayscale", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_read_to_its_right_value(tmp_path, kind, grayscale):
    name, write, stored, values = KINDS[kind]
    write(tmp_path / name, stored)
    if kind == "YCbCr" and not can_be_read(tmp_path / name):  # by Pillow up to 12.0 at least
        with pytest.raises(ValueError, match="cannot be read as a picture"):
            read_picture(tmp_path / name)
        pytest.skip("this Pillow reads no uncompressed YCbCr TIFF; it is refused, not misread")
    image = read_picture(tmp_path / name, "L" if grayscale else "RGB")
    deep = "16-bit" in kind or "float" in kind
    assert image.dtype == (torch.float32 if deep else torch.uint8)
    found = image.numpy() if deep else image.numpy() / 255
    # 8 bits are rounded once for color, once more for grey; deeper ones are exact.
    np.testing.assert_allclose(found, expected_image(values, grayscale), atol=2e-7 if deep else 1.01 / 255)


def test_16_bits_of_color_keep_the_high_8(tmp_path):
    deep = RANDOM.integers(0, 65536, (12, 10, 3), dtype=np.uint16)
    for number, more in enumerate([{}, {"byteorder": ">"}, {"compression": "zlib", "planarconfig": "separate"}]):
        file = tmp_path / f"{number}.tif"
        stored = deep.transpose(2, 0, 1).copy() if "planarconfig" in more else deep
        written(file, stored, photometric="rgb", **more)
        np.testing.assert_array_equal(read_picture(file).numpy(), deep.transpose(2, 0, 1) >> 8)


def lab_to_srgb(lab):
    """CIE Lab of print's white (D50), by way of XYZ, Bradford's adaptation to sRGB's white (D65), and sRGB's curve."""
    y = (lab[..., 0] + 16) / 116
    steps = np.stack([y + lab[..., 1] / 500, y, y - lab[..., 2] / 200], -1)
    xyz = np.where(steps > 6 / 29, steps**3, 3 * (6 / 29) ** 2 * (steps - 4 / 29)) * (0.96422, 1, 0.82521)
    to_srgb = [
        [3.1338561, -1.6168667, -0.4906146],
        [-0.9787684, 1.9161415, 0.0334540],
        [0.0719453, -0.2289914, 1.4052427],
    ]
    linear = np.clip(xyz @ np.array(to_srgb).T, 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def test_lab_is_turned_into_colors(tmp_path):
    lab = np.stack(np.meshgrid([40, 60, 80], [-15, 0, 15], [-15, 0, 15], indexing="ij"), -1).reshape(9, 3, 3)
    stored = (lab * (2.55, 1, 1)).round().astype(np.int16).astype(np.uint8)  # a and b are signed bytes
    written(tmp_path / "a.tif", stored, photometric="cielab")
    found = read_picture(tmp_path / "a.tif").numpy().transpose(1, 2, 0) / 255
    np.testing.assert_allclose(found, lab_to_srgb(lab), atol=2.5 / 255)
    gray = read_picture(tmp_path / "a.tif", "L")[0].numpy() / 255
    np.testing.assert_allclose(gray, lab_to_srgb(lab) @ np.array([0.299, 0.587, 0.114]), atol=2.5 / 255)


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", ["8.png", "16.png", "8.webp", "8.tif", "16.tif", "16-packed.tif", "16-big.tif"])
def test_pictures_are_turned_as_the_camera_says(tmp_path, kind, orientation):
    stored = DEEP if kind.startswith("16") else GRAY
    if kind.endswith("tif"):
        more = {"16-packed.tif": {"compression": "zlib"}, "16-big.tif": {"byteorder": ">"}}.get(kind, {})
        written(tmp_path / kind, stored, extratags=[(274, 3, 1, orientation, True)], **more)
    else:
        exif = Image.Exif()
        exif[274] = orientation
        Image.fromarray(stored).save(tmp_path / kind, exif=exif, **({"lossless": True} if kind == "8.webp" else {}))
    image = read_picture(tmp_path / kind, "L")[0].numpy()
    full = 65535 if kind.startswith("16") else 1
    np.testing.assert_array_equal(np.round(image * full), UPRIGHT[orientation](stored))


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.tif", "a.png"])
def test_of_several_frames_the_first_is_taken_and_it_is_said_once(tmp_path, name):
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        pictures = [Image.new("RGB", (10, 12), color) for color in ("red", "blue")]
        lossless = {"lossless": True} if name == "a.webp" else {}
        pictures[0].save(tmp_path / folder / name, save_all=True, append_images=pictures[1:], **lossless)
    folder = PictureFolder(tmp_path)
    with pytest.warns(UserWarning, match="several frames or pages") as warned:
        images = [folder[index] for index in (0, 1, 0)]
    assert len(warned) == 1
    assert str(tmp_path / "first" / name) in str(warned[0].message)
    for image in images:
        assert image[:, 5, 5].tolist() == [255, 0, 0]


def write_bytes(content):
    return lambda path: path.write_bytes(content)


def truncated(name, picture, share, **more):
    def write(path):
        picture.save(path.with_name(f"whole{path.suffix}"), **more)
        whole = path.with_name(f"whole{path.suffix}")
        path.write_bytes(whole.read_bytes()[: int(share * whole.stat().st_size)])
        whole.unlink()

    return name, write, []


INTEGERS = RANDOM.integers(-300, 70000, (12, 10), dtype=np.int32)
PLANES = np.stack([DEEP] * 3)
UNREADABLE = {
    "int32": ("a.tif", lambda path: written(path, INTEGERS), ["mode I", f"{INTEGERS.min()} to {INTEGERS.max()}"]),
    "int32 as Pillow writes it": ("a.tif", lambda path: Image.fromarray(INTEGERS).save(path), ["mode I"]),
    "int32 that looks like bytes": ("a.tif", lambda path: written(path, INTEGERS % 256), ["mode I", "from 0 to 25"]),
    "int32 of 0 and 1": ("a.tif", lambda path: written(path, INTEGERS % 2), ["mode I", "from 0 to 1"]),
    "uint32": ("a.tif", lambda path: written(path, DEEP.astype(np.uint32)), ["mode I"]),
    "int16": ("a.tif", lambda path: written(path, (DEEP // 2).astype(np.int16)), ["mode I"]),
    "int8": ("a.tif", lambda path: written(path, GRAY.view(np.int8)), ["signed", f"{GRAY.view(np.int8).min()} to "]),
    "float of 255": ("a.tif", lambda path: written(path, FLOAT * 255), ["mode F", "float in [0, 1]"]),
    "float around 0": ("a.tif", lambda path: written(path, FLOAT * 2 - 1), ["mode F", "from -0.9"]),
    "float, NaN": ("a.tif", lambda path: written(path, np.where(FLOAT > 0.5, np.nan, FLOAT)), ["mode F", "NaN"]),
    "float16": ("a.tif", lambda path: written(path, FLOAT.astype(np.float16)), ["no kind that Pillow reads"]),
    "float, packed, big-endian": (
        "a.tif",
        lambda path: written(path, FLOAT, compression="zlib", byteorder=">"),
        ["big-endian", "little-endian"],
    ),
    "16-bit planes": (
        "a.tif",
        lambda path: written(path, PLANES, photometric="rgb", planarconfig="separate"),
        ["16-bit planes"],
    ),
    "empty": ("a.png", write_bytes(b""), ["it is empty"]),
    "text": ("a.png", lambda path: path.write_text("not a picture"), ["no kind that Pillow reads"]),
    "a bomb": ("a.pgm", write_bytes(b"P5\n100000 10000\n255\n"), ["1000000000 pixels", "exceeds limit"]),
    "no pixels": ("a.gif", write_bytes(b"GIF89a\x00\x00\x00\x00\x00\x00\x00;"), []),
    "a link to nothing": ("a.png", lambda path: path.symlink_to("nowhere.png"), ["No such file"]),
    **{
        f"truncated {name} at {share}": truncated(name, Image.fromarray(RGB), share, **more)
        for share in (0.02, 0.5, 0.9)
        for name, more in {
            "a.png": {},
            "a.jpg": {},
            "a.jpeg": {"progressive": True},
            "a.gif": {},
            "a.webp": {},
            "a.bmp": {},
            "a.ppm": {},
            "a.tif": {},
            "a.tiff": {"compression": "tiff_lzw"},
        }.items()
    },
    "truncated 16-bit png": truncated("a.png", Image.fromarray(DEEP), 0.7),
    "truncated 16-bit pgm": truncated("a.pgm", Image.fromarray(DEEP), 0.7),
}


def folder_with(tmp_path, kind):
    """Five good pictures, and the bad one."""
    for index in range(5):
        Image.fromarray(RGB[:, ::-1] ^ np.uint8(index)).save(tmp_path / f"good-{index}.png")
    name, write, words = UNREADABLE[kind]
    (tmp_path / "cats").mkdir()
    write(tmp_path / "cats" / name)
    return tmp_path / "cats" / name, words


@pytest.mark.parametrize("kind", UNREADABLE)
def test_what_cannot_be_read_is_one_line_with_path_reason_and_mend(tmp_path, kind):
    file, words = folder_with(tmp_path, kind)
    module = ImagesDataModule(tmp_path, num_train="all", num_controls=1, image_size=8)
    with pytest.raises(ValueError, match=re.escape(f"{file} cannot be read as a picture (")) as error:
        module.setup()
    message = str(error.value)
    assert "\n" not in message
    assert message.count(str(file)) == 1
    assert re.search(r"\S\); (mend or remove it|save it .*)$", message), message
    for word in words:
        assert word in message


def test_what_may_not_be_read_is_named(tmp_path, monkeypatch):
    """By an error as the system raises it: some users may read everything."""
    file, _ = folder_with(tmp_path, "empty")
    original = type(file).open

    def refusing(self, *arguments, **more):
        if self == file:
            raise PermissionError(13, "Permission denied", str(file))
        return original(self, *arguments, **more)

    monkeypatch.setattr(type(file), "open", refusing)
    with pytest.raises(ValueError, match=re.escape(f"{file} cannot be read as a picture (Permission denied); mend")):
        list(map(PictureFolder(tmp_path).__getitem__, range(6)))


def test_a_subfolder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    folder_with(tmp_path, "empty")

    def walk(folder, followlinks, onerror):
        onerror(PermissionError(13, "Permission denied", str(tmp_path / "cats")))

    monkeypatch.setattr("os.walk", walk)
    with pytest.raises(ValueError, match=r"cats cannot be read as a folder \(Permission denied\); mend or remove it"):
        PictureFolder(tmp_path)


@pytest.mark.parametrize("kind", ["int32", "text", "truncated a.jpg at 0.5", "a link to nothing"])
def test_the_command_line_says_it_with_exit_code_2(tmp_path, capsys, kind):
    file, words = folder_with(tmp_path, kind)
    data = ["--data=ImagesDataModule", f"--data.path={tmp_path}", "--data.num_train=all", "--data.num_controls=1"]
    assert main(["fit", *data, "--trainer.max_epochs=1"]) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1, error
    assert error.startswith(f"error: {file} cannot be read as a picture (")
    for word in words:
        assert word in error


def test_a_worker_names_the_picture_too(tmp_path):
    file, _ = folder_with(tmp_path, "text")
    with pytest.raises(ValueError, match=re.escape(str(file))):
        list(DataLoader(PictureFolder(tmp_path), batch_size=2, num_workers=1))
