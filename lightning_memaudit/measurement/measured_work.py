"""What recoveries took, as measured by ``bench estimate --table true``: its output replaces this file."""

from typing import NamedTuple


class Baseline(NamedTuple):
    forwards: float = 55.0
    calls: float = 29.0


BASELINE = Baseline()


class Copies(NamedTuple):
    forwards: float = 55.0
    calls: float = 29.0
    least_psnr: float = 25.0


COPIES = Copies()


class Ex(NamedTuple):
    forwards: float = 30.0
    calls: float = 65.0
    share: float = 1.0


EXTRACTION = Ex()
_E = {
    "apart": {0.5: ((10.0, 200.0, 100.0, 20.0, 20.0), (50.0, 55.0, 29.0, 0.0, 0.0))},
    "together": {0.5: ((10.0, 200.0, 100.0, 20.0, 20.0), (50.0, 55.0, 29.0, 0.0, 0.0))},
}
MEASURED = dict.fromkeys(
    ("search", "search_without_gradients", "given_penalties", "autoencoder_iterations", "white_box"), _E
)
