"""The proximal diagnostic against dense Jacobians, closed forms, and the theorem about tied autoencoders."""

import pytest
import torch
from autoencoders import linear

from lightning_memaudit.measurement.proximal import krylov, proximal_diagnostic, symmetric_extremes
from lightning_memaudit.training.networks import FullyConnectedAutoencoder, TiedAutoencoder, UNetAutoencoder

SHAPE = (1, 8, 8)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def dense(autoencoder, image):
    """The same numbers from the whole Jacobian of one image."""
    size = image.numel()
    jacobian = torch.autograd.functional.jacobian(lambda x: autoencoder(x[None])[0], image).reshape(size, size).double()
    eigenvalues = torch.linalg.eigvalsh((jacobian + jacobian.T) / 2)
    norm = torch.linalg.matrix_norm(jacobian, 2)
    return {
        "asymmetry": float(torch.linalg.matrix_norm((jacobian - jacobian.T) / 2, 2) / norm),
        "smallest_eigenvalue": float(eigenvalues[0]),
        "largest_eigenvalue": float(eigenvalues[-1]),
        "spectral_norm": float(norm),
        "spectral_radius": float(torch.linalg.eigvals(jacobian).abs().max()),
    }


@pytest.mark.parametrize(
    "network",
    [
        FullyConnectedAutoencoder(SHAPE, 4, 32, "ELU", 1.0),
        UNetAutoencoder(1, 8, 1),
        TiedAutoencoder(SHAPE, 40, "Softplus", proximal=True),
        TiedAutoencoder(SHAPE, 100, "GELU"),
    ],
    ids=lambda network: type(network).__name__,
)
def test_agrees_with_the_dense_jacobian(network):
    images = torch.rand(2, *SHAPE)
    report = proximal_diagnostic(network.eval(), images, num_steps=50)
    for row, image in zip(report.rows, images, strict=True):
        for name, expected in dense(network, image).items():
            assert row[name] == pytest.approx(expected, abs=2e-4, rel=1e-3), name
    with torch.no_grad():
        expected = (network(images) - images).square().mean((1, 2, 3)).tolist()
    assert report.reconstruction_error == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("activation", ["ReLU", "LeakyReLU", "Tanh", "Softplus", "Identity"])
def test_the_theorem_holds_for_tied_autoencoders(activation):
    network = TiedAutoencoder(SHAPE, 50, activation, proximal=True)
    with torch.no_grad():  # far from where it starts: the bound must hold by itself
        network.parametrizations.weight.original.normal_(std=2)
        network.bias.normal_()
    report = proximal_diagnostic(network, torch.rand(4, *SHAPE))
    assert report.proximal == report.symmetric == report.nonexpansive == [True] * 4
    assert max(report.spectral_norm) > 0.3, "not for being zero"


def test_what_is_not_a_proximal_map_fails_for_its_reason():
    images = torch.rand(2, *SHAPE)
    untied = proximal_diagnostic(FullyConnectedAutoencoder(SHAPE, 2, 50, "ReLU", 1.0), images)
    assert untied.symmetric == untied.proximal == [False, False]
    expanding = TiedAutoencoder(SHAPE, 50, "ReLU")
    with torch.no_grad():
        expanding.weight *= 2
    report = proximal_diagnostic(expanding, images)
    assert report.symmetric == [True, True]
    assert report.nonexpansive == report.proximal == report.attractor == [False, False]
    falling = proximal_diagnostic(lambda x: -0.5 * x, images)
    assert falling.symmetric == falling.nonexpansive == [True, True]
    assert falling.smallest_eigenvalue == pytest.approx([-0.5, -0.5])
    assert falling.proximal == [False, False]


def test_linear_maps_with_known_spectra():
    images = torch.rand(2, 1, 4, 4)
    orthogonal, _ = torch.linalg.qr(torch.randn(16, 16))
    eigenvalues = torch.linspace(0.1, 0.9, 16)
    report = proximal_diagnostic(linear(orthogonal @ eigenvalues.diag() @ orthogonal.T), images, num_steps=16)
    assert report.smallest_eigenvalue == pytest.approx([0.1, 0.1], abs=1e-5)
    assert report.largest_eigenvalue == pytest.approx([0.9, 0.9], abs=1e-5)
    assert report.spectral_norm + report.spectral_radius == pytest.approx([0.9] * 4, abs=1e-5)
    assert max(report.asymmetry + report.residual) < 1e-5
    assert report.proximal == report.attractor == [True, True]
    rotation = torch.block_diag(*[torch.tensor([[0.0, -0.7], [0.7, 0.0]])] * 8)
    report = proximal_diagnostic(linear(rotation), images)
    assert report.asymmetry == pytest.approx([1, 1], abs=1e-5)
    assert report.spectral_radius == pytest.approx([0.7, 0.7], abs=1e-5)
    assert max(abs(value) for value in report.largest_eigenvalue + report.smallest_eigenvalue) < 1e-5
    shear = torch.block_diag(*[torch.tensor([[0.5, 3.0], [0.0, 0.4]])] * 8)
    report = proximal_diagnostic(linear(shear), images)
    assert min(report.spectral_norm) > 3, "it expands"
    assert report.spectral_radius == pytest.approx([0.5, 0.5], abs=1e-3)
    assert report.attractor == [True, True], "and attracts all the same"


def test_low_rank_operators_do_not_hide_eigenvalues():
    """A start within an invariant subspace sees only that one, unless the space goes on from elsewhere."""
    matrix = torch.diag(torch.tensor([5.0, 1.0, 1.0, -2.0]))
    start = torch.tensor([0.0, 1.0, 1.0, 0.0]).view(1, 1, 2, 2)
    extremes = symmetric_extremes(linear(matrix), start, 4)
    assert float(extremes.largest) == pytest.approx(5, abs=1e-5)
    assert float(extremes.smallest) == pytest.approx(-2, abs=1e-5)
    zero = proximal_diagnostic(lambda x: x * 0 + 0.5, torch.rand(2, *SHAPE))
    assert zero.spectral_norm == zero.asymmetry == zero.spectral_radius == [0, 0]
    assert zero.proximal == [True, True]


def test_the_residual_bounds_the_distance_to_an_eigenvalue():
    matrix = torch.randn(200, 200, dtype=torch.float64)
    matrix = (matrix + matrix.T) / 2
    eigenvalues = torch.linalg.eigvalsh(matrix)
    for steps in (3, 10, 30):
        extremes = symmetric_extremes(linear(matrix), torch.randn(1, 2, 10, 10, dtype=torch.float64), steps)
        for value in (extremes.smallest, extremes.largest):
            assert float((eigenvalues - value).abs().min()) <= float(extremes.residual) * (1 + 1e-9)
        assert eigenvalues[0] <= extremes.smallest <= extremes.largest <= eigenvalues[-1]


def test_krylov_bases_are_those_of_the_operator():
    """With all dimensions the projection is the operator in another basis: the same eigenvalues."""
    matrix = torch.randn(12, 12, dtype=torch.float64)
    space = krylov(linear(matrix), torch.randn(2, 3, 2, 2, dtype=torch.float64), 12)
    expected = torch.linalg.eigvals(matrix)
    for projection in space.projection:
        found = torch.linalg.eigvals(projection)
        assert float((found[:, None] - expected).abs().min(0).values.max()) < 1e-8
    assert float(space.last.max()) < 1e-8


def test_images_do_not_influence_each_other_and_weights_are_left_alone():
    network = FullyConnectedAutoencoder(SHAPE, 3, 32, "Tanh", 1.0)
    images = torch.rand(2, *SHAPE)
    whole = proximal_diagnostic(network, images, num_steps=20)
    single = proximal_diagnostic(network, images, num_steps=20, chunk_size=1)
    assert whole.spectral_norm == pytest.approx(single.spectral_norm, rel=1e-3)
    assert all(parameter.grad is None for parameter in network.parameters())
    with torch.no_grad():
        assert proximal_diagnostic(network, images, num_steps=20).rows == whole.rows


def test_twelve_thousand_dimensions_are_no_problem():
    report = proximal_diagnostic(
        TiedAutoencoder((3, 64, 64), 32, "ReLU", proximal=True), torch.rand(1, 3, 64, 64), num_steps=12
    )
    assert report.proximal == [True]
    assert report.largest_eigenvalue[0] == pytest.approx(1, abs=1e-3), "32 orthonormal rows, those that are switched on"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": torch.rand(1, 8, 8)}, "images has shape"),
        ({"num_steps": 0}, "num_steps=0"),
        ({"chunk_size": 0}, "chunk_size=0"),
        ({"tolerance": -1}, "tolerance=-1"),
        ({"autoencoder": lambda x: x * torch.nan}, "NaN or infinite"),
        ({"autoencoder": lambda x: (x - x.detach()).sqrt()}, "Jacobian holds NaN or infinite"),
    ],
)
def test_bad_input_is_one_line(arguments, message):
    given = {"autoencoder": lambda x: x, "images": torch.rand(1, *SHAPE)} | arguments
    with pytest.raises(ValueError, match=message):
        proximal_diagnostic(**given)


def test_whether_a_fixed_point_attracts_is_not_decided_by_rounding():
    """Of a projection and a rotation the spectral radius is 1 exactly; which side of it is found is chance."""
    orthogonal, _ = torch.linalg.qr(torch.randn(64, 64))
    projection = orthogonal[:, :20] @ orthogonal[:, :20].T
    images = torch.rand(8, *SHAPE)
    for matrix in (projection, orthogonal, torch.eye(64)):
        report = proximal_diagnostic(linear(matrix), images, num_steps=64)
        assert report.spectral_radius == pytest.approx([1.0] * 8, abs=1e-4)
        assert report.attractor == [None] * 8
        assert report.rows[0]["attractor"] is None
    for factor, expected in ((0.99, True), (1.01, False)):
        assert proximal_diagnostic(linear(factor * projection), images).attractor == [expected] * 8
