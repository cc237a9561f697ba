"""Fills of many values: mosaics, blocks of several colors, stretched borders, few levels of grey.

Each of the values hides little, so that the most frequent one, which is looked for first, is a small part of the fill:
with the rest taken for observed, hardly anything comes back, and next to nothing seems to be hidden.
"""

import torch
from torch import Tensor

from lightning_memaudit.recovery.candidates import ERROR_PER_SCORE, Candidate
from lightning_memaudit.recovery.fills import LEAST_SHARE, ConstantFill, find_repeated_values, hidden_share
from lightning_memaudit.recovery.spatial import axes

RUN = 3
"""Equal pixels in a row that image content seldom shows, all channels taken together."""


def find_runs(observed: Tensor, run: int = RUN) -> Tensor:
    """Where at least ``run`` pixels in a row are equal along some axis: (B, 1, *spatial) bool.

    Args:
        observed: y, (B, C, *spatial).
        run: Pixels, at least 2.

    >>> find_runs(torch.tensor([[[1.0, 2, 2, 3, 3, 3, 1]]])).long().tolist()
    [[[0, 0, 0, 1, 1, 1, 0]]]
    """
    found = torch.zeros_like(observed[:, :1], dtype=torch.bool)
    for axis in axes(observed):
        pairs = observed.shape[axis] - 1
        if pairs < run - 1:
            continue
        equal = (observed.narrow(axis, 0, pairs) == observed.narrow(axis, 1, pairs)).all(1, keepdim=True)
        begins = torch.stack([equal.narrow(axis, step, pairs - run + 2) for step in range(run - 1)]).all(0)
        for step in range(run):
            found.narrow(axis, step, pairs - run + 2).logical_or_(begins)
    return found


def many_values(observed: Tensor, first: ConstantFill, second: ConstantFill) -> tuple[Tensor, ConstantFill]:
    """All that repeats is the fill: values that many pixels have, and rows of equal pixels.

    The observation speaks for it where that hides clearly more than two values can.

    Args:
        observed: y, (B, C, *spatial).
        first: The value that most pixels have.
        second: The next one.

    Returns:
        Whether the observation speaks for it, (B,) bool, and the fill.

    >>> from lightning_memaudit.recovery.fills import find_constant_fill, find_other_fill
    >>> image = torch.linspace(0.1, 0.9, 256).view(1, 1, 16, 16)
    >>> mosaic = image[..., ::4, ::4].repeat_interleave(4, 2).repeat_interleave(4, 3)
    >>> image[..., 8:] = mosaic[..., 8:]  # the right half of it: eight squares
    >>> first = find_constant_fill(image)
    >>> speaks, fill = many_values(image, first, find_other_fill(image, first))
    >>> int((first.mask == 0).sum()), speaks.item(), fill.mask[0, 0].mean(0).tolist() == [1.0] * 8 + [0.0] * 8
    (16, True, True)
    """
    repeated = find_repeated_values(observed)
    mask = torch.minimum(repeated.mask, 1 - find_runs(observed).to(observed.dtype))
    fill = repeated._replace(mask=mask)
    share = hidden_share(fill)
    more = share >= hidden_share(first) + hidden_share(second) + LEAST_SHARE
    speaks = more & (share <= 1 - LEAST_SHARE) & (first.noise == 0)
    return speaks, fill._replace(present=speaks)


def error_under(found: Candidate, fill: ConstantFill) -> Tensor:
    """Expected error, (B,), if as much is hidden as another reading says.

    A reading that hides too little takes the rest of the fill for data, and expects no error there.

    Args:
        found: The best candidates under one reading.
        fill: The other one.

    >>> from lightning_memaudit.recovery.fills import find_constant_fill
    >>> image = torch.linspace(0, 1, 16).view(1, 1, 4, 4)
    >>> fill, score = find_constant_fill(image.clamp_min(image[0, 0, 1, 3])), torch.tensor([0.25])  # hides a half
    >>> error_under(Candidate(image, image, score, score / 10), fill).item() == ERROR_PER_SCORE * 0.25 / 2
    True
    """
    as_if = ERROR_PER_SCORE * found.score.double() * hidden_share(fill)
    return torch.maximum(found.expected_error, as_if.to(found.score.dtype))
