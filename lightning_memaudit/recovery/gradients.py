"""Gradients through the autoencoder with respect to images: whether there are any, what they cost, and none kept."""

import functools
import warnings
from typing import Literal, get_args

import torch
from torch import Tensor

from lightning_memaudit.recovery.batches import ELEMENTS_PER_CHUNK
from lightning_memaudit.recovery.candidates import masked_mean, mean_weights
from lightning_memaudit.recovery.descent import Minimum, minimize
from lightning_memaudit.recovery.protection import InputProtected
from lightning_memaudit.recovery.types import Autoencoder
from lightning_memaudit.recovery.usual_output import AnswersImages, UsualOutput

UseOfGradients = Literal["auto", "never"]
"""Whether a search differentiates f: where that is possible, or not at all."""

GRADIENT_EVALUATIONS = 3
"""What a gradient costs, in evaluations of f: one forward, and a backward pass that counts as two."""

ACTIVATIONS_PER_CHUNK = 4
"""So many times :data:`ELEMENTS_PER_CHUNK` are the activations that are kept at once for a backward pass: about what
the variables of the search take in all."""


def check_gradients(gradients: str) -> None:
    """Raise unless ``gradients`` is ``auto`` or ``never``.

    Raises:
        ValueError: It is not.
    """
    if gradients not in get_args(UseOfGradients):
        raise ValueError(f"gradients={gradients!r}: pass 'auto' or 'never'")


def evaluations_allowed(max_evaluations: int | None, autoencoder: Autoencoder) -> int:
    """The number given, or 700 where ``autoencoder`` has gradients and 400 where it has none."""
    if max_evaluations is not None:
        return max_evaluations
    return 700 if isinstance(autoencoder, DifferentiableAutoencoder) and autoencoder.has_gradients else 400


class DifferentiableAutoencoder(InputProtected):
    """An autoencoder that is called as any other, and that can be differentiated if torch can do it.

    Gradients are taken with respect to images alone: weights get none and keep their ``requires_grad``, and no graph
    outlives the call.

    Args:
        autoencoder: f, (B, C, *spatial) to the same shape.

    Attributes:
        has_gradients: Whether f can be differentiated, as far as :meth:`look_for_gradients` has found.
        activations: Values that f keeps of one image for a backward pass, as :meth:`look_for_gradients` has counted
            them; a measure of what f allocates in a forward pass too. 0 where it is not known.
        kept_bytes: The same in bytes.
        answers_images: Whether it may return what it has stored for intact images alone.

    >>> images = torch.rand(2, 1, 4, 4)
    >>> for f in (torch.tanh, torch.no_grad()(torch.tanh)):
    ...     autoencoder = DifferentiableAutoencoder(f)
    ...     autoencoder.look_for_gradients(images[:1])
    ...     print(autoencoder.has_gradients)
    True
    False
    """

    def __init__(self, autoencoder: Autoencoder) -> None:
        super().__init__(autoencoder)
        self.has_gradients = False
        self.answers_images = isinstance(autoencoder, AnswersImages)
        self._usual: UsualOutput | None = None
        self.activations, self.kept_bytes = 0, 0
        self._most_rows = 1

    def look_for_gradients(self, image: Tensor) -> None:
        """Differentiate f once: it may run without gradients, leave torch, or have a layer that has none.

        What f keeps for that also tells how many images fit the memory at once.

        Args:
            image: (1, C, *spatial).
        """
        self.has_gradients = False
        try:
            with torch.enable_grad():
                variable = image.detach().clone().requires_grad_()
                output, one = self._counted(variable)
                if not output.requires_grad:
                    return
                (gradient,) = torch.autograd.grad(output.sum(), variable)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, TypeError, ValueError):
            # Whatever torch or f says where it cannot be differentiated. If it cannot be called, the next call says so.
            return
        self.has_gradients = bool(gradient.isfinite().all())
        # What one image more adds: weights are kept once, also those that are computed from others, as by autocast.
        two = self._counted_of_two(variable) or tuple(2 * number for number in one)
        self.activations, self.kept_bytes = (max(0, more - less) for more, less in zip(two, one, strict=True))
        elements = ELEMENTS_PER_CHUNK.get(image.device.type, ELEMENTS_PER_CHUNK["cpu"])
        self._most_rows = max(1, ACTIVATIONS_PER_CHUNK * elements // max(1, self.activations or image.numel()))

    def usual_output(self, like: Tensor) -> UsualOutput:
        """What it returns for images that are none, of the shape, type and device of ``like``, (B, C, *spatial)."""
        if self._usual is None:
            self._usual = UsualOutput.of(self, like)
        return self._usual

    def _counted_of_two(self, image: Tensor) -> tuple[int, int] | None:
        """What is kept of two images; None where f takes no more than one."""
        try:
            with torch.enable_grad():
                return self._counted(image.expand(2, *image.shape[1:]))[1]
        except (RuntimeError, TypeError, ValueError):  # such as one for want of memory
            return None

    def _counted(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """The output for images, and how many values and bytes are kept for the backward pass."""
        values, size = 0, 0

        def count(tensor: Tensor) -> tuple[Tensor, int]:
            nonlocal values, size
            if not (tensor if tensor._base is None else tensor._base).is_leaf:  # weights are there anyway
                values, size = values + tensor.numel(), size + tensor.numel() * tensor.element_size()
            return tensor, tensor._version

        def unchanged(kept: tuple[Tensor, int]) -> Tensor:
            """As torch itself does it without hooks: f may have worked in place on what the backward pass needs."""
            tensor, version = kept
            if tensor._version != version:
                raise RuntimeError("a tensor that the backward pass needs was changed in place")
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, unchanged):
            output = self(images * 1)
        return output, (values, size)

    def fit(
        self, observed: Tensor, mask: Tensor, start: Tensor, max_gradients: Tensor, applications: int = 1
    ) -> Minimum:
        """Change the hidden pixels by gradients, until f returns the observed ones and the hidden ones alike.

        Minimize over v, with x = h y + (1 - h) v,

            mean over h of (f(x) - y)^2  +  mean over 1 - h of (f(x) - x)^2

        With two applications x is what :meth:`apply` makes of h y + (1 - h) v in one: v is only where it comes from,
        and has less freedom to fit what f does not know.

        Args:
            observed: y, (B, C, *spatial).
            mask: h, (B, 1 or C, *spatial), in [0, 1].
            start: First v, (B, C, *spatial).
            max_gradients: (B,), see :func:`~lightning_memaudit.recovery.descent.minimize`.
            applications: Of f, at least 1; a gradient costs as many times :data:`GRADIENT_EVALUATIONS`.

        Returns:
            The images h y + (1 - h) v, the values reached, and how many gradients were taken of each.
        """

        @functools.lru_cache(1)  # the rows are the same tensor until some of them leave
        def of(rows: Tensor) -> tuple[Tensor, Tensor]:
            return observed[rows], mask[rows]

        def evaluate(hidden: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
            return self._value_and_gradient(hidden, *of(rows), applications)

        found = minimize(evaluate, start, max_gradients)
        return found._replace(point=torch.lerp(found.point, observed, mask.expand_as(observed)))

    def apply(self, image: Tensor, observed: Tensor, mask: Tensor, applications: int) -> Tensor:
        """The output of f with the data put in, x <- h y + (1 - h) f(x), so many times: (B, C, *spatial)."""
        for _ in range(applications):
            image = torch.lerp(self(image), observed, mask.expand_as(observed))
        return image

    def _value_and_gradient(
        self, hidden: Tensor, observed: Tensor, mask: Tensor, applications: int
    ) -> tuple[Tensor, Tensor]:
        """By parts that fit the memory; half as many images at once when it runs out."""
        parts: list[tuple[Tensor, Tensor]] = []
        begin = 0
        while begin < len(hidden):
            # What every application keeps for the backward pass is there at once.
            most = max(1, self._most_rows // applications)
            part = slice(begin, begin + most)
            try:
                parts.append(self._differentiate(hidden[part], observed[part], mask[part], applications))
                begin += most
                continue
            except torch.OutOfMemoryError:
                number = min(most, len(hidden) - begin)
                if number == 1:
                    raise
            # Outside the except block, whose traceback would keep the tensors that filled the memory.
            self._most_rows = number // 2 * applications
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            warnings.warn(
                f"out of memory with the gradients of {number} images at once: going on with half", stacklevel=2
            )
        values, gradients = zip(*parts, strict=True)
        return torch.cat(values), torch.cat(gradients)

    def _differentiate(
        self, hidden: Tensor, observed: Tensor, mask: Tensor, applications: int
    ) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            variable = hidden.detach().requires_grad_()
            image = torch.lerp(variable, observed, mask.expand_as(observed))
            image = self.apply(image, observed, mask, applications - 1)
            output = self(image)
        # Both means are differentiated by hand, in a third of the passes that autograd takes; f is by autograd.
        misfit, change = output.detach() - observed, output.detach() - image.detach()
        value = masked_mean(misfit.square(), mask) + masked_mean(change.square(), 1 - mask)
        # Scaled to the size of single errors: gradients of a mean would be lost in half precision.
        scale = observed[0].numel()
        by_misfit = misfit.mul_(2 * scale * mean_weights(mask, observed))
        by_change = change.mul_(2 * scale * mean_weights(1 - mask, observed))
        ends = [(output, by_misfit + by_change), (image, -by_change)]
        reached = [(end, gradient) for end, gradient in ends if end.requires_grad]
        if not reached:  # f is constant here, though not everywhere
            return value, torch.zeros_like(observed)
        outputs, given = ([pair[number] for pair in reached] for number in (0, 1))
        (gradient,) = torch.autograd.grad(outputs, variable, given, allow_unused=True)
        return value, torch.zeros_like(observed) if gradient is None else gradient / scale
