"""Before the first audit: read the images, check them and the model, and say all that is wrong in one message."""

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from lightning.fabric.utilities.apply_func import move_data_to_device
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.trainer.states import RunningStage
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor

from lightning_memaudit.callback.dataset_images import ImageChoice
from lightning_memaudit.callback.isolation import in_stage
from lightning_memaudit.callback.model import ModelCall
from lightning_memaudit.callback.reading.affine import Affine, between_moments
from lightning_memaudit.callback.reading.group_reading import ReadGroup, read_group
from lightning_memaudit.callback.reading.items import NoImageFound
from lightning_memaudit.callback.reading.layout import NetworkInput
from lightning_memaudit.callback.reading.loaders import RunLoaders, is_stream
from lightning_memaudit.callback.reading.reader import ReadBatch, Source, places
from lightning_memaudit.callback.reading.training_images import Compared, compare_with_training
from lightning_memaudit.measurement.groups import Group
from lightning_memaudit.measurement.identity import image_hashes
from lightning_memaudit.measurement.near_duplicates import repeat_psnr, repeats
from lightning_memaudit.measurement.preparation import doubts_about_preparation
from lightning_memaudit.measurement.processes import Processes
from lightning_memaudit.results.comparability import PREPARED_OTHERWISE
from lightning_memaudit.results.own_output import Doubt
from lightning_memaudit.results.training_doubts import MEMBERS_NOT_GIVEN

MOST_READ_AGAIN = 8
"""Members that are compared with what a reloaded dataloader holds."""

LEAST_RANGED, MOST_RANGED = 8, 256
"""Images of each group whose mean and deviation are compared: of fewer they may differ by chance."""

BATCH_HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


class Problems:
    """Gathers what is wrong, to say it all at once.

    >>> problems = Problems()
    >>> for text in ("members: too dark", "controls: too few"):
    ...     with problems.caught():
    ...         raise ValueError(text)
    >>> problems.raise_all()
    Traceback (most recent call last):
    ValueError: 2 problems: (1) members: too dark; (2) controls: too few
    """

    def __init__(self) -> None:
        self.messages: list[str] = []

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Note a ValueError, and go on."""
        try:
            yield
        except ValueError as error:
            self.add(str(error))

    def add(self, message: str) -> None:
        """Note a problem, once."""
        if message not in self.messages:
            self.messages.append(message)

    def raise_all(self) -> None:
        """Raise if there are any.

        Raises:
            ValueError: With all of them in one line.
        """
        if len(self.messages) == 1:
            raise ValueError(self.messages[0])
        if self.messages:
            numbered = "; ".join(f"({number}) {text}" for number, text in enumerate(self.messages, start=1))
            raise ValueError(f"{len(self.messages)} problems: {numbered}")


def few_of(names: Sequence[str], most: int = 3) -> str:
    """The first names, of a message."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


@dataclass
class Inspection:
    """The images of a run as the run itself reads them.

    Attributes:
        reads: Members and, where there are any, controls.
        hashes: SHA-256 of every image, by group.
        compared: What the controls were compared with; None without controls.
        trained: Hashes of all images that are known to be trained on, in any process.
        problems: What is wrong so far.
        notes: What a reader of the results should know of how the run was read.
        changed: Whether it was said that the first batch of the training has none of the images that were read.
        prepared: Whether a batch was seen to reach the model as members that were passed, not as it stands.
        doubts: How the training calls the model otherwise than the audit.
        called: Whether it was seen how the training calls the model.
        hooks: Which batch hooks the run has of its own.

    >>> from lightning_memaudit.callback.seen import Normalization
    >>> images = [torch.zeros(1, 8, 8), torch.ones(1, 8, 8)]
    >>> read = read_group(Source("members", images, [0, 1]), None, Normalization(), transfer=lambda batch: batch)
    >>> Inspection([read]).groups[0].labels([0, 1])
    ['0', '1']
    """

    reads: list[ReadGroup] = field(default_factory=list)
    hashes: dict[str, list[str]] = field(default_factory=dict)
    compared: Compared | None = None
    trained: set[str] = field(default_factory=set)
    problems: Problems = field(default_factory=Problems)
    notes: list[str] = field(default_factory=list)
    changed: bool = False
    prepared: bool = False
    doubts: list[Doubt] = field(default_factory=list)
    called: bool = False
    _compared: tuple[dict[str, list[int]], list[Doubt]] | None = None
    hooks: list[str] = field(default_factory=list)

    def compared_groups(
        self, threshold_db: float, told: Sequence[Doubt] = ()
    ) -> tuple[dict[str, list[int]], list[Doubt]]:
        """Positions by group of images that repeat what counts, and whether controls were prepared otherwise.

        Args:
            threshold_db: What counts as recovered, the same in all audits of a run.
            told: What speaks against the members so far.
        """
        if self._compared is None:
            images = [group.images for group in self.groups]
            again = repeats(*images, psnr_db=repeat_psnr(threshold_db))
            self._compared = again, doubts_about_preparation(images, again)
        again, doubts = self._compared
        # Augmentation that leaves images as they are every now and then, such as flips, is no other preparation.
        is_augmented = any(doubt.code == MEMBERS_NOT_GIVEN for doubt in told) and self.reads[0].random
        fixed = [read for read in self.reads[1:] if not read.random and read.source.indices is not None]
        if doubts or not is_augmented or not fixed:  # a stream is not read twice
            return self._compared
        return again, [Doubt(PREPARED_OTHERWISE, "training images are augmented at random, and controls are not")]

    def check_controls(self, trained: Set[str]) -> None:
        """Note the controls whose content is among the hashes of what is trained on."""
        if not self.hashes.get("controls") or not trained:
            return
        controls = self.reads[1].group
        labels = controls.labels(range(len(controls.indices)))
        shared = [label for label, one in zip(labels, self.hashes["controls"], strict=True) if one in trained]
        if shared:
            self.problems.add(
                f"{len(shared)} of the controls are identical to members or to other images that are trained on "
                f"({few_of(shared)}): a control must not have been trained on; pass controls=<a data set without them>"
            )

    def say(self, text: str) -> None:
        """Warn, and note it for whoever reads the results."""
        rank_zero_warn(text)
        self.notes.append(text)

    @property
    def groups(self) -> list[Group]:
        """The groups as they were read."""
        return [read.group for read in self.reads]


def read_images(
    trainer: Trainer,
    pl_module: LightningModule,
    which: ImageChoice,
    how: ModelCall,
    seed: int,
    loaders: RunLoaders,
    processes: Processes,
) -> Inspection:
    """Read members and controls, and compare the controls with all that training can reach.

    To be called while the training is undisturbed; the module is in evaluation mode, so that batch hooks do what they
    do in validation, for members and controls alike.
    """
    found = Inspection(hooks=hooks_of_run(trainer, pl_module))
    with found.problems.caught():
        sources = which.sources(loaders, seed)
        for source in sources:
            wanted = which.number(source.group, bool(trainer.fast_dev_run))  # type: ignore[attr-defined]
            reading = partial(
                read_group,
                wanted=wanted,
                normalization=how.normalization,
                transfer=transfer_for(trainer, pl_module, source),
                seed=seed,
                image_shape=which.image_shape,
                device=pl_module.device,
                conditional=how.takes_batch(pl_module),
                network=NetworkInput.of(pl_module),
                twice=source.group == "members" or any(read.random for read in found.reads),
            )
            with found.problems.caught():
                try:
                    found.reads.append(reading(source))
                except NoImageFound as error:
                    if error.likely is None:
                        found.problems.add(f"{source.group}: {error}")
                    else:
                        found.reads.append(reading(replace(source, key=error.likely)))
                        found.notes.append(f"{source.group}: the only image in an item is at {error.likely!r}")
    if not found.reads or found.reads[0].group.name != "members":
        found.problems.raise_all()
    for problem in (one for read in found.reads for one in read.problems):
        found.problems.add(problem)
    if found.reads[1:] and bool(found.reads[0].problems) != bool(found.reads[1].problems):
        right, wrong = sorted(found.reads, key=lambda read: bool(read.problems))
        found.problems.add(
            f"{right.group.name} are in [0, 1] as they are read and {wrong.group.name} are not: what is passed holds "
            "for both, so let training and validation read alike, or pass members and controls that are"
        )
    if found.problems.messages:
        return found  # the model is still looked at, so that all problems are said at once
    found.hashes = {group.name: image_hashes(group) for group in found.groups}
    if len(found.reads) > 1:
        with found.problems.caught():
            _check_controls(found, which, loaders, trainer, pl_module, seed, processes)
    _say(found, which)
    if len(loaders.train) > 1 and which.members is None:
        others = listed(*loaders.paths[1:])
        found.say(
            f"members: they are the images of the first of {len(loaders.train)} train dataloaders; those of {others}, "
            "where the model learns from them too, are not audited: pass members=<a data set of all of them>"
        )
    if any(loaders.paths) and found.hooks:
        found.say(
            f"members: {', '.join(found.hooks)} is made for batches of several dataloaders and is left out when the "
            "audit reads images; pass mean and std, or data_range, where it normalizes"
        )
    return found


def _check_controls(
    found: Inspection,
    which: ImageChoice,
    loaders: RunLoaders,
    trainer: Trainer,
    pl_module: LightningModule,
    seed: int,
    processes: Processes,
) -> None:
    members, controls = found.reads
    sources = which.training(loaders, seed)
    if which.members is not None:
        sources.append(members.source)
    reachable = {place for source in sources for place in places(source)}
    controls_source = controls.source
    if controls_source.indices is not None:
        audited = places(replace(controls_source, indices=list(controls.group.indices)))
        names = controls.group.labels(range(len(audited)))
        shared = [name for place, name in zip(audited, names, strict=True) if place in reachable]
        if shared:
            raise ValueError(
                f"{len(shared)} of the controls are images that the training reaches too ({few_of(shared)}): a control "
                "must not have been trained on; pass controls=<a data set without them>"
            )

    def convert(source: Source, read: ReadBatch) -> Tensor:
        batch = transfer_for(trainer, pl_module, source)(read.batch)
        return members.format.undo(members.format.find(batch)) if members.format.path is not None else _no_images()

    share = (processes.rank, processes.num_shares)
    found.compared = compare_with_training(sources, convert, seed, share)


def _no_images() -> Tensor:
    return torch.zeros(0, 1, 1, 1)


def _say(found: Inspection, which: ImageChoice) -> None:
    """Warnings about what is doubtful; the same sentences go to the results as notes."""
    members = found.reads[0]
    if len(found.reads) == 1:
        rank_zero_warn(
            "controls: no images that were not trained on; rates of members alone say little. "
            "Give the run a validation dataloader, or pass controls=<a data set>"
        )
    if members.format.beside:
        places = listed(members.format.place, *members.format.beside)
        found.say(
            f"members: an item holds {1 + len(members.format.beside)} different images of one shape, at {places}: the "
            "first is audited, as what the model is given; where another one is what it learns to return, pass "
            f"image_key={_as_key(members.format.beside[0])!r}"
        )
    if members.random and which.members is None:
        found.say(
            "members: reading the same training image twice gave different ones (random augmentation): recovery is "
            "measured against one random version; pass members=<the data set without augmentation>"
        )
    if len(found.reads) > 1:
        one, other = (read.format.normalization for read in found.reads)
        if not Affine.of_normalization(one).close_to(Affine.of_normalization(other), 2e-3):
            found.say(f"members and controls are read differently: the run gives the model {one} and {other}")
        few = [group.images[slice(0, MOST_RANGED)] for group in found.groups]
        if min(map(len, few)) >= LEAST_RANGED and between_moments(few[0], few[1], 1.6, 0.2) is not None:
            moments = [f"{float(images.mean()):.2g} ± {float(images.std()):.2g}" for images in few]
            found.say(
                f"controls: their values are {moments[1]} where those of members are {moments[0]}: where they are "
                "another kind of images, or normalized otherwise, the two groups say little of each other; pass "
                "controls=<a data set> of images like the members, read alike"
            )


def listed(*paths: Any) -> str:
    """Places in a batch, of a message.

    >>> listed((0,), ("target", 1))
    "0 and ['target', 1]"
    """
    return " and ".join(str(_as_key(path)) for path in paths)


def _as_key(path: Any) -> Any:
    return path[0] if len(path) == 1 else list(path)


def reads_the_same(read: ReadGroup, loader: Any, trainer: Trainer, pl_module: LightningModule) -> bool:
    """Whether the first images of a group are also those behind another dataloader, at the same places."""
    dataset: Any = getattr(loader, "dataset", None)
    source = read.source
    if dataset is source.dataset:
        return True
    if source.indices is None or is_stream(dataset) or len(dataset) != len(source.dataset):
        return source.indices is None and type(dataset) is type(source.dataset)
    again = replace(source, dataset=dataset, loader=loader, indices=list(read.group.indices[:MOST_READ_AGAIN]))
    try:
        transfer = transfer_for(trainer, pl_module, source)
        images = read_group(
            again, None, read.given, transfer, 0, read.image_shape, pl_module.device, network=read.network
        ).group.images
    except ValueError:
        return False
    return torch.equal(images[0 : len(images)], read.group.images[0 : len(images)])


def transfer_for(trainer: Trainer, pl_module: LightningModule, source: Source) -> Callable[[Any], Any]:
    """The way of a batch to the model: hooks of module and data module, and the move to the device."""
    if source.path and hooks_of_run(trainer, pl_module):
        # Several train dataloaders: the hooks are made for batches of all of them together.
        return partial(_moved, pl_module)
    return partial(_through_hooks, trainer, pl_module)


def hooks_of_run(trainer: Trainer, pl_module: LightningModule) -> list[str]:
    """Which batch hooks the run has of its own."""
    datamodule = getattr(trainer, "datamodule", None)
    return [
        name
        for name in BATCH_HOOKS
        if is_overridden(name, pl_module, LightningModule)
        or (datamodule is not None and is_overridden(name, datamodule, LightningDataModule))
    ]


def _through_hooks(trainer: Trainer, pl_module: LightningModule, batch: Any) -> Any:
    with in_stage(trainer, RunningStage.VALIDATING):
        batch = pl_module._on_before_batch_transfer(batch, 0)
        if trainer.strategy.lightning_module is None:
            return pl_module._apply_batch_transfer_handler(batch, pl_module.device, 0)
        return trainer.strategy.batch_to_device(batch, dataloader_idx=0)


def _moved(pl_module: LightningModule, batch: Any) -> Any:
    return move_data_to_device(batch, pl_module.device)


def check_same_everywhere(
    found: Inspection, everywhere: Sequence[Mapping[str, list[str]]], processes: Processes, trained_before: Set[str]
) -> None:
    """Raise unless every process has read the same images; note the controls that any has found to be trained on.

    Args:
        found: By this process.
        everywhere: The hashes that every process has found.
        processes: Who takes part.
        trained_before: Hashes of images that the model was trained on before this fit.

    Raises:
        ValueError: The processes have different images.
    """
    for name, expected in everywhere[0].items():
        if any(other.get(name, expected) != expected for other in everywhere):
            raise ValueError(
                f"{name} are not the same images in every process: split data sets with a seeded generator, or "
                f"pass {name}=<a data set>"
            )
    own = (set() if found.compared is None else found.compared.hashes) | set(found.hashes.get("members", ()))
    found.trained = set().union(*(part for _, part in processes.gather(own)))
    found.check_controls(trained_before if found.compared is None else found.trained | trained_before)
