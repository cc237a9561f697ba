"""The first steps of a training, watched: what they show of how it calls the model, told before any audit."""

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from lightning_memaudit.callback.caller import Caller
from lightning_memaudit.callback.calls import Compared, FirstCalls, compare_calls
from lightning_memaudit.callback.first_batch import FirstBatch
from lightning_memaudit.callback.given_again import MENDS, GivenAgain
from lightning_memaudit.callback.input_watch import InputWatch, Reached, like_images, reached_layers
from lightning_memaudit.callback.inspection import Inspection
from lightning_memaudit.callback.kept_conditions import STEPS, Kept, KeptConditions, beside_images
from lightning_memaudit.callback.model_checks import few_images
from lightning_memaudit.callback.reading.affine import Affine
from lightning_memaudit.callback.run_inspection import has_spread_weights
from lightning_memaudit.callback.seen import Normalization, Seen
from lightning_memaudit.callback.step_code import takes_iterator
from lightning_memaudit.callback.telling import MEND_CALL, Telling
from lightning_memaudit.measurement.processes import AuditStopped


class FirstSteps:
    """Looks at batches from the first one on, until it has been seen how the training calls the model.

    Args:
        caller: Calls the model as the audits do.
        found: What was read.
        seen: What the model sees of the images.
        telling: Says what is found; None says it as of the first steps.

    >>> from lightning.pytorch import Trainer
    >>> from lightning_memaudit.callback.model import ModelCall
    >>> from lightning_memaudit.measurement.processes import Processes
    >>> from lightning_memaudit.training.module import AutoencoderModule
    >>> model = AutoencoderModule(nn.Identity())
    >>> caller = Caller(Trainer(accelerator="cpu", logger=False), model, ModelCall(), Processes())
    >>> FirstSteps(caller, Inspection(), None).end(stepped=False)  # nothing has begun
    """

    _watch_of: type[FirstBatch] = FirstBatch

    def __init__(self, caller: Caller, found: Inspection, seen: Seen | None, telling: Telling | None = None) -> None:
        self.caller, self.found, self.seen = caller, found, seen
        self.telling = telling or Telling(found)
        self._first: FirstBatch | None = None
        self._is_watching = not has_spread_weights(caller.trainer)
        self._batch: Any = None
        self._copy: Any = None
        self._again: GivenAgain | None = None
        self._is_new = False  # whether that is of the step that is just over
        if self._is_watching and not can_be_watched(caller.pl_module):
            self._is_watching = False
            self.telling.nothing_compared("it is compiled")
        self._takes_iterator = takes_iterator(caller.pl_module)  # then no batch is known before its step is over
        self._kept = KeptConditions(caller.pl_module)
        self._kept_steps = STEPS if self._is_watching and not self._takes_iterator else 0
        self._kept_batch: Any = None
        self.reconstructs: str | None = None  # the layer from which what becomes of a batch's images comes

    @property
    def is_over(self) -> bool:
        """Whether it has been seen how the training calls the model, or cannot be."""
        return not self._is_watching and self._first is None and not self._kept_steps and self._again is None

    def begin(self, batch: Any) -> None:
        """Look at a batch before ``training_step`` gets it.

        Raises:
            ValueError: It holds other images, or the same in another range, than are audited.
        """
        self._begin_kept(batch)
        if not self._is_watching:
            return
        if self._first is None:
            self._first = self._prepared()
        if self._takes_iterator:
            self._first.watch()
        else:
            self._look(self._first, batch)

    def _look(self, first: FirstBatch, batch: Any, is_over: bool = False) -> None:
        if first.calls is None and self.caller.how.takes_batch(self.caller.pl_module):
            with suppress(Exception):  # of what cannot be copied, nothing more is compared
                self._batch = copy.deepcopy(batch)
        if self._again is None and not is_over:
            with suppress(Exception):  # likewise
                self._copy = copy.deepcopy(batch)
        if all(one.affine is None and one.curve is None for one in first.in_audit.values()):
            first.in_audit = self._audited(batch, first.in_audit)
        first.begin(batch, is_over)

    def _audited(self, batch: Any, in_audit: Mapping[str, Reached]) -> Mapping[str, Reached]:
        """What reaches the layers, also when the audit is called on a batch: where reconstruct prepares the images."""
        try:
            images = self.found.reads[0].images_in(batch)
            if images is None:
                return in_audit
            with self.audit_call(batch) as audit, InputWatch(self.caller.pl_module, images.shape[1:]) as watch:
                audit(images)
            values = {name: one[0].values for name, one in watch.arrivals.items() if name in in_audit and one}
            laid_out = {name: like_images(images, one) for name, one in values.items() if one is not None}
        except AuditStopped:
            raise
        except Exception:  # then there is nothing to compare with
            return in_audit
        return {name: one._replace(audited=laid_out.get(name)) for name, one in in_audit.items()}

    def _begin_kept(self, batch: Any) -> None:
        if not self._kept_steps:
            return
        self._kept_steps -= 1
        with suppress(Exception):  # attributes may be anything: what cannot be looked at must not end the training
            images = self.found.reads[0].images_in(batch)
            beside = [] if images is None else beside_images(batch, images)
            if beside:
                self._kept.begin()
                self._kept_batch = batch, beside

    def _end_kept(self) -> None:
        """See whether the step has kept a condition of its batch on the model."""
        noted, self._kept_batch = self._kept_batch, None
        if noted is None:
            return
        batch, beside = noted
        kept: list[Kept] = []
        with suppress(Exception):
            kept = self._kept.end(beside)
        if not kept or self.found.doubts:
            return
        read: list[str] = []
        with suppress(Exception):
            read = self._read_in_audit(kept, batch)
        if read:
            self._kept_steps = 0
            self.telling.doubt(
                f"the training sets {' and '.join(read)} of the model from what its batches hold beside the images, "
                "which the audit does not",
                MEND_CALL,
            )

    def _read_in_audit(self, kept: Sequence[Kept], batch: Any) -> list[str]:
        """Names of the attributes that make a difference when the audit calls the model."""
        images = self.found.reads[0].images_in(batch)
        if images is None:
            return []
        with self.audit_call(batch) as audit:
            return [one.name for one in kept if one.is_read(lambda: audit(images), self.caller.pl_module)]

    @contextmanager
    def audit_call(self, batch: Any) -> Iterator[Callable[[Tensor], Any]]:
        """The audit's call on images; or, where it takes a whole batch, on this one whatever the images are."""
        caller, how = self.caller, self.caller.how
        with caller.calling() as (call, _), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            conditional = how.takes_batch(caller.pl_module)
            audit: Any = how.autoencoder(call, self.seen, conditional)
            with caller.trainer.precision_plugin.forward_context():
                yield (lambda _: call(batch)) if conditional else audit

    def _prepared(self) -> FirstBatch:
        """Learn what reaches the layers in an audit.

        Only when the training has started: modules may set themselves up in ``on_train_start``.
        """
        module, read = self.caller.pl_module, self.found.reads[0]
        with self.caller.autoencoder(self.seen) as (autoencoder, _):
            block = next(few_images(read.group).blocks(autoencoder, 2))
            with InputWatch(module, block.images.shape[1:]) as watch, torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what there is to say of the call was said when the model was checked
                block.autoencoder(block.images)
            in_audit = reached_layers(watch, block.images)
        if self.caller.trainer.strategy.model is not module:
            in_audit.pop("", None)  # wrapped models call training_step through the module's own forward
        if read.group.conditions is not None:
            # The images of one call have one condition there: what else it is given may be another for others.
            in_audit = {
                name: one._replace(beside=one.beside | {(label, True) for label, _ in one.beside})
                for name, one in in_audit.items()
            }
        normalization = Normalization() if self.seen is None else self.seen.normalization
        return self._watch_of(module, self.found, in_audit, Affine.of_normalization(normalization), self.telling)

    def end(self, stepped: bool, batch: Any = None) -> None:
        """Compare what reached the model with what the audit gives it.

        Args:
            stepped: Whether a loss came of the batch; otherwise the step is over.
            batch: Once it is over.

        Raises:
            ValueError: That is something else.
        """
        if self._takes_iterator:
            if stepped:
                return
            if self._first is not None and self._is_watching:
                self._look(self._first, batch, is_over=True)
        self._end_first(stepped)
        if not stepped:
            self._end_kept()
            if self._again is not None and not self._is_new:
                self._step_after()
            self._is_new = False

    def _step_after(self) -> None:
        """A step has been made after the one whose batch is to be given again."""
        self.give_again()

    def give_again(self) -> None:
        """See whether what was done to the images of an earlier batch is done again, in the step after it or later."""
        again, self._again = self._again, None
        if again is None or self.found.doubts:
            return
        try:
            way = again.way()
        except AuditStopped:
            raise
        except Exception:  # a step that cannot be begun again: nobody knows
            return
        if way is not None:
            self.telling.doubt(
                "the training changes its images before the model gets them, which the audit does not do: what it "
                f"makes of them is {way}",
                MENDS[way],
            )

    def _end_first(self, stepped: bool) -> None:
        first = self._first
        if first is None:
            return
        if self._is_watching:
            self._is_watching = self._goes_on(first.end(stepped))
        if not stepped:
            first.end_step()
            self.reconstructs = first.reconstructs
            self._keep_altered(first)
        if not stepped and first.calls is not None:
            calls, first.calls = first.calls, None
            compared = self._compare_calls(calls)
            words = None if compared.alike else first.beside or compared.words
            if words is not None:
                first.doubt(words, MEND_CALL)
        if not stepped and not self._is_watching:
            self._first = self._batch = None

    def _keep_altered(self, first: FirstBatch) -> None:
        """For a batch whose images did not reach the model as they are: it is given again after another step."""
        before, batch = first.altered, self._copy
        first.altered = self._copy = None
        if before is not None and batch is not None and self._again is None:
            self._again, self._is_new = GivenAgain(self.caller, self.found, before, batch), True

    def _goes_on(self, is_seen: bool) -> bool:
        """Whether to look at the next batch too."""
        return not is_seen

    def _compare_calls(self, calls: FirstCalls) -> Compared:
        """Make both calls once more, between two steps, when nothing waits for gradients."""
        if self.found.doubts:
            return Compared(None, False)
        try:
            with self.audit_call(self._batch) as audit:
                return compare_calls(self.caller.trainer, self.caller.pl_module, calls, audit)
        except AuditStopped:
            raise
        except Exception as error:
            self.telling.nothing_compared(
                f"a second call fails ({type(error).__name__}: {' '.join(str(error).split())})"
            )
            return Compared(None, False)

    def close(self) -> None:
        """Stop watching."""
        if self._first is not None:
            self._first.close()


def can_be_watched(module: nn.Module) -> bool:
    """Whether hooks on layers change nothing: not where ``training_step`` is compiled, and they with it."""
    return getattr(module, "_compiler_ctx", None) is None
