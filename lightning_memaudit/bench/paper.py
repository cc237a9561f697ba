"""The paper's experiments (Abitbul & Dar, arXiv 2310.02897) as a study: at their size, or in small on any images."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from lightning_memaudit.bench.paper_tables import write_results
from lightning_memaudit.bench.study import AuditOf, Study, Training, pieces
from lightning_memaudit.training.data import ImagesDataModule

LEVELS = (1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 1e-5, 1e-6, 1e-7)
FRACTIONS = (
    "[random-0.1, random-0.25, random-0.5, random-0.75, random-0.9, random-0.95,"
    " block-0.1, block-0.25, block-0.5, block-0.75]"
)
OTHER_MASKS = "[text, strokes-0.3, stripes-0.5]"

_METHODS = "--memaudit.methods=[blind, paper_blind, known_mask, autoencoder_iterations, biharmonic]"
_BLOCKS = "--memaudit.block_size=50"
"""An audit that is killed loses the block that it is at: minutes of it, also where it takes hours."""

_SLOW = "--model.init_args.optimizer.init_args.lr=1e-4"
"""At 1e-3 Tanh stays at the mean image, and width 1024 on CIFAR-10 blows up within 60 steps; at 1e-4 both learn."""

_NETWORK = "--model.init_args.network.init_args"
_TRAINING = (
    "--model.init_args.optimizer.init_args.fused=true",
    "--model.init_args.scheduler.init_args.patience=60",  # for batches of a part of the images
)


def _audits(members: int, controls: int, levels: Sequence[float], at: float) -> tuple[AuditOf, ...]:
    """What is asked of every architecture: default masks at every level, and all others at one."""
    images = (f"--memaudit.num_members={members}", f"--memaudit.num_controls={controls}", _BLOCKS, _METHODS)
    few = (f"--memaudit.num_members={min(members, 100)}", "--memaudit.num_controls=100", _BLOCKS)
    return (
        AuditOf("default", tuple(levels), images),
        AuditOf("fractions", (at,), (*few, _METHODS, f"--memaudit.patterns={FRACTIONS}")),
        AuditOf("masks", (at,), (*few, _METHODS, f"--memaudit.patterns={OTHER_MASKS}")),
        AuditOf("penalties", (at,), ("--config=paper/penalties", *few)),
        AuditOf(
            "iterations", (at,), ("--config=paper/record", "--memaudit.num_members=16", "--memaudit.num_controls=16")
        ),
    )


def _fully_connected(name: str, *configs: str, width: int, epochs: int, audits: tuple[AuditOf, ...]) -> Training:
    return Training(
        name,
        "tiny-imagenet",
        (f"paper/{name[:4]}-tiny-imagenet", *configs, "paper/levels"),
        (
            f"{_NETWORK}.width={width}",
            f"--trainer.max_epochs={epochs}",
            *_TRAINING,
            "--data.num_train=600",
            "--data.num_controls=300",
            "--data.batch_size=50",
        ),
        audits,
    )


def _unet(images: str, audits: tuple[AuditOf, ...]) -> Training:
    return Training(
        f"unet-{images}",
        images,
        ("paper/unet-cifar10", "paper/levels"),
        (
            f"{_NETWORK}.base_channels=32",
            "--trainer.max_epochs=3000",
            *_TRAINING,
            "--data.num_train=50",
            "--data.num_controls=300",
            "--data.batch_size=10",
        ),
        audits,
    )


def _activation(name: str, *options: str) -> Training:
    config = f"paper/nonlinearity/{name}"
    default = AuditOf("default", (1e-3,), _audits(200, 300, (), 1)[0].options)
    training = _fully_connected(f"fc10-{name}", config, width=512, epochs=1500, audits=(default,))
    return replace(training, options=(*training.options, *options))


def _large(name: str, config: str, *options: str) -> Training:
    """25,000 images of CIFAR-10; two hours of training each."""
    return Training(
        name,
        "cifar10",
        (f"paper/{config}", "paper/levels"),
        (
            *options,
            *_TRAINING,
            "--data.num_train=25000",
            "--data.num_controls=300",
            "--data.batch_size=250",
            "--trainer.max_time=00:02:00:00",
        ),
        (
            AuditOf(
                "default", (1e-2, 3e-3, 1e-3), ("--memaudit.num_members=1000", "--memaudit.num_controls=300", _METHODS)
            ),
        ),
    )


def _seeds(training: Training, *levels: float) -> tuple[Training, ...]:
    """Two more of the same, each with a seed of its own for weights, batches and the choice of images."""
    audits = tuple(replace(audit, levels=levels) for audit in training.audits if audit.name == "default")
    return tuple(
        replace(
            training,
            name=f"{training.name}-seed{seed}",
            options=(*training.options, f"--seed_everything={seed}", f"--data.seed={seed}"),
            audits=audits,
        )
        for seed in (1, 2)
    )


FULL: tuple[Training, ...] = (
    _fully_connected("fc10", width=512, epochs=1500, audits=_audits(200, 300, LEVELS[:3], 1e-3)),
    _fully_connected("fc10-wide", width=1024, epochs=4000, audits=_audits(200, 300, LEVELS[2:], 1e-4)),
    _unet("cifar10", _audits(50, 300, LEVELS, 1e-4)),
    _fully_connected("fc20", width=512, epochs=1500, audits=_audits(200, 300, LEVELS[:3], 1e-3)),
    _unet("svhn", _audits(50, 300, LEVELS, 1e-4)),
    *map(_activation, ("leakyrelu", "elu", "silu")),
    _activation("tanh", _SLOW),
    _large("fc10-25000", "fc10-tiny-imagenet-25000", f"{_NETWORK}.image_shape=[3, 32, 32]", _SLOW),
    _large("unet-25000", "unet-cifar10", f"{_NETWORK}.base_channels=16"),
)
FULL += tuple(
    again
    for name, levels in (("fc10", (1e-3,)), ("unet-cifar10", (1e-3, 1e-4)))
    for training in FULL
    if training.name == name
    for again in _seeds(training, *levels)
)
"""The paper's sizes, the most important first: two cores need days for all of it, a GPU hours."""


def _with_diffusion(training: Training, model: str) -> Training:
    """With an audit more, of the generic inpainter, for CIFAR-10; its recoveries do not depend on the training."""
    if training.images != "cifar10":
        return training
    methods = {"ddnm": {"class_path": "lightning_memaudit.recovery.methods.ddnm.DDNM", "init_args": {"model": model}}}
    default = next(audit for audit in training.audits if audit.name == "default")
    options = (
        *(option for option in default.options if option != _METHODS),
        f"--memaudit.methods={json.dumps({**methods, 'biharmonic': 'biharmonic', 'paper_blind': 'paper_blind'})}",
    )
    return replace(training, audits=(*training.audits, AuditOf("ddnm", default.levels, options)))


def small(image_shape: Sequence[int]) -> tuple[Training, ...]:
    """The same architectures, narrow, on 25 images of one's own.

    Args:
        image_shape: (C, H, W) of those.

    >>> [training.name for training in small((1, 25, 25))]
    ['fc10', 'fc20', 'unet']
    """
    layers = (f"{_NETWORK}.width=256", f"{_NETWORK}.image_shape={list(image_shape)}")
    channels = (f"{_NETWORK}.base_channels=16", f"{_NETWORK}.in_channels={image_shape[0]}")
    few = ("--memaudit.num_members=25", "--memaudit.num_controls=25", _METHODS)
    images = ("--data.num_train=25", "--data.num_controls=25", "--data.batch_size=5")
    audits = (AuditOf("default", (1e-3, 1e-4, 1e-5), few),)
    return tuple(
        Training(name, "", (f"paper/{config}", "paper/levels"), (*network, *_TRAINING, *images), audits)
        for name, config, network in (
            ("fc10", "fc10-tiny-imagenet", layers),
            ("fc20", "fc20-tiny-imagenet", layers),
            ("unet", "unet-cifar10", channels),
        )
    )


def paper(
    data: str,
    size: Literal["small", "full"] = "small",
    only: str = "*",
    output: str = "runs/paper",
    diffusion: str | None = None,
    list: bool = False,
) -> None:
    """Train the paper's autoencoders and audit them as their training loss falls, with masks and methods of the paper.

    Everything is kept in the folder of the output as it comes: the same command again does what is missing. It prints
    the command of each piece, a training or an audit, by which that number can be had alone; then the table of all that
    is done, which it also writes to results.md and results.json, with figures beside them.

    Args:
        data: Small: images to train on, a folder of pictures, or an .npy or .npz file. Full: a folder that holds
            tiny-imagenet, cifar10 and svhn, each a folder of pictures or such a file; where there are train and test
            in one, members come from the first and controls from the second.
        size: Small takes hours on two cores, full takes days there.
        only: Which pieces, as --list true names them, with * and ?; such as 'fc10/*' or '*/default'.
        output: Folder of the study.
        diffusion: Full: folder that `bench diffusion` has left; adds the pieces */ddnm for CIFAR-10.
        list: Only list the pieces, and whether they are done.

    Raises:
        ValueError: No such images, or no such piece.
        RuntimeError: Some pieces failed; all others were done.
    """
    root = Path(output)
    trainings = FULL if size == "full" else small(_image_shape(data))
    if diffusion is not None:
        trainings = tuple(_with_diffusion(training, diffusion) for training in trainings)
    study = Study(root, [*pieces(trainings, root, lambda images: data_options(Path(data), images))])
    if list:
        for piece in study.chosen(only):
            print(f"{'done' if piece.is_done() else 'to do':6} {piece.name}")
        return
    root.mkdir(parents=True, exist_ok=True)
    failed = study.work(only)
    print(write_results(study))
    if failed:
        raise RuntimeError(f"{len(failed)} pieces failed: {', '.join(failed)}; the same command tries them again")


def data_options(folder: Path, images: str) -> Sequence[str]:
    """Options of the data module for some images of a study.

    Args:
        folder: That holds them; or the images themselves where those have no name.
        images: Name of a folder or of an .npz or .npy file in it.

    Raises:
        ValueError: They are not there.

    >>> Path("data/cifar10/train").mkdir(parents=True)
    >>> Path("data/cifar10/test").mkdir()
    >>> data_options(Path("data"), "cifar10")[1:]
    ('--data.path=data/cifar10/train', '--data.control_path=data/cifar10/test')
    """
    module = "--data=lightning_memaudit.training.data.ImagesDataModule"
    places = [folder / f"{images}{suffix}" for suffix in ("", ".npz", ".npy")] if images else [folder]
    place = next((one for one in places if one.exists()), None)
    if place is None:
        names = " or ".join(str(one) for one in places)
        raise ValueError(f"data={str(folder)!r}: {names} is missing; give the folder that holds it")
    if (place / "train").is_dir() and (place / "test").is_dir():
        return module, f"--data.path={place / 'train'}", f"--data.control_path={place / 'test'}"
    return module, f"--data.path={place}"


def _image_shape(data: str) -> Sequence[int]:
    module = ImagesDataModule(data, num_train=1, num_controls=1)
    module.setup()
    return [*module.train_dataset[0].shape]
