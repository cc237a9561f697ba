"""Folders of medical volumes: NIfTI files, DICOM series. Takes nibabel and pydicom, the extra ``[medical]``."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_memaudit.training.pictures import PICTURE_SUFFIXES, as_text, files_below
from lightning_memaudit.training.pixels import ImageSize, resize_and_crop
from lightning_memaudit.training.windows import NEEDED, Window

NIFTI = (".nii", ".nii.gz")
DICOM = (".dcm", ".dicom", ".ima")

MOST_UNEVEN = 1.5
"""Distances between neighbouring slices, against their median; beyond it a slice is missing."""

HEADER = ("SeriesInstanceUID", "SeriesNumber", "ImagePositionPatient", "ImageOrientationPatient", "InstanceNumber")


@dataclass(frozen=True)
class _Entry:
    """One volume of a folder: its name, and what reads its values (D, H, W), or (H, W) where there is one slice."""

    name: str
    read: Callable[[], NDArray[Any]]


class VolumeFolder:
    """The volumes in a folder and its subfolders, in the order of their names: float32 in [0, 1], (1, D, H, W).

    NIfTI files are turned so that depth goes from feet to head, rows to the back and columns to the left of the
    patient. A DICOM series is stacked along its normal; rows and columns stay as its slices have them. A series of
    one file is a picture (1, H, W).

    Args:
        folder: Where to look for .nii, .nii.gz and DICOM files.
        window: How values become those in [0, 1].
        image_size: See :func:`resize_and_crop`.
        argument: What the user knows the folder as, for messages.

    Raises:
        ValueError: There is no window, the reader is not installed, or the folder cannot be read; at indexing, a volume
            cannot.

    Attributes:
        names: Of each volume: its path within the folder, of a series that of its folder.

    >>> Path("patients").mkdir()
    >>> Path("patients/017.nii.gz").touch()
    >>> VolumeFolder(Path("patients"), window=None)
    Traceback (most recent call last):
    ValueError: path='patients' holds NIfTI files, whose values have no range that is known; give window=[<value of ...
    """

    def __init__(
        self, folder: Path, window: Window | None, image_size: ImageSize | None = None, argument: str = "path"
    ) -> None:
        named = f"{argument}={str(folder)!r}"
        files = list(files_below(folder))
        nifti = sorted(file for file in files if _is_nifti(file))
        dicom = sorted(file for file in files if not _is_nifti(file) and _is_dicom(file))
        kinds = [name for name, there in (("NIfTI files", nifti), ("DICOM files", dicom)) if there]
        kinds += ["pictures"] if any(file.suffix.lower() in PICTURE_SUFFIXES for file in files) else []
        if len(kinds) > 1:
            raise ValueError(f"{named} holds {' and '.join(kinds)}; give a folder of one kind")
        if window is None:
            raise ValueError(f"{named} holds {kinds[0]}, whose values have no range that is known; {NEEDED}")
        reader = _reader("nibabel" if nifti else "pydicom", f"{named} holds {kinds[0]}")
        read = _nifti_entries if nifti else _dicom_entries
        self.entries = read(reader, folder, nifti or dicom)
        self.names = [entry.name for entry in self.entries]
        self.folder, self.window, self.image_size = folder, window, image_size

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Tensor:
        entry = self.entries[index]
        try:
            values = self.window.scale(entry.read())
        except Exception as error:  # whatever the readers raise on what is damaged
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"{self.folder / entry.name} cannot be read as a volume ({reason})") from error
        return resize_and_crop(torch.from_numpy(np.ascontiguousarray(values))[None], self.image_size)


def holds_volumes(folder: Path) -> bool:
    """Whether there is a NIfTI or DICOM file in a folder or its subfolders."""
    return any(_is_nifti(file) or _is_dicom(file) for file in files_below(folder))


def _is_nifti(file: Path) -> bool:
    return file.name.lower().endswith(NIFTI)


def _is_dicom(file: Path) -> bool:
    """By its suffix; where it has none, by the letters behind its preamble."""
    suffix = file.suffix.lower()
    if suffix in DICOM:
        return True
    if suffix and not suffix[1:].isdigit():  # names may end in the numbers of a UID
        return False
    if file.name == "DICOMDIR":
        return False
    try:
        with file.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _reader(name: str, what: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise ValueError(f"{what}, read by {name}: pip install 'lightning-memaudit[medical]'") from error


def _nifti_entries(nibabel: Any, folder: Path, files: Sequence[Path]) -> list[_Entry]:
    def reading(file: Path) -> Callable[[], NDArray[Any]]:
        def read() -> NDArray[Any]:
            image = nibabel.as_closest_canonical(nibabel.load(file))
            values = np.asanyarray(image.dataobj)
            while values.ndim > 3 and values.shape[-1] == 1:
                values = values[..., 0]
            if values.ndim != 3 or values.dtype.kind not in "buif":
                raise ValueError(f"it holds {values.dtype} of shape {list(values.shape)}; save each volume by itself")
            # From right, front and feet first: as DICOM counts, columns go to the left and rows to the back.
            turned: NDArray[Any] = values[::-1, ::-1].transpose(2, 1, 0)
            return turned

        return read

    return [_Entry(as_text(file.relative_to(folder)), reading(file)) for file in files]


def _dicom_entries(pydicom: Any, folder: Path, files: Sequence[Path]) -> list[_Entry]:
    series: dict[tuple[Path, str], list[tuple[Path, Any]]] = {}
    for file in files:
        try:
            header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(HEADER))
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"{file} cannot be read as DICOM ({reason}); mend it or remove it") from error
        series.setdefault((file.parent, str(header.get("SeriesInstanceUID", ""))), []).append((file, header))
    places = [place for place, _ in series]
    entries = []
    for (place, uid), slices in series.items():
        name = as_text(place.relative_to(folder))
        if len(slices) == 1:
            name = as_text(slices[0][0].relative_to(folder))
        elif places.count(place) > 1:
            name = f"{name}[series {slices[0][1].get('SeriesNumber', uid)}]"
        entries.append(_Entry(name, _series(pydicom, slices)))
    return entries


def _series(pydicom: Any, slices: Sequence[tuple[Path, Any]]) -> Callable[[], NDArray[Any]]:
    def read() -> NDArray[Any]:
        if len(slices) == 1:
            return _slice(pydicom, slices[0][0])
        order = _order([header for _, header in slices])
        parts = [_slice(pydicom, slices[index][0]) for index in order]
        shapes = {part.shape for part in parts}
        if len(shapes) > 1:
            raise ValueError(f"its slices have shapes {sorted(shapes)}")
        return np.stack(parts)

    return read


def _order(headers: Sequence[Any]) -> list[int]:
    """Of the slices of a series: by their places along the normal.

    Raises:
        ValueError: It cannot be known, or a slice is missing or there twice.
    """
    directions = [np.array(one.get("ImageOrientationPatient") or (), dtype=float) for one in headers]
    positions = [np.array(one.get("ImagePositionPatient") or (), dtype=float) for one in headers]
    if all(len(one) == 6 for one in directions) and all(len(one) == 3 for one in positions):
        if any(np.abs(one - directions[0]).max() > 1e-3 for one in directions):
            raise ValueError("its slices have several orientations; give each volume a folder of its own")
        normal = np.cross(directions[0][:3], directions[0][3:])
        places = np.array([float(one @ normal) for one in positions])
    else:
        numbers = [one.get("InstanceNumber") for one in headers]
        if any(one is None for one in numbers):
            raise ValueError("its slices say neither their place nor their number")
        places = np.array([float(one) for one in numbers])
    order = np.argsort(places, kind="stable")
    steps = np.diff(places[order])
    if steps.min() <= 1e-3 or steps.max() > MOST_UNEVEN * np.median(steps):
        raise ValueError(
            f"its slices are {steps.min():.3g} to {steps.max():.3g} apart: one is missing, or several volumes share it"
        )
    return [int(index) for index in order]


def _slice(pydicom: Any, file: Path) -> NDArray[Any]:
    """The values (H, W) of a DICOM file, in the units that it says, such as Hounsfield's."""
    header = pydicom.dcmread(file)
    if int(header.get("SamplesPerPixel", 1)) != 1 or int(header.get("NumberOfFrames", 1) or 1) != 1:
        raise ValueError(f"{file.name} holds colours or several frames; save grey slices, one a file")
    values: NDArray[Any] = import_module("pydicom.pixels").apply_modality_lut(header.pixel_array, header)
    if str(header.get("PhotometricInterpretation", "")) == "MONOCHROME1":
        raise ValueError(f"{file.name} counts from white to black (MONOCHROME1); save it as MONOCHROME2")
    return values
