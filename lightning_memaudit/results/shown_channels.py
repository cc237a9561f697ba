"""Which channels of an image stand for all of them in pictures, where there are more than a picture can show."""

from collections.abc import Sequence
from typing import Any


def given_channels(channels: Any, name: str = "show_channels") -> tuple[int, ...] | None:
    """The channels as they were asked for, checked but for how many an image has; None are the first ones.

    Args:
        channels: One index, or three for red, green and blue, from 0 on, as a sequence; or None.
        name: Of the argument.

    Raises:
        ValueError: It is none of these.

    >>> given_channels([3, 2, 1]), given_channels(None)
    ((3, 2, 1), None)
    """
    if channels is None:
        return None
    is_list = isinstance(channels, Sequence) and not isinstance(channels, str)
    if not is_list or len(channels) not in (1, 3) or not all(type(one) is int and one >= 0 for one in channels):
        raise ValueError(
            f"{name}={channels!r}: pass three channels for red, green and blue, counted from 0, such as [3, 2, 1], or "
            "one, such as [7]"
        )
    return tuple(channels)


def check_channels(channels: Sequence[int] | None, number: int, name: str = "show_channels") -> None:
    """Raise unless images of so many channels have these.

    Raises:
        ValueError: They do not.

    >>> check_channels([3, 2, 1], number=3)
    Traceback (most recent call last):
    ValueError: show_channels=[3, 2, 1]: images have 3 channels, counted from 0 to 2; leave it out, or name others
    """
    if channels is not None and max(channels) >= number:
        count = "1 channel, which is 0" if number == 1 else f"{number} channels, counted from 0 to {number - 1}"
        raise ValueError(f"{name}={list(channels)}: images have {count}; leave it out, or name others")
