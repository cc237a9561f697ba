"""Reference models: the same measurements by autoencoders that were trained on other images, beside those of f.

How hard an image is hides who was trained on it. A model of the same architecture that was trained on other images of
the same source says how hard it is for any of them, see :mod:`lightning_memaudit.results.membership`.
"""

import warnings
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from lightning_memaudit.measurement.arguments import GivenAutoencoder, check_module
from lightning_memaudit.measurement.checks import FUNCTION_MENDS, Mends, check_group
from lightning_memaudit.measurement.groups import ConditionalAutoencoder, Group
from lightning_memaudit.measurement.identity import image_hashes
from lightning_memaudit.measurement.metrics import psnr
from lightning_memaudit.measurement.plan import Plan
from lightning_memaudit.measurement.processes import AuditStopped
from lightning_memaudit.recovery import Autoencoder, BlindRecovery
from lightning_memaudit.recovery.batches import all_finite
from lightning_memaudit.recovery.methods.registry import recover, uses_autoencoder
from lightning_memaudit.results.cells import Measurement


@dataclass
class ReferenceModels:
    """Autoencoders that were trained on other images of the members' source, measured on the same images as f.

    What they make of an image does not depend on f: it is measured once, and kept for the next audit of the same
    images.

    Attributes:
        autoencoders: One or several; for groups with conditions, what gives one for each.
        trained_on: Hashes of images that they are known to be trained on, as :func:`image_hashes` gives them. Those
            images get no numbers of a reference: to it they are no strangers.
        sources: Where they come from, for people.

    >>> models = ReferenceModels([lambda images: images * 0.9])
    >>> columns = models.measure(Group.whole("members", torch.ones(2, 1, 8, 8)), Plan.of(["half"], ["biharmonic"]))
    >>> {name: values.round(3).tolist() for name, values in columns.items()}  # biharmonic has no blind score
    {'reference_psnr': [20.0, 20.0], 'half': [nan, nan]}
    """

    autoencoders: Sequence[Autoencoder | ConditionalAutoencoder]
    trained_on: Set[str] = frozenset()
    sources: Sequence[str] = ()
    _known: dict[Any, dict[str, Any]] = field(default_factory=dict, repr=False)

    def measure(self, group: Group, plan: Plan) -> "dict[str, np.ndarray[Any, Any]]":
        """Columns (n,) in the order of the group: ``reference_psnr``, and the blind score under each pattern's name.

        Args:
            group: The images.
            plan: Patterns, and the method that is audited.
        """
        key = (group.name, tuple(group.indices), tuple(group.positions))
        if key not in self._known:
            every = [_measure(autoencoder, group, plan) for autoencoder in self.autoencoders]
            # Means of logarithms; NaN where any of the models has no finite number.
            columns = {name: np.mean([one[name] for one in every], axis=0) for name in every[0]}
            if self.trained_on and len(group.images):
                seen = np.isin(image_hashes(group, plan.block_size), sorted(self.trained_on))
                columns = {name: np.where(seen, np.nan, values) for name, values in columns.items()}
            for pattern in plan.patterns:
                columns[pattern.name] = np.exp(columns[pattern.name])
            self._known[key] = columns
        return self._known[key]

    def add_to(self, found: Measurement, group: Group, plan: Plan) -> Measurement:
        """Put the references' columns beside those of f, in every cell."""
        columns = self.measure(group, plan)
        place = {int(position): row for row, position in enumerate(group.positions)}
        for cell in found.cells:
            rows = np.asarray([place[int(position)] for position in cell.columns["position"]], dtype=np.int64)
            cell.columns["reference_psnr"] = columns["reference_psnr"][rows]
            scores = columns[cell.pattern] if cell.method == plan.primary else np.full(len(place), np.nan)
            cell.columns["reference_score"] = scores[rows]
        return found


@torch.no_grad()
def _measure(autoencoder: Autoencoder | ConditionalAutoencoder, group: Group, plan: Plan) -> Mapping[str, Any]:
    """PSNR, and the logarithm of the blind score by pattern, (n,); NaN where one is not finite."""
    number = len(group.images)
    columns = {name: np.full(number, np.nan) for name in ("reference_psnr", *(one.name for one in plan.patterns))}
    method = plan.methods[plan.primary]
    if isinstance(method, BlindRecovery):
        method = replace(method, certification=None)  # certificates are not asked for
    for block in group.blocks(autoencoder, plan.block_size):
        if not len(block.rows):
            continue
        rows, images = list(block.rows), block.images
        output = block.autoencoder(images)
        finite = all_finite(output)
        own = torch.where(finite, psnr(torch.nan_to_num(output), images), torch.nan)
        columns["reference_psnr"][rows] = own.double().cpu().numpy()
        for pattern in plan.patterns:
            if plan.primary not in plan.methods_for(pattern) or not uses_autoencoder(method):
                continue
            degraded = pattern(images, [int(group.positions[row]) for row in rows], plan.seed)
            try:
                score = recover(method, block.autoencoder, degraded.observed, degraded.mask).score
            except Exception as error:
                if plan.raise_errors or isinstance(error, AuditStopped):
                    raise
                warnings.warn(
                    f"reference: {plan.primary} failed on {group.name}, {pattern.name}: {error}", stacklevel=2
                )
                continue
            logarithm = score.double().clamp_min(1e-30).log()
            columns[pattern.name][rows] = torch.where(score.isfinite(), logarithm, torch.nan).cpu().numpy()
    return columns


def given_references(reference: Any, autoencoder: Autoencoder, groups: Sequence[Group]) -> ReferenceModels | None:
    """What :func:`~lightning_memaudit.audit` is given as ``reference``, checked; None where it is given none.

    Args:
        reference: An autoencoder, a list or tuple of several, or None.
        autoencoder: f, images (B, C, *spatial) to the same shape.
        groups: The images.

    Raises:
        ValueError: One cannot be called, fails, or does what f does.
    """
    if reference is None:
        return None
    several = list(reference) if isinstance(reference, list | tuple) else [reference]
    if not several:
        raise ValueError("reference=[]: pass one model or more, or None")
    for number, one in enumerate(several):
        name = f"reference[{number}]" if isinstance(reference, list | tuple) else "reference"
        if not callable(one):
            raise ValueError(
                f"{name} is of type {type(one).__name__}: pass a function of images (B, C, *spatial), such as a module "
                "that was trained on other images of the same source"
            )
        check_module(one, "members", groups[0].images, name)
        check_reference(GivenAutoencoder(one), GivenAutoencoder(autoencoder), groups, name, FUNCTION_MENDS)
    return ReferenceModels([GivenAutoencoder(one) for one in several])


@torch.no_grad()
def check_reference(
    reference: Autoencoder | ConditionalAutoencoder,
    autoencoder: Autoencoder | ConditionalAutoencoder,
    groups: Sequence[Group],
    name: str,
    mends: Mends,
) -> None:
    """Check a reference model with the first images: that it can be called, and that it is not f itself.

    Args:
        reference: The model.
        autoencoder: f, images (B, C, *spatial) to the same shape.
        groups: Members first.
        name: The argument, for messages.
        mends: What other messages tell people to change.

    Raises:
        ValueError: It fails, returns something else than images, or the same as f.
    """
    for group in groups:
        if not len(group.images):
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a range that is not the images'; it is the reference's own affair
                check_group(group, reference, mends=mends)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    if not len(groups[0].images):
        return
    few = groups[0].first(2)
    pairs = zip(few.blocks(reference, 2), few.blocks(autoencoder, 2), strict=True)
    if all(torch.equal(one.autoencoder(one.images), other.autoencoder(other.images)) for one, other in pairs):
        raise ValueError(
            f"{name} returns the very same as the audited autoencoder: pass a model that was trained on other images "
            "of the same source"
        )
