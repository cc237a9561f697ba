"""What the untrained weights were audited with: only the same audit of the same images can be a negative control."""

import numpy as np
from numpy.typing import NDArray

from lightning_memaudit.results.judgement import Judgement
from lightning_memaudit.results.reason_words import listed, words

_SAME = 1e-4
"""Of brightness and contrast: devices sum in other orders."""


def told_apart(judgement: Judgement, untrained: Judgement) -> list[str]:
    """In which respects an audit of the untrained weights was another one than that it stands beside; empty if none.

    More patterns may have been tried, and a lower threshold asked for: then even more could have been found.

    Args:
        judgement: Of the audit.
        untrained: Of the untrained weights.
    """
    found = []
    lacking = {one.pattern for one in judgement.patterns} - {one.pattern for one in untrained.patterns}
    if lacking:
        found.append(f"without {listed(sorted(lacking), 'and')}")
    if untrained.method != judgement.method:
        found.append(f"by {words(untrained.method)} recovery")
    if untrained.threshold_db > judgement.threshold_db:
        found.append(f"at {untrained.threshold_db:g} dB")
    others = [name for name, images in judgement.looks.items() if not _same(images, untrained.looks.get(name))]
    if others:
        found.append(f"with other {' and '.join(others)}")
    return found


def is_passed(judgement: Judgement, untrained: Judgement) -> bool | None:
    """Whether nothing came back from the untrained weights; None where that was not known, or was another audit."""
    memorized = untrained.counted.members.memorized
    if memorized is None or (not memorized.count and told_apart(judgement, untrained)):
        return None
    return memorized.count == 0


def _same(one: NDArray[np.float64], other: NDArray[np.float64] | None) -> bool:
    """Whether two groups are of the same images, by what these look like."""
    if other is None or one.shape != other.shape:
        return False
    return bool(np.isclose(one, other, rtol=0, atol=_SAME, equal_nan=True).all())
