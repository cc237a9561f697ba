"""Plug-and-play ADMM: one iteration of it, as equations and in place.

One row of a batch is one attempt: an image with its own penalty and its own start. All rows advance together.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_memaudit.recovery.interpolation import Interpolation
from lightning_memaudit.recovery.replay import Replay, replays_on
from lightning_memaudit.recovery.spatial import with_axes
from lightning_memaudit.recovery.types import Autoencoder


class State(NamedTuple):
    """The three ADMM variables, each (B, C, *spatial).

    Attributes:
        image: x, the estimate that fits the data.
        prior: z, the estimate that the autoencoder returned.
        dual: u, the scaled dual variable; it starts at zero.

    >>> one, zero = torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)
    >>> state = step(lambda v: v / 2, one, one, State(zero, zero, zero), penalty=torch.ones(1, 1, 1, 1))
    >>> [field.mean().item() for field in state]  # x halfway between y = 1 and z = 0; z = f(x + u); u = u + x - z
    [0.5, 0.25, 0.25]
    """

    image: Tensor
    prior: Tensor
    dual: Tensor


def data_step(observed: Tensor, mask: Tensor, prior: Tensor, dual: Tensor, penalty: Tensor) -> Tensor:
    """Minimize ``|h x - y|^2 + penalty |x - (z - u)|^2`` over x, elementwise for a diagonal degradation h.

    x = (h y + penalty (z - u)) / (h^2 + penalty), (B, C, *spatial); the arguments are as those of :func:`step`
    """
    return (mask * observed + penalty * (prior - dual)) / (mask.square() + penalty)


def step(autoencoder: Autoencoder, observed: Tensor, mask: Tensor, state: State, penalty: Tensor) -> State:
    """One iteration of plug-and-play ADMM (arXiv 2310.02897; Venkatakrishnan et al. 2013).

    x = (h y + penalty (z - u)) / (h^2 + penalty)      data term
    z = f(x + u)                                       prior term: f stands where a proximal map would
    u = u + x - z                                      dual

    Args:
        autoencoder: f, from (B, C, *spatial) to (B, C, *spatial).
        observed: y, (B, C, *spatial).
        mask: h, (B, 1, *spatial) or (B, C, *spatial), in [0, 1].
        state: x, z and u of the last iteration.
        penalty: (B, 1, *ones), positive, one per row.
    """
    image = data_step(observed, mask, state.prior, state.dual, penalty)
    prior = autoencoder(image + state.dual)
    dual = state.dual + image - prior
    return State(image, prior, dual)


ELEMENTS_PER_BLOCK = 2**19
"""On a CPU: so many values are corrected and spread at once, about as many as its caches hold.
For 400 images of 32x32x3 or 64x64x3 that takes 0.4 times as long as all at once, on two threads half as long; for 50 of
64x64x3, which are two blocks, up to 1.3 times as long (measured from 2**15 to 2**19). On a GPU all are one block."""


class _Neighbours(NamedTuple):
    """Where corrections are spread from, how, and which share of them every pixel takes, (R, 1 or C, *spatial)."""

    rows: slice
    observed: Tensor
    interpolation: Interpolation
    share: Tensor


class Workspace:
    """:func:`step` in place: the same three equations in buffers that are allocated once.

    With the data term's constants ``a = h y / (h^2 + penalty)`` and ``b = penalty / (h^2 + penalty)``, and v = x + u:

    x = a + b (z - u)                 only where it is asked for
    v = a + (1 - b) u + b z           the same plus u
    z = f(v)
    u = v - z                         since u + x - z = v - z

    u and v share a buffer, and the old z is gone when f makes the new one. So beside f's own memory there are a, u, z
    and, where it is asked for, x: four tensors of the batch's size; b has the mask's size.

    In hidden pixels, h = 0, v is the last z: only observed pixels are corrected, and where these are few f hardly
    reacts. ``spread`` s > 0 adds to hidden pixels s times the average correction v - z of the observed ones nearby:

    z = f(v + s (1 - h) S(v - z))     S averages nearby pixels with h > 1/2, see Interpolation

    The other equations stay as they are. Where f returns the data v - z is 0, and so is what is added. It takes one
    tensor more while f runs, and S for a moment somewhat more than another. On a GPU, within
    :func:`~lightning_memaudit.recovery.replay.replays`, all but f is one CUDA graph, whose tensors stay where they are:
    v, z and what S makes on its way.

    Args:
        autoencoder: f, which leaves its input alone and returns a tensor of its own.
        observed: y, (B, C, *spatial).
        start: First x and z, (B, C, *spatial).
        penalty: (B,), positive, one per row.
        spread: s, (B,), in [0, 1]; None is :func:`step`.
        one_mask: Whether the first mask stays, so that work may be replayed.

    Attributes:
        prior: z, (B, C, *spatial).

    >>> ones = torch.ones(2, 1, 4, 4)
    >>> work = Workspace(lambda v: v / 2, observed=ones, start=0 * ones, penalty=torch.tensor([1.0, 3.0]))
    >>> work.set_mask(ones)
    >>> work.advance()
    >>> work.image.mean((1, 2, 3)).tolist(), work.prior.mean((1, 2, 3)).tolist()  # x = 1 / (1 + penalty), z = f(x)
    ([0.5, 0.25], [0.25, 0.125])
    """

    def __init__(
        self,
        autoencoder: Autoencoder,
        observed: Tensor,
        start: Tensor,
        penalty: Tensor,
        spread: Tensor | None = None,
        one_mask: bool = False,
    ) -> None:
        self._autoencoder = autoencoder
        self._spread = None if spread is None else with_axes(spread, observed)
        self._neighbours: list[_Neighbours] = []
        self._one_mask = one_mask
        self._observed = observed
        self._penalty = with_axes(penalty, observed)
        self.prior = start.to(observed.dtype)
        self._dual = torch.zeros_like(observed)
        self._constant = torch.empty_like(observed)
        self._weight: Tensor | None = None
        self._image: Tensor | None = start
        self._buffer: Tensor | None = None
        self._shown: Tensor | None = None
        self._replay: Replay | None = None

    @property
    def image(self) -> Tensor:
        """The last iteration's x, which it must have been asked for, (B, C, *spatial); the start before the first."""
        assert self._image is not None
        return self._image

    def take_image(self) -> Tensor:
        """:attr:`image` as a tensor that the caller may keep and write to; the workspace will not write to it."""
        if self._image is not self._buffer:  # the start, which is someone else's
            return self.image.clone()
        self._buffer = None
        return self.image

    def set_mask(self, mask: Tensor) -> None:
        """Take over a mask (B, 1 or C, *spatial)."""
        mask = mask.to(self._observed.dtype)
        denominator = mask.square().add_(self._penalty)
        self._weight = self._penalty / denominator
        if self._spread is not None:
            # With h between 0 and 1 the data term asks for y / h: no correction that others should be shown.
            observed = (mask > 0.5).to(mask.dtype)
            share = self._spread * (1 - mask)
            self._neighbours = [
                _Neighbours(rows, observed[rows], Interpolation(observed[rows]), share[rows])
                for rows in _blocks(self._observed)
            ]
        torch.mul(self._observed, mask.div(denominator), out=self._constant)
        if self._neighbours and self._one_mask and replays_on(mask.device):
            if self._shown is None:
                self._shown = torch.empty_like(self._dual)
                self.prior = self.prior.clone()  # the start, which is someone else's
            tensors = (self._dual, self.prior, self._weight, self._constant, self._neighbours)
            self._replay = Replay(partial(_show, self._shown, *tensors), mask.device)

    def advance(self, image: bool = True) -> None:
        """One iteration; a mask must have been set.

        Args:
            image: Whether x is wanted. The iteration needs only v and goes faster without.
        """
        assert self._weight is not None
        self._image = None
        if image:
            if self._buffer is None:
                self._buffer = torch.empty_like(self._dual)
            self._image = torch.sub(self.prior, self._dual, out=self._buffer)
            torch.addcmul(self._constant, self._weight, self._image, out=self._image)
        if self._replay is not None and self._shown is not None:
            self._replay()
            self.prior.copy_(self._autoencoder(self._shown))
            self._dual.sub_(self.prior)
            return
        if self._neighbours:
            shown = torch.empty_like(self._dual)
            _show(shown, self._dual, self.prior, self._weight, self._constant, self._neighbours)
        else:
            shown = self._dual.lerp_(self.prior, self._weight).add_(self._constant)
        del self.prior
        self.prior = self._autoencoder(shown)
        self._dual.sub_(self.prior)

    def keep(self, rows: Tensor) -> None:
        """Let all but these rows (a boolean vector) leave the batch; only where nothing is spread."""
        assert self._spread is None
        self._observed, self._penalty = self._observed[rows], self._penalty[rows]
        self.prior, self._dual, self._constant = self.prior[rows], self._dual[rows], self._constant[rows]
        self._image = None if self._image is None else self._image[rows]
        self._buffer = self._image
        self._weight = None if self._weight is None else self._weight[rows]


def _blocks(images: Tensor) -> list[slice]:
    """Rows (B, C, *spatial) that are worked on at once."""
    size = len(images)
    if images.device.type == "cpu":
        size = max(1, ELEMENTS_PER_BLOCK // max(1, images[:1].numel()))
    return [slice(begin, begin + size) for begin in range(0, len(images), max(1, size))]


def _show(
    shown: Tensor, dual: Tensor, prior: Tensor, weight: Tensor, constant: Tensor, neighbours: Sequence[_Neighbours]
) -> None:
    """From u, z and the constants of the data term to what f is shown; v takes the place of u."""
    for rows, observed, interpolation, share in neighbours:
        point = dual[rows].lerp_(prior[rows], weight[rows]).add_(constant[rows])
        spread = interpolation((point - prior[rows]).mul_(observed))
        torch.addcmul(point, spread, share, out=shown[rows])
