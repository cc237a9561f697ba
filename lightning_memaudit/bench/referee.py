"""How often the verdict's rules are wrong, and what they find: simulated on the rules themselves, without any network.

Images are drawn as they look to the rules: whether they came back, and by how many dB closer than the best baseline.
Where nothing was memorized, members and controls come from one distribution; so every *memorized* is false.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from lightning_memaudit.bench.common import tell, write_and_show
from lightning_memaudit.results.comparability import APPEARANCE
from lightning_memaudit.results.image_columns import ImageColumns
from lightning_memaudit.results.judgement import judge
from lightning_memaudit.results.names import INPAINTER
from lightning_memaudit.results.verdict import conclude

Gains = NDArray[np.float64]
METHOD = "blind"
_HEAD = [{"audit": 0, "trigger": "simulated", "train_loss": 1e-4, "threshold_db": 30.0}]


def referee(
    num_members: int = 100,
    num_controls: Sequence[int] = (20, 50, 100, 200, 1000),
    num_patterns: Sequence[int] = (1, 2, 4, 8),
    shares: Sequence[float] = (0.01, 0.02, 0.05, 0.1),
    by_chance: float = 0.05,
    num_trials: int = 1000,
    seed: int = 0,
    output: str = "bench-referee.json",
) -> None:
    """Show how often *memorized* and *traces* are said where nothing was memorized, and how often where some was.

    Args:
        num_members: Members in each audit.
        num_controls: Numbers of controls to try.
        num_patterns: Numbers of patterns to try.
        shares: Shares of the members that are memorized.
        by_chance: Chance of an image to come back beyond every baseline though nobody memorized it, in any pattern.
        num_trials: Audits that are drawn for each number; its standard error is at most ``0.5 / sqrt(num_trials)``.
        seed: Of the draws.
        output: Where the numbers are written.

    Raises:
        ValueError: A number is out of its range.
    """
    for name, value in (("num_members", num_members), ("num_trials", num_trials)):
        if value < 1:
            raise ValueError(f"{name}={value}: must be 1 or more")
    if not 0 <= by_chance < 1 or not all(0 < share <= 1 for share in shares):
        raise ValueError(f"by_chance={by_chance}, shares={list(shares)}: must be between 0 and 1")
    rng = np.random.default_rng(seed)
    table = Table(title=f"{num_members} members, {num_trials} audits each: share that is called memorized / traces")
    table.add_column("controls", justify="right")
    for number in num_patterns:
        table.add_column(f"none,\n{number} pattern{'s' if number > 1 else ''}", justify="right")
    for share in shares:
        table.add_column(f"{share:.0%}", justify="right")
    rows: list[dict[str, Any]] = []
    for controls in num_controls:
        cells = [(patterns, 0.0, by_chance) for patterns in num_patterns] + [(2, share, 0.0) for share in shares]
        shown = []
        for patterns, share, chance in cells:
            found = outcome_shares(rng, num_trials, num_members, controls, patterns, share, chance)
            rows.append({"num_controls": controls, "num_patterns": patterns, "share_memorized": share, **found})
            shown.append(
                f"{found['memorized']:.1%} / {found['traces']:.1%}" if not share else f"{found['memorized']:.0%}"
            )
        table.add_row(str(controls), *shown)
        tell(f"{controls} controls: {len(cells) * num_trials} audits simulated")
    write_and_show({"num_members": num_members, "num_trials": num_trials, "rows": rows}, table, output, width=130)


def outcome_shares(
    rng: np.random.Generator,
    num_trials: int,
    num_members: int,
    num_controls: int,
    num_patterns: int,
    share: float,
    by_chance: float,
) -> dict[str, float]:
    """The share of simulated audits with each outcome, see :func:`referee`."""
    counts = dict.fromkeys(("memorized", "traces", "not_memorized", "inconclusive"), 0)
    for _ in range(num_trials):
        groups = {
            "members": _draw(rng, num_members, num_patterns, round(share * num_members), by_chance),
            "controls": _draw(rng, num_controls, num_patterns, 0, by_chance),
        }
        counts[conclude(judge(_HEAD, simulated_columns(groups))).outcome] += 1
    return {outcome: count / num_trials for outcome, count in counts.items()}


def _draw(rng: np.random.Generator, count: int, num_patterns: int, num_memorized: int, by_chance: float) -> Gains:
    """Gains in dB, (patterns, images): alike in all patterns of an image, as those of real images are."""
    gains = rng.normal(-2, 1, (num_patterns, count)) + rng.normal(0, 1, count)
    lucky = rng.random(count) < by_chance
    lucky[:num_memorized] = True
    places = rng.integers(num_patterns, size=count)
    gains[places[lucky], np.flatnonzero(lucky)] = rng.uniform(7, 20, int(lucky.sum()))
    return gains


def simulated_columns(groups: dict[str, Gains]) -> ImageColumns:
    """The columns of an audit in which images came back where their gain is at least 6 dB.

    Args:
        groups: Gains in dB, (patterns, images), of ``members`` and of ``controls``.
    """
    columns = {}
    for group, gains in groups.items():
        nothing, no = np.full(gains.shape[1], np.nan), np.zeros(gains.shape[1], dtype=bool)
        shared = dict.fromkeys((*APPEARANCE, "ssim", "mask_accuracy", "score"), nothing)
        shared |= {"position": np.arange(gains.shape[1]), "image": np.arange(gains.shape[1])}
        shared |= dict.fromkeys(("certified", "diverged", "failed"), no)
        # The own error tells little here, only that unseen images do not pass through as members do: what it tells is
        # another matter than what comes back.
        shared |= {"reconstruction_psnr": np.linspace(26, 38, gains.shape[1]) - 4 * (group == "controls")}
        for row, gain in enumerate(gains):
            baseline = np.full(len(gain), 24.0)
            for method, own in ((METHOD, gain), (INPAINTER, np.zeros_like(gain))):
                quality = {"psnr": baseline + own, "hidden_psnr": baseline + own, "baseline_psnr": baseline}
                back = own >= 6
                columns[group, f"pattern-{row}", method] = {
                    **shared,
                    **quality,
                    "recovery_gain": own,
                    "recovered": back,
                }
    return ImageColumns.of_columns(columns)
