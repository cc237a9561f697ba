"""Whether what the training does to its images is drawn at random: a batch that is given again tells.

Augmentation and noise make other images of the same ones each time. A blur, a filter, a compression or a crop that is
always the same does not, whatever it is: then the network was trained on other images than an audit gives it. So the
step is begun once more, on images of an earlier batch in another order and with other random numbers, and is left as
soon as they reach the network: before anything is learned from them.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch.trainer.states import RunningStage
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor
from torch.utils._pytree import tree_map

from lightning_memaudit.callback.batch_content import are_members
from lightning_memaudit.callback.caller import Caller
from lightning_memaudit.callback.calls import seed_all
from lightning_memaudit.callback.curves import LEAST_CHANGE
from lightning_memaudit.callback.input_watch import InputWatch, WentIn, like_images
from lightning_memaudit.callback.inspection import Inspection
from lightning_memaudit.callback.isolation import NotPutBack, in_stage, without_lasting_steps
from lightning_memaudit.callback.reading.affine import Affine, fit_exact
from lightning_memaudit.callback.state.snapshot import Snapshot
from lightning_memaudit.callback.step_code import may_leave_traces
from lightning_memaudit.callback.telling import MEND_CURVE

LEAST_TIMES, MOST_TIMES, SECONDS = 10, 32, 2.0
"""A batch is given again, and how long that may take: what is done to whole batches nine times out of ten
comes so often in one of thirty runs."""

SAME = 0.02
"""Of the change itself, by which it may differ from one time to the next, as computations on GPUs do."""

ALWAYS = "the same each time that its images are given again"
ONE_OF_FEW = "one of a few each time that its images are given again, and never the image itself"
BY_BATCH = "the same when its batch is given again, and another when half of it is, as by the range or mean of a batch"


MENDS = {
    ALWAYS: MEND_CURVE,
    ONE_OF_FEW: MEND_CURVE,
    BY_BATCH: "let training_step do it by numbers that are the same for all batches, and pass reconstruct=<a function "
    "(module, images) that does the same, and undoes it on the result>",
}


MOST_KINDS = 4.2
"""Images that each one becomes, in the mean, if it is flipped or not, in both directions, after what is always done."""


class Altered(NamedTuple):
    """Images of a batch and what the training made of them.

    Attributes:
        name: The layer that got them.
        place: Which of its calls in the step that was, from 0.
        images: (B, C, *spatial) of the batch, in [0, 1].
        wanted: As the audit would give them to the layer.
        seen: What the layer got.

    >>> images = torch.rand(4, 1, 8, 8)
    >>> Altered("", 0, images, images, images).change
    0.0
    """

    name: str
    place: int
    images: Tensor
    wanted: Tensor
    seen: Tensor

    @property
    def change(self) -> float:
        """Root mean square, in units of the images' standard deviation."""
        if self.seen.shape != self.wanted.shape:
            return 0.0
        deviation = float(self.wanted.float().std())
        return float((self.seen.float() - self.wanted).square().mean().sqrt()) / max(deviation, 1e-12)

    @property
    def is_near(self) -> bool:
        """Whether it is a map so near to none that no audit minds it."""
        found = fit_exact(self.wanted, self.seen)
        return found is not None and found.close_to(Affine())


def altered(
    found: Inspection,
    name: str,
    place: int,
    images: Tensor,
    calls: Sequence[Tensor],
    expected: Affine,
    beside: Sequence[Tensor],
) -> Altered | None:
    """The images of a batch and what became of them; None where a call got them as they are, or members are so too.

    None, too, where the batch itself holds what a call got, as the noisy images beside the clean ones: whoever made the
    batch may have drawn it at random.

    Args:
        found: The members; it learns whether they are prepared as the model gets them.
        name: The layer.
        place: Of the first of the calls among all of the layer.
        images: (B, C, *spatial) of the batch, in [0, 1].
        calls: What the layer got instead, in the layout of images.
        expected: The map from images to what the audit gives the layer.
        beside: What else the batch held before the step.
    """
    wanted = expected.apply(images)
    pairs = [Altered(name, place, images, wanted, seen) for seen in calls]
    is_changed = all(bool(one.seen.isfinite().all()) and one.change > LEAST_CHANGE for one in pairs)
    if not is_changed or any(holds(beside, seen) for seen in calls):
        return None
    if not found.reads[0].source.given:
        return pairs[0]
    found.prepared = found.prepared or are_members(expected.undo(pairs[0].seen.to(images)), found)
    return pairs[0] if are_members(images, found) and not found.prepared else None


def holds(tensors: Sequence[Tensor], seen: Tensor) -> bool:
    """Whether one of the tensors holds these images or what a layer got, but for a scale and an offset.

    >>> images = torch.rand(4, 1, 8, 8)
    >>> holds([torch.arange(4), 2 * images - 1], images), holds([images.flip(-1)], images)
    (True, False)
    """
    for tensor in tensors:
        rows = like_images(seen, tensor) if tensor.ndim > 1 and len(tensor) >= len(seen) else None
        if rows is not None and fit_exact(rows[: len(seen)].to(seen.device).float(), seen) is not None:
            return True
    return False


class _Outcomes:
    """Of each image, the different ones that it has become so far."""

    def __init__(self, before: Altered) -> None:
        self.before, self.kinds, self.num_times = before, [before.seen], 1
        changed = (before.seen.float() - before.wanted).square().mean()
        self._allowed = SAME**2 * float(changed)
        self._num_kinds = torch.ones(len(before.seen), dtype=torch.int64)
        self._is_whole = self.same(before.wanted, before.seen)

    @property
    def are_one(self) -> bool:
        """Whether each image became the same each time."""
        return bool((self._num_kinds == 1).all())

    def same(self, one: Tensor, other: Tensor) -> Tensor:
        """(B,) which images are the same in both, or were not given."""
        distance = (one.float() - other.float()).flatten(1).square().mean(1)
        return ~(distance > self._allowed).cpu()

    def add(self, seen: Tensor) -> bool:
        """Note what the images became once more; False where that is drawn at random.

        It is where an image is at times left as it is, or becomes more than a few.
        """
        known = torch.stack([self.same(seen, one) for one in self.kinds]).any(0)
        self.num_times += 1
        if not bool(known.all()):
            # Of an image that is known already, another copy does no harm.
            self.kinds.append(seen)
            self._num_kinds += ~known
        self._is_whole |= self.same(self.before.wanted, seen)
        is_left = bool((self._is_whole & (self._num_kinds > 1)).any())
        is_many = self.num_times > MOST_KINDS and float(self._num_kinds.float().mean()) > MOST_KINDS
        return not is_left and not is_many


class GivenAgain:
    """A batch of an earlier step that is given to ``training_step`` again.

    Args:
        caller: Knows the run, and keeps it undisturbed.
        found: Knows where the images of a batch are.
        before: What was made of them.
        batch: A copy of the batch, made before the step.

    >>> from lightning.pytorch import Trainer
    >>> from lightning_memaudit.callback.model import ModelCall
    >>> from lightning_memaudit.measurement.processes import Processes
    >>> from lightning_memaudit.training.module import AutoencoderModule
    >>> caller = Caller(Trainer(accelerator="cpu", logger=False), AutoencoderModule(torch.nn.Identity()), ModelCall(),
    ...     Processes())
    >>> images = torch.rand(4, 1, 8, 8)
    >>> before = Altered("", 0, images, images, images)
    >>> GivenAgain(caller, Inspection(), before, images)._taken(torch.tensor([1, 0])).shape
    torch.Size([2, 1, 8, 8])
    """

    def __init__(self, caller: Caller, found: Inspection, before: Altered, batch: Any) -> None:
        self.caller, self.found, self.before, self.batch = caller, found, before, batch

    def way(self) -> str | None:
        """In which way the change comes again, in words; None where it does not, or cannot be known.

        To be called between two steps. Nothing is known of steps that cannot be left without a trace, see
        :func:`~lightning_memaudit.callback.step_code.may_leave_traces`, nor of a model that holds a generator function,
        which the step may take from; of those that take long before the images reach the layer; of several processes.
        """
        if self.caller.trainer.world_size > 1 or may_leave_traces(self.caller.pl_module):
            return None  # the processes would not begin as many steps, or a step that is left would be noticed
        if Snapshot(self.caller.owners).is_one_way:
            return None
        everything = torch.arange(len(self.before.images))
        outcomes = _Outcomes(self.before)
        with self._in_training():
            generator, begun = torch.Generator().manual_seed(0), perf_counter()
            for seed in range(MOST_TIMES):
                if perf_counter() - begun > SECONDS:
                    if seed < LEAST_TIMES:
                        return None
                    break
                seen = self._again(everything[torch.randperm(len(everything), generator=generator)], seed)
                if seen is None or not outcomes.add(seen):
                    return None
            if outcomes.are_one:
                half = everything[: len(everything) // 2]
                seen = self._again(half, 0) if len(half) > 1 else None
                if seen is not None and not bool(outcomes.same(seen, self.before.seen).all()):
                    return BY_BATCH
                return None if self.before.is_near else ALWAYS
            # What differs with the order alone is mixed with its neighbors.
            unmoved = [self._again(everything, MOST_TIMES + more) for more in range(2)]
            is_mixed = all(one is None or bool(outcomes.same(one, self.before.seen).all()) for one in unmoved)
            return None if is_mixed else ONE_OF_FEW

    @contextmanager
    def _in_training(self) -> Iterator[None]:
        """Each module in the mode in which it is trained."""
        caller = self.caller
        modes = [(one, one.training) for one in caller.pl_module.modules()]
        with (
            caller.undisturbed(),
            without_lasting_steps(caller.trainer),
            in_stage(caller.trainer, RunningStage.TRAINING),
            caller.trainer.precision_plugin.train_step_context(),
        ):
            for one, training in modes:
                one.training = training
            yield

    def _again(self, order: Tensor, seed: int) -> Tensor | None:
        """What becomes of these images, given in this order; None where they do not reach the layer.

        In the order of the batch, with NaN for images that were not given.
        """
        before = self.before
        batch = self._taken(order)
        wanted = before.images[order.to(before.images.device)]
        images = self.found.reads[0].images_in(batch)
        if images is None or images.shape != wanted.shape or not torch.equal(images, wanted):
            if len(order) < len(before.images):
                return None
            batch, order, wanted = copy.deepcopy(self.batch), torch.arange(len(before.images)), before.images
        seen = self._begun(batch, wanted, seed)
        if seen is None or seen[:1].shape != before.seen[:1].shape or not bool(seen.isfinite().all()):
            return None
        placed = torch.full_like(before.seen, torch.nan)
        placed[order.to(placed.device)] = seen.to(placed)
        return placed

    def _taken(self, order: Tensor) -> Any:
        """A copy of the batch, of these images in this order, as far as it is known what belongs to each."""
        count = len(self.before.images)

        def taken(one: Any) -> Any:
            if isinstance(one, Tensor):
                return one[order.to(one.device)] if one.ndim and len(one) == count else one.clone()
            if isinstance(one, np.ndarray) and one.ndim and len(one) == count:
                return one[order.numpy()]
            return copy.deepcopy(one)

        return tree_map(taken, self.batch)

    def _begun(self, batch: Any, images: Tensor, seed: int) -> Tensor | None:
        """What reaches the layer when the training's step is begun on a batch."""
        module, before = self.caller.pl_module, self.before
        arguments = [batch]
        if is_param_in_hook_signature(module.training_step, "batch_idx", min_args=2):
            arguments.append(self.caller.trainer.fit_loop.epoch_loop.batch_idx)
        seed_all(seed)
        watch = InputWatch(module, images.shape[1:], until=(before.name, before.place))
        try:
            with watch:
                module.training_step(*arguments)
        except NotPutBack:
            return None
        except WentIn:
            values = watch.arrivals[before.name][before.place].values
            return None if values is None else like_images(images, values)
        return None
