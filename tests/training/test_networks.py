"""Networks and their LightningModule: shapes, initial scale, the tied autoencoder's theorem."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader
from training_runs import trainer_with

from lightning_memaudit.training.module import AutoencoderModule
from lightning_memaudit.training.networks import (
    ACTIVATIONS,
    FullyConnectedAutoencoder,
    TiedAutoencoder,
    UNetAutoencoder,
    activation_gain,
    is_proximal_activation,
)


@pytest.mark.parametrize("activation", ["LeakyReLU", "PReLU", "SiLU", "ELU", "ReLU", "Tanh"])
def test_every_network_takes_the_papers_activations(activation):
    images = torch.rand(2, 3, 8, 8)
    for network in (
        FullyConnectedAutoencoder((3, 8, 8), 4, 16, activation),
        UNetAutoencoder(3, 4, 2, activation),
        TiedAutoencoder((3, 8, 8), 16, activation),
    ):
        output = network(images)
        assert output.shape == images.shape
        output.sum().backward()
        assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize("size", [(25, 25), (32, 32), (7, 10), (1, 3), (64, 48)])
@pytest.mark.parametrize("skip_connections", [False, True])
def test_unet_takes_any_size(size, skip_connections):
    images = torch.rand(2, 1, *size)
    assert UNetAutoencoder(1, 4, 3, skip_connections=skip_connections)(images).shape == images.shape


def test_without_skip_connections_everything_passes_the_lowest_resolution():
    network = UNetAutoencoder(1, 4, 3)
    network.down[-1].register_forward_hook(lambda module, inputs, output: torch.zeros_like(output))
    one, other = network(torch.rand(1, 1, 16, 16)), network(torch.rand(1, 1, 16, 16))
    assert torch.equal(one, other)
    skipping = UNetAutoencoder(1, 4, 3, skip_connections=True)
    skipping.down[-1].register_forward_hook(lambda module, inputs, output: torch.zeros_like(output))
    assert not torch.equal(skipping(torch.rand(1, 1, 16, 16)), skipping(torch.rand(1, 1, 16, 16)))


@pytest.mark.parametrize("num_layers", [2, 10, 20])
def test_number_of_layers_is_that_of_linear_maps(num_layers):
    network = FullyConnectedAutoencoder((1, 5, 5), num_layers, 8)
    assert sum(isinstance(layer, nn.Linear) for layer in network.modules()) == num_layers


@pytest.mark.parametrize(("activation", "factor"), [("ReLU", 2), ("ELU", 3), ("Tanh", 5)])
def test_initial_gain_is_about_that_of_the_reconstruction(activation, factor):
    images = torch.randn(64, 1, 16, 16)
    for gain in (0.05, 0.5):
        network = FullyConnectedAutoencoder((1, 16, 16), 6, 256, activation, initial_gain=gain)
        measured = float(network(images).detach().std() / images.std())
        assert gain / factor < measured < gain * factor


def test_activation_gain_keeps_the_second_moment():
    for name in ("ReLU", "ELU", "Tanh", "SiLU"):
        signal = torch.randn(400_000)
        after = ACTIVATIONS[name]()(signal) * activation_gain(name)
        assert float(after.square().mean()) == pytest.approx(1.0, abs=0.02)
    assert activation_gain("ReLU") == pytest.approx(2**0.5, abs=1e-3)  # He et al. 2015


def test_proximal_activations_are_the_known_ones():
    proximal = {name for name in ACTIVATIONS if is_proximal_activation(name)}
    assert {"ReLU", "LeakyReLU", "ELU", "Tanh", "Softplus", "Identity", "Hardtanh"} <= proximal
    assert not proximal & {"SiLU", "GELU", "PReLU", "SELU", "Mish", "Hardswish"}


def test_a_proximal_tied_autoencoder_stays_one_while_it_trains():
    network = TiedAutoencoder((1, 4, 4), 24, "ELU", proximal=True).double()
    optimizer = torch.optim.Adam(network.parameters(), 0.05)
    images = torch.rand(8, 1, 4, 4, dtype=torch.float64)
    for _ in range(50):
        optimizer.zero_grad()
        (network(images) - images).square().mean().backward()
        optimizer.step()
        assert float(torch.linalg.matrix_norm(network.weight.detach(), 2)) <= 1 + 1e-9
    jacobian = torch.autograd.functional.jacobian(network.encode_decode, images[:1].flatten(1)).view(16, 16)
    torch.testing.assert_close(jacobian, jacobian.T, atol=1e-10, rtol=0)
    eigenvalues = torch.linalg.eigvalsh(jacobian)
    assert eigenvalues.min() >= -1e-9
    assert eigenvalues.max() <= 1 + 1e-9


def test_the_spectral_bounds_gradient_is_right():
    network = TiedAutoencoder((1, 2, 2), 3, "Tanh", proximal=True).double()
    with torch.no_grad():
        network.parametrizations.weight.original.mul_(2.0).add_(torch.randn(3, 4).double() * 0.1)
    free = network.parametrizations.weight.original.detach().clone().requires_grad_()
    bound = network.parametrizations.weight[0]
    assert torch.autograd.gradcheck(bound, (free,))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FullyConnectedAutoencoder(activation="leakyrelu"), "did you mean 'LeakyReLU'"),
        (lambda: FullyConnectedAutoencoder(num_layers=1), "num_layers=1"),
        (lambda: FullyConnectedAutoencoder(width=0), "width=0"),
        (lambda: FullyConnectedAutoencoder(image_shape=(25,)), "image_shape"),
        (lambda: FullyConnectedAutoencoder(initial_gain=0), "initial_gain=0"),
        (lambda: UNetAutoencoder(depth=0), "depth=0"),
        (lambda: TiedAutoencoder(activation="SiLU", proximal=True), "cannot be proximal"),
        (lambda: FullyConnectedAutoencoder((1, 5, 5))(torch.rand(1, 3, 5, 5)), "image_shape"),
        (lambda: UNetAutoencoder(3)(torch.rand(1, 1, 8, 8)), "in_channels=3"),
    ],
)
def test_bad_arguments_raise_one_line(make, message):
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


def trained(module, images, epochs):
    trainer = trainer_with(max_epochs=epochs)
    trainer.fit(module, DataLoader(images, batch_size=len(images)))
    return trainer


def test_the_module_logs_its_loss_and_trains_any_network():
    images = torch.rand(6, 1, 6, 6)
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 36), nn.Unflatten(1, (1, 6, 6)))
    module = AutoencoderModule(network, lambda parameters: torch.optim.SGD(parameters, 1.0))
    before = float((network(images) - images).detach().square().mean())
    trainer = trained(module, images, 1)
    assert float(trainer.callback_metrics["train/loss"]) == pytest.approx(before, rel=1e-4)
    trainer = trained(module, images, 300)
    assert float(trainer.callback_metrics["train/loss"]) < before / 10


def test_the_scheduler_steps_once_per_epoch():
    module = AutoencoderModule(
        FullyConnectedAutoencoder((1, 4, 4), 2, 8),
        lambda parameters: torch.optim.SGD(parameters, 1.0),
        lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5),
    )
    trainer = trained(module, torch.rand(4, 1, 4, 4), 3)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.125)
