"""What an audit costs beside the forward passes that it cannot do without."""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, Literal, NamedTuple

import torch
import torch.multiprocessing
from rich.table import Table
from torch import Tensor, nn

from lightning_memaudit.bench.common import make_autoencoder, tell, write_and_show
from lightning_memaudit.bench.timing import Timing, interleave, machine, synchronize
from lightning_memaudit.recovery import Alternation, BlindRecovery, KnownMaskRecovery
from lightning_memaudit.recovery.checks import check_counts
from lightning_memaudit.recovery.replay import replays

PENALTY = 0.1
ONE_ROUND = 60
"""Evaluations at most of the method that tunes itself: its first round, all that most recovered images need."""
ONE_BY_ONE = 16
"""Images that are recovered one at a time; the time of a larger batch follows by proportion."""


class Case(NamedTuple):
    """One row of the table.

    Attributes:
        network: ``FC-10`` or ``U-Net``.
        image_shape: (C, H, W).
        batch: Number of images.

    >>> case = Case("FC-10", image_shape=(3, 8, 8), batch=50)
    >>> case.make()(torch.zeros(case.batch, *case.image_shape)).shape
    torch.Size([50, 3, 8, 8])
    """

    network: str
    image_shape: tuple[int, int, int]
    batch: int

    def make(self, width: int = 256) -> nn.Module:
        """An autoencoder with random weights; its speed does not depend on what it has learned."""
        torch.manual_seed(0)
        return make_autoencoder(self.network, self.image_shape, width).eval()


CASES = (
    *(Case("FC-10", (3, 32, 32), batch) for batch in (1, 50, 400, 4000)),
    Case("FC-10", (3, 64, 64), 50),
    Case("FC-10", (3, 64, 64), 400),
    Case("U-Net", (3, 32, 32), 50),
    Case("FC-10", (3, 64, 64), 600),
    Case("FC-10", (3, 32, 32), 25_000),
)
Precision = Literal["float32", "bfloat16"]


class Cast(nn.Module):
    """Calls an autoencoder under autocast to bfloat16, as an audit of a run in bf16-mixed does.

    >>> Cast(nn.Linear(2, 2))(torch.ones(1, 2)).dtype
    torch.float32
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Float32 in and out."""
        with torch.autocast(images.device.type, torch.bfloat16):
            output: Tensor = self.network(images)
        return output.float()


@torch.no_grad()
def speed(
    repeats: int = 5,
    seconds: float = 1.0,
    batches: Sequence[int] = (1, 50, 400, 4000),
    device: str = "auto",
    processes: bool = True,
    width: int = 256,
    precision: Precision = "float32",
    compile: bool = False,
    output: str = "bench-speed.json",
) -> None:
    """Time the recovery against its own forward passes, one image at a time, DeepInverse, and two processes.

    All do the same number of evaluations of the same autoencoder on the same images, but for the self-tuned method,
    whose time is scaled to that number in proportion; none stops early. Every number is a median over
    interleaved repeats. On a GPU, an iteration but for the autoencoder is one CUDA graph, as in the command `audit`.

    Args:
        repeats: Repeats of every piece of work.
        seconds: Time that the forward passes alone of one repeat should take; sets the number of iterations.
        batches: Batch sizes to measure, of 1, 50, 400, 600, 4000 and 25000; cases of other sizes are left out.
        device: auto, cpu or cuda.
        processes: Compare one process with two (on the CPU, one thread each).
        width: Hidden units of the fully connected ones.
        precision: Of the autoencoder's calls; what surrounds them is float32.
        compile: Call the compiled autoencoder, in all that is timed.
        output: JSON file with all numbers.

    Raises:
        ValueError: ``repeats`` is below 1, or no case has one of the batch sizes.
    """
    check_counts(repeats=repeats, width=width)
    where = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    chosen = [case for case in CASES if case.batch in batches]
    if not chosen:
        known = ", ".join(str(size) for size in sorted({case.batch for case in CASES}))
        raise ValueError(f"batches={list(batches)}: none is measured; give some of {known}")
    rows = []
    with replays() if where.type == "cuda" else nullcontext():
        for case in chosen:
            network = case.make(width).to(where)
            network = Cast(network) if precision == "bfloat16" else network
            # torch.compile returns a module for a module, which its signature does not say.
            called: Any = torch.compile(network) if compile else network
            rows.append(_measure(case, called, repeats, seconds, where))
    content: dict[str, Any] = {
        "machine": machine(where),
        "width": width,
        "precision": precision,
        "compile": compile,
        "rows": rows,
    }
    if processes and where.type == "cpu":
        content["two_processes"] = _two_processes(max(case.batch for case in chosen), width, seconds)
    write_and_show(content, _table(content), output)
    if "two_processes" in content:
        two = content["two_processes"]
        print(
            f"two processes: {two['speedup']:.2f} times the throughput of one, one thread each, "
            f"FC-10 32x32x3, batch {two['batch']}; their forward passes alone {two['speedup_of_forwards']:.2f} times"
        )


def _measure(case: Case, network: nn.Module, repeats: int, seconds: float, device: torch.device) -> dict[str, Any]:
    truth = torch.rand(case.batch, *case.image_shape, device=device)
    mask = (torch.rand(case.batch, 1, *case.image_shape[1:], device=device) >= 0.5).float()
    observed = truth * mask
    iterations = _iterations(network, observed, seconds)
    alternation = Alternation(num_iterations=iterations, tolerance=0.0)
    known = KnownMaskRecovery(penalties=[PENALTY], alternation=alternation)
    blind = BlindRecovery(mask_estimator="least_squares", penalties=[PENALTY], alternation=alternation)
    evaluations = int(known(network, observed, mask).num_evaluations[0])
    self_tuned = BlindRecovery(max_evaluations=ONE_ROUND, certification=None)
    own_evaluations = float(self_tuned(network, observed).num_evaluations.double().mean())

    def forwards() -> None:
        # Always of the same images: random weights shrink their own results to numbers that some processors crawl on.
        for _ in range(evaluations):
            network(observed)

    few = min(ONE_BY_ONE, case.batch)

    def one_by_one() -> None:
        for row in range(few):
            blind(network, observed[row : row + 1])

    works: dict[str, Callable[[], object]] = {
        "forwards": forwards,
        "blind": lambda: blind(network, observed),
        "known_mask": lambda: known(network, observed, mask),
        "self_tuned": lambda: self_tuned(network, observed),
        "one_by_one": one_by_one,
    }
    deep_inverse = _deep_inverse(network, case, iterations, observed, mask)
    if deep_inverse is not None:
        works["deepinverse"] = deep_inverse
    timings = interleave(works, repeats, device)
    base = timings["forwards"].median
    tell(f"{case.network} {case.image_shape[1]}x{case.image_shape[2]}, batch {case.batch}: timed")
    for name, scale in (("one_by_one", case.batch / few), ("self_tuned", evaluations / own_evaluations)):
        timings[name] = Timing(*(scale * part for part in timings[name]))
    return {
        "network": case.network,
        "image_shape": list(case.image_shape),
        "batch": case.batch,
        "iterations": iterations,
        "evaluations": evaluations,
        "self_tuned_evaluations": own_evaluations,
        "seconds": {name: timing._asdict() for name, timing in timings.items()},
        "ratio_to_forwards": {name: timing.median / base for name, timing in timings.items()},
    }


def _iterations(network: nn.Module, observed: Tensor, seconds: float) -> int:
    """How many iterations the forward passes fill about ``seconds`` with: between 10 and 200."""
    network(observed)
    synchronize(observed.device)
    began = time.perf_counter()
    for _ in range(3):
        network(observed)
    synchronize(observed.device)
    return max(10, min(200, math.ceil(3 * seconds / (time.perf_counter() - began))))


def _deep_inverse(
    network: nn.Module, case: Case, iterations: int, observed: Tensor, mask: Tensor
) -> Callable[[], Tensor] | None:
    """DeepInverse's plug-and-play ADMM with the same autoencoder, the true mask and as many iterations."""
    try:
        from deepinv.optim import ADMM
        from deepinv.optim.data_fidelity import L2
        from deepinv.optim.prior import PnP
        from deepinv.physics import Inpainting
    except ImportError:
        return None
    physics = Inpainting(case.image_shape, mask=mask.expand_as(observed), device=observed.device)
    solver = ADMM(
        data_fidelity=L2(),
        prior=PnP(lambda image, sigma: network(image)),
        stepsize=1 / PENALTY,
        sigma_denoiser=0.0,
        max_iter=iterations,
        early_stop=False,
    )
    return lambda: solver(observed, physics)


def _two_processes(batch: int, width: int, seconds: float) -> dict[str, Any]:
    """Throughput of two processes, each with half of the images, against one with all of them; one thread each.

    Of the recovery, and of as many forward passes alone: two cores that share memory do not do twice as much.
    """
    case = Case("FC-10", (3, 32, 32), batch)
    one, two = (_in_processes(case, count, width, seconds) for count in (1, 2))
    return {
        "batch": batch,
        "seconds": {1: one["blind"], 2: two["blind"]},
        "speedup": one["blind"] / two["blind"],
        "speedup_of_forwards": one["forwards"] / two["forwards"],
    }


def _in_processes(case: Case, count: int, width: int, seconds: float) -> dict[str, float]:
    context = torch.multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(count), context.SimpleQueue()
    workers = [
        context.Process(target=_work, args=(case, case.batch // count, width, seconds, barrier, results))
        for _ in range(count)
    ]
    for worker in workers:
        worker.start()
    found: list[dict[str, float]] = [results.get() for _ in workers]
    for worker in workers:
        worker.join()
    return {name: max(times[name] for times in found) for name in found[0]}


@torch.no_grad()
def _work(case: Case, images: int, width: int, seconds: float, barrier: Any, results: Any) -> None:
    torch.set_num_threads(1)
    network = case.make(width)
    observed = torch.rand(max(1, images), *case.image_shape)
    # The same number of iterations in all processes: measured on a fixed batch.
    iterations = max(10, round(20 * seconds))
    alternation = Alternation(num_iterations=iterations, tolerance=0.0)
    blind = BlindRecovery(mask_estimator="least_squares", penalties=[PENALTY], alternation=alternation)

    def forwards() -> None:
        for _ in range(iterations):
            network(observed)

    works: dict[str, Callable[[], object]] = {"blind": lambda: blind(network, observed), "forwards": forwards}
    blind(network, observed[:8])
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(3):
        for name, work in works.items():
            barrier.wait()
            began = time.perf_counter()
            work()
            times[name].append(time.perf_counter() - began)
    results.put({name: sorted(taken)[1] for name, taken in times.items()})


def _table(content: dict[str, Any]) -> Table:
    where = content["machine"]
    table = Table(
        title=f"Time of a recovery, in units of its forward passes alone\n{where['device']}, "
        f"{where['threads']} threads, torch {where['torch']}, {content['precision']}, width {content['width']}"
        + (", compiled" if content["compile"] else ""),
        caption="medians; in parentheses the number and time of the forward passes, the unit of the row",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("autoencoder", no_wrap=True)
    for header in ("batch", "forwards", "paper\nblind", "known\nmask", "self-\ntuned", "one by\none", "Deep-\nInverse"):
        table.add_column(header, justify="right", no_wrap=True)
    for row in content["rows"]:
        ratio = row["ratio_to_forwards"]
        channels, height, width = row["image_shape"]
        table.add_row(
            f"{row['network']} {height}x{width}x{channels}",
            str(row["batch"]),
            f"1 ({row['evaluations']} in {row['seconds']['forwards']['median']:.2f} s)",
            *(f"{ratio[name]:.2f}" for name in ("blind", "known_mask", "self_tuned", "one_by_one")),
            f"{ratio['deepinverse']:.2f}" if "deepinverse" in ratio else "-",
        )
    return table
