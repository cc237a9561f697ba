"""What things are called in page, figures, terminal and loggers: images by their names, losses by what they are.

Names of images come from other people's file systems. They are text to show and nothing else: whatever could steer a
terminal, hide a part of a name or turn its direction is written out, and long ones are shortened in the middle.
"""

import unicodedata
from collections.abc import Mapping
from typing import Any

import numpy as np

MEMBERS_MSE = "members' MSE"
"""Short for ``train_loss`` of the results files, wherever there is little room."""

TRAIN_LOSS = "train loss (MSE of the audited members)"

TRAIN_LOSS_EXPLAINED = (
    "Members' MSE, train_loss in the files, is the mean squared error of the autoencoder's own output for the audited "
    "members, in [0, 1] and in evaluation mode. The loss that training_step returns, which at_train_loss waits for, is "
    "another quantity."
)

MAX_LENGTH = 40
"""Characters of a name in a table or a strip."""

_JOINERS = "\N{ZERO WIDTH JOINER}\N{ZERO WIDTH NON-JOINER}"
_UNPRINTABLE = ("Cc", "Cf", "Cs", "Zl", "Zp")  # controls, turns of direction, halves of characters, ends of lines


def image_name(row: Mapping[str, Any]) -> str:
    """What a person calls the image of a row: its name, or its index where there is none that one can see.

    Args:
        row: Of ``images.jsonl``, of ``report.json``, or any with ``image`` and perhaps ``name``.

    >>> image_name({"image": 17, "name": "cats/0017.jpg"}), image_name({"image": 17})
    ('cats/0017.jpg', '17')
    """
    return _or_index(row.get("name"), row["image"])


def saved_names(arrays: "Mapping[str, np.ndarray[Any, Any]]", group: str) -> list[str]:
    """Names of the saved images of a group; the indices as text where a run recorded none.

    >>> saved_names({"members/indices": np.array([7, 9])}, "members")
    ['7', '9']
    """
    indices = arrays.get(f"{group}/indices", ())
    names = arrays.get(f"{group}/names", indices)
    return [_or_index(name, index) for name, index in zip(names, indices, strict=True)]


def _or_index(name: Any, index: Any) -> str:
    return str(index) if name is None or not str(name).strip() else str(name)


def printable(text: str) -> str:
    r"""The text with escapes for what is no visible character: safe in a terminal, a page, a file in UTF-8.

    >>> printable("a\x1b[31m\n\u202egpj.exe")
    'a\\x1b[31m\\n\\u202egpj.exe'
    """
    return "".join(
        char.encode("unicode_escape").decode()
        if unicodedata.category(char) in _UNPRINTABLE and char not in _JOINERS
        else char
        for char in text
    )


def shortened(text: str, length: int = MAX_LENGTH) -> str:
    """The text, or its beginning and its end where it is longer than ``length`` characters; all of it printable.

    >>> shortened("photographs/2019/holiday/0017.jpg", 20)
    'photograp…y/0017.jpg'
    """
    text = printable(text)
    if len(text) <= length:
        return text
    tail = length // 2
    return f"{text[: length - tail - 1]}…{text[-tail:]}"


def well_formed(value: Any) -> Any:
    r"""A JSON value whose texts UTF-8 can hold: half characters, as in names of files that are no text, are escaped.

    >>> well_formed({"name": "cat\udcff.jpg", "image": 3})
    {'name': 'cat\\udcff.jpg', 'image': 3}
    """
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, Mapping):
        return {well_formed(key): well_formed(item) for key, item in value.items()}
    return [well_formed(item) for item in value] if isinstance(value, list) else value


def trigger_label(trigger: str) -> str:
    """Why an audit ran, for people; a level of the training's own loss is said to be one.

    >>> trigger_label("train_loss<=0.01, epoch 10"), trigger_label("fit_end")
    ("training_step's loss <= 0.01, epoch 10", 'fit end')
    """
    return trigger.replace("_", " ").replace("train loss<=", "training_step's loss <= ")


def reason_label(code: str) -> str:
    """A reason of a verdict, any that there is, in words.

    >>> reason_label("train_loss_too_high"), reason_label("not_deterministic")
    ("members' MSE too high", 'not deterministic')
    """
    return code.replace("train_loss", MEMBERS_MSE).replace("_", " ")
