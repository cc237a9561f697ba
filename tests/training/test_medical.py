"""Medical volumes: NIfTI files and DICOM series come out as they were made, or are refused in one line."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lightning_memaudit.training.data import ImagesDataModule
from lightning_memaudit.training.volumes import VolumeFolder
from lightning_memaudit.training.windows import Window

RANDOM = np.random.default_rng(0)
VALUES = RANDOM.integers(-1000, 2000, (3, 5, 6, 4)).astype(np.int16)
"""Three volumes, by depth, height and width: from feet to head, from front to back, from right to left."""

WINDOW = Window((-1000, 1000))


def scaled(values):
    return np.clip((values.astype(float) + 1000) / 2000, 0, 1)


def save_nifti(folder, values=VALUES, suffix=".nii.gz"):
    nibabel = pytest.importorskip("nibabel")
    for index, volume in enumerate(values):
        # Stored from left to right and from back to front, as its affine says.
        stored, affine = volume.transpose(2, 1, 0)[::-1, ::-1], np.eye(4)
        if index == 1:  # the same world, stored the other way round, axes in another order
            stored, affine = (
                volume.transpose(1, 0, 2),
                np.array([[0, 0, -1, 0], [-1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]]),
            )
        nibabel.save(nibabel.Nifti1Image(stored, affine), folder / f"patient-{index}{suffix}")


def save_dicom(folder, volume, uid="1.2.3", positions=None, **more):
    pydicom = pytest.importorskip("pydicom")
    folder.mkdir(parents=True, exist_ok=True)
    for number, rows in enumerate(volume):
        one = pydicom.Dataset()
        one.file_meta = pydicom.dataset.FileMetaDataset()
        one.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        one.file_meta.MediaStorageSOPClassUID = one.SOPClassUID = pydicom.uid.CTImageStorage
        one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID = f"{uid}.{number}"
        one.SeriesInstanceUID, one.SeriesNumber, one.InstanceNumber = uid, uid[-1], number + 1
        one.Rows, one.Columns = rows.shape
        one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
        one.BitsAllocated = one.BitsStored = 16
        one.HighBit, one.PixelRepresentation = 15, 0
        one.RescaleSlope, one.RescaleIntercept = "0.5", "-1000"
        one.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        one.ImagePositionPatient = [0, 0, 2.5 * number if positions is None else positions[number]]
        one.PixelData = ((rows.astype(int) + 1000) * 2).astype(np.uint16).tobytes()
        for name, value in more.items():
            setattr(one, name, value)
        # Names in another order than the slices.
        one.save_as(folder / f"{uid[-1]}{(7 * number) % 5}{number}.dcm", enforce_file_format=True)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_nifti_volumes_lie_alike_however_they_are_stored(tmp_path, suffix):
    save_nifti(tmp_path, suffix=suffix)
    volumes = VolumeFolder(tmp_path, WINDOW)
    assert volumes.names == [f"patient-{index}{suffix}" for index in range(3)]
    for index, values in enumerate(VALUES):
        assert volumes[index].shape == (1, 5, 6, 4)
        np.testing.assert_allclose(volumes[index][0].numpy(), scaled(values), atol=1e-6)


def test_dicom_series_are_stacked_by_place_in_their_units(tmp_path):
    for index, values in enumerate(VALUES):
        save_dicom(tmp_path / f"patient-{index}", values)
    save_dicom(tmp_path / "patient-2", VALUES[0], uid="1.2.4")
    volumes = VolumeFolder(tmp_path, WINDOW)
    assert volumes.names == ["patient-0", "patient-1", "patient-2[series 3]", "patient-2[series 4]"]
    for index, values in enumerate([*VALUES, VALUES[0]]):
        np.testing.assert_allclose(volumes[index][0].numpy(), scaled(values), atol=1e-6)


def test_a_series_of_one_file_is_a_picture(tmp_path):
    save_dicom(tmp_path / "chest", VALUES[0][:1])
    image = VolumeFolder(tmp_path, WINDOW)[0]
    np.testing.assert_allclose(image.numpy(), scaled(VALUES[0][:1]), atol=1e-6)


def test_percentiles_are_of_each_volume_by_itself(tmp_path):
    save_nifti(tmp_path)
    volumes = VolumeFolder(tmp_path, Window(percentiles=(10, 90)))
    for index, values in enumerate(VALUES):
        low, high = np.percentile(values, [10, 90])
        expected = np.clip((values - low) / (high - low), 0, 1)
        np.testing.assert_allclose(volumes[index][0].numpy(), expected, atol=1e-6)


def test_a_folder_of_volumes_is_a_data_module(tmp_path):
    save_nifti(tmp_path)
    module = ImagesDataModule(tmp_path, num_train=2, num_controls=1, window=(-1000, 1000), image_size=(4, 4, 4))
    module.setup()
    assert next(iter(module.train_dataloader())).shape == (2, 1, 4, 4, 4)
    assert re.fullmatch(r"patient-\d\.nii\.gz", module.train_dataset.names[0])


def missing(folder):
    save_dicom(folder, VALUES[0], positions=[0, 1, 2, 4, 5])


def twice(folder):
    save_dicom(folder, VALUES[0], positions=[0, 1, 1, 2, 3])


def several_in_a_file(folder):
    save_nifti(folder, RANDOM.random((1, 5, 6, 4)))
    import nibabel

    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 6, 5, 2)), np.eye(4)), folder / "patient-0.nii.gz")


def torn(folder):
    save_nifti(folder, VALUES[:1])
    file = next(folder.iterdir())
    file.write_bytes(file.read_bytes()[:100])


def with_nan(folder):
    save_nifti(folder, np.full((1, 5, 6, 4), np.nan))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (missing, "its slices are 1 to 2 apart: one is missing"),
        (twice, "its slices are 0 to 1 apart"),
        (several_in_a_file, "save each volume by itself"),
        (torn, "cannot be read as a volume"),
        (with_nan, "NaN"),
        (lambda folder: save_dicom(folder, VALUES[0], PhotometricInterpretation="MONOCHROME1"), "MONOCHROME1"),
        (lambda folder: save_dicom(folder, VALUES[0], NumberOfFrames=2), "several frames"),
    ],
)
def test_a_volume_that_cannot_be_known_is_one_line(tmp_path, make, words):
    folder = tmp_path / "scans"
    folder.mkdir()
    make(folder)
    with pytest.raises(ValueError, match=re.escape(words)) as error:
        VolumeFolder(folder, WINDOW)[0]
    assert "\n" not in str(error.value)


def test_without_a_window_volumes_are_refused(tmp_path):
    Path(tmp_path / "one.nii").touch()
    with pytest.raises(ValueError, match=r"path='.*' holds NIfTI files.* give window=.* or percentiles="):
        ImagesDataModule(tmp_path).setup()


def test_two_kinds_in_a_folder_are_refused(tmp_path):
    Path(tmp_path / "one.nii").touch()
    Image.new("L", (4, 4)).save(tmp_path / "preview.png")
    with pytest.raises(ValueError, match="holds NIfTI files and pictures; give a folder of one kind"):
        VolumeFolder(tmp_path, WINDOW)


def test_without_the_reader_it_says_what_to_install(tmp_path, monkeypatch):
    Path(tmp_path / "one.nii").touch()
    monkeypatch.setitem(__import__("sys").modules, "nibabel", None)
    with pytest.raises(ValueError, match=r"read by nibabel: pip install 'lightning-memaudit\[medical\]'"):
        VolumeFolder(tmp_path, WINDOW)


def test_a_window_for_pictures_is_refused(tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "one.png")
    with pytest.raises(ValueError, match="pictures have none"):
        ImagesDataModule(tmp_path, window=(0, 1)).setup()
    shutil.rmtree(tmp_path)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"window": (1, 1)}, "window=[1, 1]: give a lower number"),
        ({"window": (0, float("inf"))}, "window=[0, inf]"),
        ({"percentiles": (-1, 50)}, "percentiles=[-1, 50]"),
        ({"window": (0, 1), "percentiles": (0, 100)}, "give one of them"),
    ],
)
def test_a_window_that_is_none_is_one_line(given, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        ImagesDataModule("scans", **given)


ARRAYS = [
    ((4, 5, 6, 7), "DHW", (1, 5, 6, 7)),
    ((4, 5, 6, 7, 2), "DHWC", (2, 5, 6, 7)),
    ((4, 2, 5, 6, 7), "CDHW", (2, 5, 6, 7)),
    ((4, 64), "L", (1, 64)),
    ((4, 64, 3), "LC", (3, 64)),
    ((4, 3, 64), "CL", (3, 64)),
]


@pytest.mark.parametrize(("shape", "layout", "expected"), ARRAYS)
def test_arrays_of_volumes_and_signals_by_their_layout(tmp_path, shape, layout, expected):
    array = RANDOM.integers(-1000, 2000, shape)
    np.save(tmp_path / "volumes.npy", array)
    module = ImagesDataModule(tmp_path / "volumes.npy", None, 3, 1, layout=layout, window=(-1000, 1000))
    module.setup()
    batch = next(iter(module.train_dataloader()))
    assert batch.shape == (3, *expected)
    for image, name in zip(batch, module.train_dataset.names, strict=True):
        stored = scaled(array[int(name[len("volumes.npy[") : -1])])
        stored = stored if "C" in layout else stored[None]
        stored = np.moveaxis(stored, -1, 0) if layout.endswith("C") else stored
        np.testing.assert_allclose(image.numpy(), stored, atol=1e-6)


@pytest.mark.parametrize("shape", [(4, 5, 6, 7), (4, 5, 6, 7, 1), (4, 64)])
def test_what_is_not_said_is_refused(tmp_path, shape):
    np.save(tmp_path / "volumes.npy", RANDOM.random(shape))
    with pytest.raises(ValueError, match=r"volumes\.npy: .* DHW") as error:
        ImagesDataModule(tmp_path / "volumes.npy").setup()
    assert "\n" not in str(error.value)
