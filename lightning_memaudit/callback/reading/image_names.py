"""What an image is called in its data set: a path or an id, so that it can be found there, and deleted."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lightning_memaudit.callback.reading.loaders import place_in_root

ITEM_KEYS = (
    "__key__", "name", "path", "file", "filename", "file_name", "filepath", "file_path", "image_path", "img_path",
    "image_id", "id", "key",
)  # fmt: skip
"""Keys and attributes of an item that say what it is called."""

LISTS = ("names", "samples", "imgs", "paths", "files", "filenames", "file_names", "image_paths", "image_files", "ids")
"""Attributes of a data set that hold one name per item."""


def name_in(item: Any, key: Any = None) -> str | None:
    """What an item itself says that it is called; None where it says nothing.

    Args:
        item: Of a data set.
        key: Of the image in it: of several files of an item, such as image and segmentation, its own comes first.

    >>> name_in({"pixels": 0, "path": "cats/0017.jpg"}), name_in((0, 1))
    ('cats/0017.jpg', None)
    """
    own = _innermost(key)
    if isinstance(item, Mapping) and own in item:
        for metadata in (_attribute(item[own], "meta"), item.get(f"{own}_meta_dict")):
            if isinstance(metadata, Mapping) and (name := _text(metadata.get("filename_or_obj"))) is not None:
                return name  # MONAI
    for part in (item, *(item if isinstance(item, tuple | list) and len(item) < 10 else ())):
        named = isinstance(part, Mapping) or hasattr(part, "__dict__")
        for key in ITEM_KEYS if named else ():
            value = part.get(key) if isinstance(part, Mapping) else _attribute(part, key)
            if (name := _text(value)) is not None:
                return name
        metadata = _attribute(part, "meta") or (part.get("meta") if isinstance(part, Mapping) else None)
        if isinstance(metadata, Mapping) and (name := _text(metadata.get("filename_or_obj"))) is not None:
            return name  # MONAI
        if isinstance(part, Mapping):
            for value in part.values():
                metadata = _attribute(value, "meta")
                if isinstance(metadata, Mapping) and (name := _text(metadata.get("filename_or_obj"))) is not None:
                    return name
    return None


def _innermost(key: Any) -> str | None:
    """The name that the image has in its mapping; None for other keys."""
    last = key[-1] if isinstance(key, Sequence) and not isinstance(key, str) and key else key
    return last if isinstance(last, str) else None


def names_in_batch(batch: Any, count: int) -> list[str | None]:
    """What a batch says that its images are called, where the data set itself makes the batches.

    >>> names_in_batch({"__key__": ["a", "b"], "png": None}, 2)
    ['a', 'b']
    """
    for part in (batch, *(batch if isinstance(batch, tuple | list) and len(batch) < 10 else ())):
        for key in ITEM_KEYS if isinstance(part, Mapping) else ():
            column = part.get(key)
            if isinstance(column, Sequence) and not isinstance(column, str | bytes) and len(column) >= count:
                return [_text(value) for value in column[:count]]
    return [None] * count


def _attribute(value: Any, name: str) -> Any:
    """Without calling properties of strangers, but for ``meta`` of MONAI's tensors, which is one."""
    try:
        own = vars(value)
    except TypeError:
        return None
    return own.get(name, own.get(f"_{name}"))


def _text(value: Any) -> str | None:
    """A name, from text, paths and numbers; None from anything else."""
    if isinstance(value, Sequence) and not isinstance(value, str | bytes) and len(value) == 1:
        value = value[0]
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        return None
    return str(value)


def name_in_dataset(dataset: Any, index: int, key: Any = None) -> str | None:
    """What the data set has as the name of an item, without reading it; None where it has none.

    Looks at lists with one entry per item, such as ``samples`` of torchvision's folders, through Subset and
    ConcatDataset. Of entries with several paths the one of the image's own key comes first.

    >>> from types import SimpleNamespace
    >>> class Folder(list):
    ...     samples = [("pets/cats/0017.jpg", 0), ("pets/dogs/0001.jpg", 1)]
    ...     root = "pets"
    >>> name_in_dataset(Folder([0, 1]), 0)
    'cats/0017.jpg'
    """
    root, place = place_in_root(dataset, index)
    try:
        own, size = {**vars(type(root)), **vars(root)}, len(root)
    except TypeError:
        return None
    likely = [own[name] for name in LISTS if name in own] + [
        value for name, value in own.items() if name not in LISTS and not name.startswith("__")
    ]
    for position, entries in enumerate(likely):
        known = position < sum(name in own for name in LISTS)
        if isinstance(entries, list | tuple | np.ndarray) and len(entries) == size and size:
            name = _entry_name(entries[place], known, _innermost(key))
            if name is not None:
                return relative(name, own.get("root"))
    return None


def _entry_name(entry: Any, known: bool, key: str | None) -> str | None:
    """From a path, or a tuple or mapping that holds one; anything goes where the list is known to hold names."""
    if isinstance(entry, Mapping):
        return (
            _path(entry.get(key))
            or name_in(entry)
            or next((name for value in entry.values() if (name := _path(value))), None)
        )
    if isinstance(entry, tuple | list) and entry:
        entry = entry[0]
    return _text(entry) if known else _path(entry)


def _path(value: Any) -> str | None:
    if isinstance(value, os.PathLike):
        return str(os.fspath(value))
    if isinstance(value, str) and "\n" not in value and len(value) < 1000:
        return value if os.sep in value or 2 <= len(Path(value).suffix) <= 6 else None
    return None


def relative(name: str, root: Any) -> str:
    """A path without the folder of its data set."""
    if isinstance(root, str | os.PathLike):
        try:
            return Path(name).relative_to(Path(os.fspath(root))).as_posix()
        except ValueError:
            return name
    return name


def without_common_folder(names: Sequence[str]) -> list[str]:
    """Absolute paths without the folder that they share; other names as they are.

    >>> without_common_folder(["/data/pets/cats/1.jpg", "/data/pets/dogs/1.jpg"])
    ['cats/1.jpg', 'dogs/1.jpg']
    """
    if not names or not all(Path(name).is_absolute() for name in names):
        return list(names)
    common = os.path.commonpath([str(Path(name).parent) for name in names])
    return [Path(name).relative_to(common).as_posix() for name in names]


def names_of(dataset: Any, indices: Sequence[int], read: Sequence[str | None], key: Any = None) -> list[str]:
    """What images are called: by the data set's lists, else by the items, else the index.

    Args:
        dataset: Whose items they are; None where it gives batches or can only be iterated.
        indices: Of the images.
        read: What items or batches say; what is missing at the end says nothing.
        key: Of the image in an item.

    >>> names_of(None, [0, 1, 2], ["cat", "cat"])
    ['cat[0]', 'cat[1]', '2']
    """
    listed = [None if dataset is None else name_in_dataset(dataset, index, key) for index in indices]
    names = [
        in_list or in_item or str(index)
        for index, in_list, in_item in zip(indices, listed, [*read, *([None] * len(indices))], strict=False)
    ]
    names = without_common_folder(names)
    counts = Counter(names)
    # A name that several have, as that of a class, finds nothing.
    return [name if counts[name] == 1 else f"{name}[{index}]" for index, name in zip(indices, names, strict=True)]
