"""Which images of a batch the training learns from: a loss may leave some out, as by a weight of zero.

The model is given them all the same. But of what comes out of it for such an image no gradient is taken.
"""

from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lightning_memaudit.callback.hooks import OwnHook, is_batched
from lightning_memaudit.callback.reading.items import tensors_in


class LearnedRows:
    """Watches the gradients of what comes out of a layer, one row for each image; they stay as they are.

    Args:
        layer: Is called on all images of a batch.

    >>> layer, images = nn.Linear(4, 4), torch.rand(3, 4)
    >>> learned = LearnedRows(layer)
    >>> learned.begin(count=3)
    >>> errors = (layer(images) - images).square().mean(1)
    >>> (errors * torch.tensor([1.0, 0.0, 1.0])).mean().backward()
    >>> learned.end()
    >>> learned.rows().tolist()
    [True, False, True]
    """

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer
        self._count = 0
        self._handle: Any = None
        self._is_known = self._is_called = False
        self._has_loss = False
        self._is_reached = False  # in any step: a loss may also be taken within the layer
        self._rows: Tensor | None = None
        self._on_tensors: list[Any] = []

    def begin(self, count: int) -> None:
        """A step is about to be made on a batch of so many images."""
        self.end()
        self._count, self._rows = count, None
        self._is_known, self._is_called, self._has_loss = True, False, False
        self._handle = self.layer.register_forward_hook(OwnHook(self._note))

    def see_loss(self) -> None:
        """The step has come to a loss: it learns from something."""
        self._has_loss = True

    def end(self) -> None:
        """The step is over, or was never made."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None
        for handle in self._on_tensors:  # which may be kept, or used again in the next step
            handle.remove()
        self._on_tensors = []

    def rows(self) -> Tensor | None:
        """(B,) of which images the last step has taken gradients; None where nobody knows.

        A step that has neither called the layer nor come to a loss has skipped its batch.
        """
        if not (self._is_known and self._is_reached and (self._is_called or not self._has_loss)):
            return None
        return torch.zeros(self._count, dtype=torch.bool) if self._rows is None else self._rows

    def _note(self, layer: nn.Module, arguments: Any, output: Any) -> None:
        if not torch.is_grad_enabled():
            return
        with suppress(Exception):  # outputs may be anything: what cannot be looked at must not end the training
            for _, tensor in tensors_in(output):
                if tensor.requires_grad and not tensor.is_leaf:  # as a parameter is that is returned beside
                    is_by_image = tensor.ndim > 1 and len(tensor) == self._count and not is_batched(tensor)
                    self._is_called = self._is_called or is_by_image
                    hook = partial(self._reach, is_by_image)
                    self._on_tensors.append(tensor.register_hook(hook))  # type: ignore[no-untyped-call]

    def _reach(self, is_by_image: bool, gradient: Tensor) -> None:
        with suppress(Exception):
            self._is_known = self._is_known and is_by_image  # a loss that comes out is of any of the images
            if is_by_image:
                rows = (gradient.detach() != 0).flatten(1).any(1)
                self._rows = rows if self._rows is None else self._rows | rows
                self._is_reached = True
