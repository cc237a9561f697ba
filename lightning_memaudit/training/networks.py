"""Autoencoders whose memorization is worth auditing: fully connected, U-Net, tied.

All of them take and return images, nominally in [0, 1], and end in a linear layer: a squashed output would bound what
an iteration of the autoencoder can do, and the audit iterates it. The U-Net's are (B, C, H, W), those of the others
(B, C, *spatial): signals, pictures or volumes.
"""

import difflib
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

ACTIVATIONS: dict[str, type[nn.Module]] = {
    name: getattr(nn, name)
    for name in (
        "CELU",
        "ELU",
        "GELU",
        "Hardsigmoid",
        "Hardswish",
        "Hardtanh",
        "Identity",
        "LeakyReLU",
        "LogSigmoid",
        "Mish",
        "PReLU",
        "ReLU",
        "ReLU6",
        "SELU",
        "SiLU",
        "Sigmoid",
        "Softplus",
        "Softshrink",
        "Softsign",
        "Tanh",
        "Tanhshrink",
    )
}
"""The elementwise nonlinearities that an autoencoder takes by name, each with torch's default arguments."""


def make_activation(name: str) -> nn.Module:
    """Make an elementwise nonlinearity by the name of its class in :mod:`torch.nn`.

    Args:
        name: A key of :data:`ACTIVATIONS`, such as ``"LeakyReLU"``.

    Raises:
        ValueError: When there is no such activation.
    """
    if name in ACTIVATIONS:
        return ACTIVATIONS[name]()
    by_lower_case = {known.lower(): known for known in ACTIVATIONS}
    near = difflib.get_close_matches(str(name).lower(), by_lower_case, n=1, cutoff=0.0)
    raise ValueError(
        f"activation={name!r} is not known; did you mean {by_lower_case[near[0]]!r}? Known: {', '.join(ACTIVATIONS)}"
    )


def activation_gain(name: str) -> float:
    """The weight scale that keeps the second moment of a signal through a linear layer and this activation.

    ``1 / sqrt(E[phi(z)^2])`` for z standard normal (He et al. 2015, for any phi), by quadrature.

    Raises:
        ValueError: There is no such activation.
    """
    z = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
    with torch.no_grad():
        second_moment = torch.trapezoid(make_activation(name).double()(z).square() * density, z)
    return 1 / math.sqrt(float(second_moment))


def _at_least(argument: str, value: int, least: int) -> int:
    if value < least:
        raise ValueError(f"{argument}={value} is too small; give at least {least}")
    return value


def _checked_shape(image_shape: Sequence[int]) -> tuple[int, ...]:
    if not 2 <= len(image_shape) <= 4 or any(size < 1 for size in image_shape):
        raise ValueError(
            f"image_shape={list(image_shape)} is not (channels, height, width), such as [1, 25, 25]; of volumes it "
            "is such as [1, 16, 16, 16], of signals [1, 64]"
        )
    return tuple(int(size) for size in image_shape)


class _FlatAutoencoder(nn.Module):
    """Flattens images (B, C, *spatial) for `encode_decode` and shapes them back."""

    def __init__(self, image_shape: Sequence[int]) -> None:
        super().__init__()
        self.image_shape = _checked_shape(image_shape)
        self.num_pixels = math.prod(self.image_shape)

    def forward(self, images: Tensor) -> Tensor:
        """Reconstruct images of shape (B, C, *spatial)."""
        if tuple(images.shape[1:]) != self.image_shape:
            raise ValueError(
                f"images of shape {list(images.shape[1:])} do not fit image_shape={list(self.image_shape)}; "
                "set image_shape of the network to the shape of the data"
            )
        return self.encode_decode(images.flatten(1)).view_as(images)

    def encode_decode(self, flat: Tensor) -> Tensor:
        """Reconstruct flat images of shape (B, N), N values each."""
        raise NotImplementedError


class FullyConnectedAutoencoder(_FlatAutoencoder):
    """A fully connected autoencoder: the paper's FC-10 and FC-20 (arXiv 2310.02897).

    Weights start orthogonal, scaled so that an image that passes all layers is multiplied by about `initial_gain`,
    whatever the depth: with LeakyReLU and PReLU, and by somewhat less where layers have fewer units than the image
    has values. With activations that are flatter away from zero it is more, the deeper the more: of the default 0.05,
    20 layers of ELU make about 0.3 and 20 of Tanh about 0.95, at a width of 256 on 25x25 images.

    That number decides what is learned: from 1, a network of 6 layers trains to the same loss, but none of its
    training images can be recovered; from 0.05 all of them can. Much smaller ones hardly start to train.

    Args:
        image_shape: (channels, height, width) of the images, of volumes (channels, depth, height, width), of signals
            (channels, length).
        num_layers: Number of linear layers, at least 2; an activation follows each but the last.
        width: Units of every hidden layer.
        activation: Name of an elementwise nonlinearity in :mod:`torch.nn`; see :data:`ACTIVATIONS`.
        initial_gain: Scale of the reconstruction over that of the image before training, positive.

    Raises:
        ValueError: An argument is out of its range, or there is no such activation.

    >>> network, images = FullyConnectedAutoencoder((3, 8, 8), num_layers=10, width=32), torch.rand(2, 3, 8, 8)
    >>> network(images).shape, bool(network(images).norm() < 0.5 * images.norm())
    (torch.Size([2, 3, 8, 8]), True)
    """

    def __init__(
        self,
        image_shape: Sequence[int] = (1, 25, 25),
        num_layers: int = 10,
        width: int = 256,
        activation: str = "LeakyReLU",
        initial_gain: float = 0.05,
    ) -> None:
        super().__init__(image_shape)
        _at_least("num_layers", num_layers, 2)
        _at_least("width", width, 1)
        if not initial_gain > 0:
            raise ValueError(f"initial_gain={initial_gain} is not positive; such as 0.05")
        sizes = [self.num_pixels, *[width] * (num_layers - 1), self.num_pixels]
        # Shared by the layers after an activation: num_layers - 1 of them, the first has none before it.
        gain_per_layer = activation_gain(activation) * initial_gain ** (1 / (num_layers - 1))
        gains = [1.0, *[gain_per_layer] * (num_layers - 1)]
        self.layers = nn.Sequential()
        for index, (inputs, outputs, gain) in enumerate(zip(sizes[:-1], sizes[1:], gains, strict=True)):
            linear = nn.Linear(inputs, outputs)
            nn.init.orthogonal_(linear.weight, gain)
            nn.init.zeros_(linear.bias)
            self.layers.append(linear)
            if index < num_layers - 1:
                self.layers.append(make_activation(activation))

    def encode_decode(self, flat: Tensor) -> Tensor:
        """Reconstruct flat images of shape (B, N), N values each."""
        result: Tensor = self.layers(flat)
        return result


class UNetAutoencoder(nn.Module):
    """A convolutional encoder and decoder for images of any size; skip connections only when asked for.

    With skip connections a U-Net learns the identity and stores no image; without them all must pass through
    the lowest resolution, and a large one memorizes. Images whose sides are not multiples of ``2**depth`` are
    padded by replicating their border, and the result is cropped back.

    Args:
        in_channels: Channels of the images.
        base_channels: Channels at full resolution; they double at every level.
        depth: Number of times the resolution is halved, at least 1.
        activation: Name of an elementwise nonlinearity in :mod:`torch.nn`; see :data:`ACTIVATIONS`.
        skip_connections: Concatenate the features of the encoder to those of the decoder at every level.
        normalization: Normalize features by groups of channels (Wu & He 2018), independently for every image.

    Raises:
        ValueError: A number is below 1, or there is no such activation.

    >>> network = UNetAutoencoder(in_channels=3, base_channels=8, depth=2)
    >>> network(torch.rand(2, 3, 13, 10)).shape
    torch.Size([2, 3, 13, 10])
    """

    def __init__(
        self,
        in_channels: int = 3,
        base_channels: int = 64,
        depth: int = 3,
        activation: str = "LeakyReLU",
        skip_connections: bool = False,
        normalization: bool = True,
    ) -> None:
        super().__init__()
        _at_least("in_channels", in_channels, 1)
        _at_least("base_channels", base_channels, 1)
        _at_least("depth", depth, 1)
        self.in_channels = in_channels
        self.depth = depth
        self.skip_connections = skip_connections
        channels = [base_channels * 2**level for level in range(depth)]  # of every level but the lowest

        def convolution(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
            layer = nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1)
            nn.init.normal_(layer.weight, std=activation_gain(activation) / math.sqrt(9 * inputs))
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
            groups = math.gcd(outputs, 8)
            normalize = [nn.GroupNorm(groups, outputs)] if normalization else []
            return [layer, *normalize, make_activation(activation)]

        finest = channels[0]
        merged = 2 if skip_connections else 1
        self.stem = nn.Sequential(*convolution(in_channels, finest), *convolution(finest, finest))
        self.down = nn.ModuleList(
            nn.Sequential(*convolution(fine, 2 * fine, stride=2), *convolution(2 * fine, 2 * fine)) for fine in channels
        )
        self.up = nn.ModuleList(
            nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), *convolution(2 * fine, fine))
            for fine in channels
        )
        self.merge = nn.ModuleList(nn.Sequential(*convolution(merged * fine, fine)) for fine in channels)
        self.head = nn.Conv2d(finest, in_channels, kernel_size=1)

    def forward(self, images: Tensor) -> Tensor:
        """Reconstruct images of shape (B, C, H, W), any H and W."""
        if images.ndim != 4 or images.shape[1] != self.in_channels:
            raise ValueError(
                f"images of shape {list(images.shape)} do not fit in_channels={self.in_channels}; "
                "give (B, C, H, W) and set in_channels to C"
            )
        height, width = images.shape[-2:]
        multiple = 2**self.depth
        padding = (0, -width % multiple, 0, -height % multiple)
        features = self.stem(functional.pad(images, padding, mode="replicate") if any(padding) else images)
        skipped = []
        for down in self.down:
            skipped.append(features)
            features = down(features)
        for up, merge, skip in zip(reversed(self.up), reversed(self.merge), reversed(skipped), strict=True):
            features = up(features)
            features = merge(torch.cat([features, skip], dim=1) if self.skip_connections else features)
        result: Tensor = self.head(features)
        return result[..., :height, :width]


class SpectralNormBound(nn.Module):
    """Parametrization that keeps the largest singular value of a matrix at most 1: ``W / max(1, |W|_2)``.

    The norm is computed exactly at every use, from the smaller Gram matrix. The running power iteration of
    :func:`torch.nn.utils.parametrizations.spectral_norm` approaches it from below, so its weights may have a
    norm above 1, and a bound that is only nearly kept is no bound.

    >>> layer = nn.Linear(2, 2)
    >>> layer.weight.data = torch.tensor([[4.0, 0.0], [0.0, 2.0]])
    >>> _ = parametrize.register_parametrization(layer, "weight", SpectralNormBound())
    >>> layer.weight.round(decimals=4).tolist()
    [[1.0, 0.0], [0.0, 0.5]]
    """

    def forward(self, weight: Tensor) -> Tensor:
        """Return the bounded matrix, of the same shape (rows, columns)."""
        with torch.no_grad():
            rows, columns = weight.shape
            gram = weight @ weight.T if rows <= columns else weight.T @ weight
            top = torch.linalg.eigh(gram)[1][:, -1]
        # The gradient of a singular value is that of |W v| at its fixed singular vector v.
        norm = (weight.T @ top if rows <= columns else weight @ top).norm()
        bounded: Tensor = weight / norm.clamp(min=1.0)
        return bounded

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Accept any matrix as the free parameter behind the bounded one."""
        return weight


class TiedAutoencoder(_FlatAutoencoder):
    """The 2-layer tied autoencoder of the paper's theorem, ``f(x) = W^T phi(W x + b)`` (arXiv 2310.02897).

    Its Jacobian is ``W^T diag(phi'(W x + b)) W``: symmetric, so f is the gradient of a function. When phi
    never falls and its slope is at most 1, and the spectral norm of W is at most 1, the spectrum of the
    Jacobian lies in [0, 1]; f is then the gradient of a convex function and nonexpansive, which makes it a
    Moreau proximity operator (Moreau 1965). ``proximal=True`` enforces both conditions.

    Args:
        image_shape: (channels, height, width) of the images, of volumes (channels, depth, height, width), of signals
            (channels, length).
        width: Units of the hidden layer, the rows of W.
        activation: Name of an elementwise nonlinearity in :mod:`torch.nn`; see :data:`ACTIVATIONS`.
        proximal: Keep ``|W|_2 <= 1`` throughout training, and refuse activations that fall, rise faster
            than 1, or have weights of their own (PReLU).

    Raises:
        ValueError: An argument is out of its range, or the activation is unknown or refused.

    >>> network = TiedAutoencoder((1, 2, 2), width=8, proximal=True)
    >>> jacobian = torch.autograd.functional.jacobian(network, torch.rand(1, 1, 2, 2)).reshape(4, 4)
    >>> torch.allclose(jacobian, jacobian.T, atol=1e-5), bool(torch.linalg.eigvalsh(jacobian).max() < 1 + 1e-5)
    (True, True)
    """

    def __init__(
        self,
        image_shape: Sequence[int] = (1, 25, 25),
        width: int = 256,
        activation: str = "LeakyReLU",
        proximal: bool = False,
    ) -> None:
        super().__init__(image_shape)
        _at_least("width", width, 1)
        self.proximal = proximal
        self.activation = make_activation(activation)
        if proximal and not is_proximal_activation(activation):
            allowed = ", ".join(name for name in ACTIVATIONS if is_proximal_activation(name))
            raise ValueError(
                f"activation={activation!r} cannot be proximal, its slope leaves [0, 1]; choose one of {allowed}"
            )
        self.weight = nn.Parameter(torch.empty(width, self.num_pixels))
        nn.init.orthogonal_(self.weight)
        self.bias = nn.Parameter(torch.zeros(width))
        if proximal:
            parametrize.register_parametrization(self, "weight", SpectralNormBound())

    def encode_decode(self, flat: Tensor) -> Tensor:
        """Reconstruct flat images of shape (B, N), N values each."""
        weight = self.weight  # once: under the parametrization every access computes the norm
        hidden: Tensor = self.activation(functional.linear(flat, weight, self.bias))
        return hidden @ weight


def is_proximal_activation(name: str) -> bool:
    """Whether an activation never falls or rises faster than 1, and has no weights that could change that.

    Measured by difference quotients on a fine grid, so that a jump counts as a steep rise.
    """
    activation = make_activation(name).double()
    if next(activation.parameters(), None) is not None:
        return False
    z = torch.linspace(-30, 30, 60001, dtype=torch.float64)
    with torch.no_grad():
        slope = activation(z).diff() / z.diff()
    return bool(slope.min() >= -1e-9) and bool(slope.max() <= 1 + 1e-9)
