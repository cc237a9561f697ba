"""Watches, in the second steps of a training, what its loss makes the model return, and tells what is no image."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from lightning_memaudit.callback.first_steps import FirstSteps
from lightning_memaudit.callback.hooks import OwnHook
from lightning_memaudit.callback.input_watch import Call, like_images
from lightning_memaudit.callback.inspection import listed
from lightning_memaudit.callback.loss_target import NEARLY, Target, find_target, left_out
from lightning_memaudit.callback.reading.affine import Affine, fit_exact
from lightning_memaudit.callback.reading.items import plain, tensors_in
from lightning_memaudit.callback.seen import Normalization
from lightning_memaudit.callback.several_loaders import other_images
from lightning_memaudit.measurement.processes import AuditStopped

STEPS = 4
"""That are looked at; two must show the same."""

MEND = "pass reconstruct=<a function (module, images)> that makes images in [0, 1] of what it returns"


class TargetWatch:
    """Compares what the loss wants of the model with what the audit expects of it.

    Args:
        first: Knows the run, and how it is audited.

    >>> from lightning.pytorch import Trainer
    >>> from lightning_memaudit.callback.caller import Caller
    >>> from lightning_memaudit.callback.inspection import Inspection
    >>> from lightning_memaudit.callback.model import ModelCall
    >>> from lightning_memaudit.measurement.processes import Processes
    >>> from lightning_memaudit.training.module import AutoencoderModule
    >>> caller = Caller(Trainer(accelerator="cpu", logger=False), AutoencoderModule(nn.Identity()), ModelCall(),
    ...     Processes())
    >>> TargetWatch(FirstSteps(caller, Inspection(), None)).end()  # nothing has begun
    """

    def __init__(self, first: FirstSteps) -> None:
        self.first = first
        self._left = STEPS
        self._epoch: int | None = None
        self._before: Target | None = None
        self._left_out: Tensor | None = None  # of the step before
        self._handle: Any = None
        self._images: dict[tuple[Any, ...], Tensor] = {}
        self._on_tensors: list[Any] = []
        self._returned: list[tuple[Tensor, Tensor, Tensor | None]] = []  # with the gradient, and what was given

    def begin(self, batch: Any, layer: nn.Module | None) -> None:
        """Watch the step that is about to be made.

        Args:
            batch: Its batch.
            layer: From which what becomes of the images comes; None where that is not known.
        """
        self.close()
        epoch = self.first.caller.trainer.current_epoch
        self._epoch = epoch if self._epoch is None else self._epoch
        # In later epochs images may be prepared otherwise, which is told as such.
        if layer is None or self._left <= (0 if epoch == self._epoch else STEPS - 2):
            return
        self._left -= 1
        with suppress(Exception):  # batches may be anything: what cannot be looked at must not end the training
            read = self.first.found.reads[0]
            images = read.images_in(batch)
            if images is not None:
                place = *read.source.path, *read.format.place
                self._images = {place: images.clone()} | other_images(batch, read)
                self._handle = layer.register_forward_hook(OwnHook(self._note), with_kwargs=True)

    def close(self) -> None:
        """Stop watching."""
        if self._handle is not None:
            self._handle.remove()
        for handle in self._on_tensors:  # which may be kept
            handle.remove()
        self._handle, self._on_tensors, self._images, self._returned = None, [], {}, []

    def end(self) -> None:
        """Tell, where two steps have shown that the model is to return something else than its images."""
        images, returned, targets = self._images, self._returned, list[Target]()
        self.close()
        with suppress(Exception):
            # A call beside that of the images may be on anything, such as noise of which nothing should come.
            wanted = next(iter(images.values()))
            on_images = [one for one in returned if one[2] is not None and fit_exact(wanted, one[2]) is not None]
            for call in on_images or returned:
                found = find_target(*call, images)
                if found is None:  # nobody knows what that call is for
                    self._tell_of_places(left_out(*call[:2]), wanted)
                    return
                targets.append(found)
        if not targets:
            return
        found = next((one for one in targets if self._is_expected(one, next(iter(images)))), targets[0])
        before, self._before = self._before, found
        if not found.same(before):
            return
        self._left = 0
        if not self._is_expected(found, next(iter(images))) and self._is_taken_as_it_is(next(iter(images.values()))):
            self.first.telling.learns_otherwise(*self._words(found, next(iter(images))))

    def _tell_of_places(self, places: Tensor | None, images: Tensor) -> None:
        """Tell, where two steps have left the same out."""
        before, self._left_out = self._left_out, places
        if places is None or before is None or not torch.equal(places, before):
            return
        self._left = 0
        if self._is_taken_as_it_is(images):
            self.first.telling.learns_otherwise(
                f"the training's loss leaves out {int(places.sum())} of the {places.numel()} values that the model "
                "returns of each image, the same of all images",
                "pass reconstruct=<a function (module, images)> that gives the image itself there",
            )

    def _note(self, layer: nn.Module, arguments: Any, named: Any, output: Any) -> None:
        if not torch.is_grad_enabled() or self._returned:
            return
        with suppress(Exception):
            images = next(iter(self._images.values()))
            given = Call(arguments, named).images(images[0].numel())
            given = None if given is None else like_images(images, plain(given.detach()).clone())
            shaped = (one for _, one in tensors_in(output) if one.requires_grad and one.shape == images.shape)
            tensor = next(shaped)
            hook = self._keeps(tensor.detach().clone(), given)
            self._on_tensors.append(tensor.register_hook(hook))  # type: ignore[no-untyped-call]

    def _keeps(self, returned: Tensor, given: Tensor | None) -> Callable[[Tensor], None]:
        def keep(gradient: Tensor) -> None:
            self._returned.append((returned, gradient.detach().clone(), given))

        return keep

    @property
    def _expected(self) -> Affine:
        """From images in [0, 1] to what the audit takes for them in what is returned."""
        seen = self.first.seen
        return Affine.of_normalization(Normalization() if seen is None else seen.normalization)

    def _is_expected(self, found: Target, place: tuple[Any, ...]) -> bool:
        if found.is_logits or found.path not in (None, place):
            return False
        return found.affine.close_to(Affine() if found.path is None else self._expected, NEARLY)

    def _is_taken_as_it_is(self, images: Tensor) -> bool:
        """Whether the audit takes what comes from the layer for the images, and makes nothing else of it."""
        first = self.first
        layer = first.caller.pl_module.get_submodule(first.reconstructs or "")
        returned: list[Tensor] = []

        def keep(_: nn.Module, arguments: Any, output: Any) -> None:
            returned.extend(one for _, one in tensors_in(output) if one.shape == images[:2].shape)

        try:
            with first.audit_call(None) as audit:
                handle = layer.register_forward_hook(keep)  # only within, where what is reached is not put back yet
                try:
                    audited = audit(images[:2])
                finally:
                    handle.remove()
                return any(torch.allclose(self._expected.undo(one.float()), audited, atol=1e-3) for one in returned)
        except AuditStopped:
            raise
        except Exception:  # of what needs a whole batch, nothing is said
            return False

    def _words(self, found: Target, place: tuple[Any, ...]) -> tuple[str, str]:
        """What is wrong, and what to do."""
        begin = "the training's loss makes the model return"
        if found.is_logits and found.path in (None, place):
            key = self.first.caller.how.output
            keys = [] if key is None else key if isinstance(key, list) else [key]
            output = '"torch.sigmoid"' if not keys else [*keys, "torch.sigmoid"]
            return "the training's loss takes what the model returns for logits", f"pass output={output}"
        if found.ignores_images:
            return f"{begin} the same of all images, as of what is added to them", MEND
        if found.path is not None and found.path != place:
            key = listed(found.path[len(self.first.found.reads[0].source.path) :])
            return f"{begin} the images at {key}", f"pass image_key={key}"
        return f"{begin} {found.affine.words('image')}", MEND
