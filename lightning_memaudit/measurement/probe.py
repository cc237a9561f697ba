"""What recoveries take, told from a few images: the table of earlier measurements does not know every network.

Plain iterations from how the first ones go, which costs next to nothing; all else by recovering a few images, which is
for long audits alone.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_memaudit.measurement.estimate import CellKey
from lightning_memaudit.measurement.groups import ConditionalAutoencoder, Group
from lightning_memaudit.measurement.plan import Plan
from lightning_memaudit.measurement.processes import AuditStopped
from lightning_memaudit.measurement.together import Found
from lightning_memaudit.measurement.workload import Work
from lightning_memaudit.recovery import Autoencoder, AutoencoderIterations, BlindRecovery
from lightning_memaudit.recovery.batches import per_image_mean
from lightning_memaudit.recovery.certification import NO_THRESHOLD, certify
from lightning_memaudit.recovery.methods.registry import calibrates_on_copies, recover, uses_autoencoder
from lightning_memaudit.recovery.types import Recovery

LOOKED_AT, IMAGES_LOOKED_AT = (6, 12), 8
"""Of the first plain iterations, two between which the changes of an image tell how fast it settles; and of how many
images of each group."""


@torch.no_grad()
def plain_iterations(
    autoencoder: Autoencoder | ConditionalAutoencoder, groups: Sequence[Group], plan: Plan
) -> dict[str, Work]:
    """What plain iterations of the autoencoder take, by group; nothing where the plan has none, or a call fails.

    The change of an image falls, or does not, by the same factor in every iteration: so the first ones tell when it is
    below the tolerance, or that the image wanders.

    Args:
        autoencoder: f, images (B, C, *spatial) to the same shape; for groups with conditions, what gives one for each.
        groups: Members and controls.
        plan: Its methods.

    Raises:
        AuditStopped: The processes must end.

    >>> group = Group.whole("members", torch.rand(8, 1, 8, 8))
    >>> plan = Plan.of(["half"], ["autoencoder_iterations"])
    >>> plain_iterations(lambda x: 0.5 * x, [group], plan)["members"].forwards  # 0.6 * 0.5^13 < 1e-4; every 5th counts
    15.0
    """
    method = next((one for one in plan.methods.values() if isinstance(one, AutoencoderIterations)), None)
    found: dict[str, Work] = {}
    if method is None:
        return found
    for group in groups:
        try:
            block = next(group.first(IMAGES_LOOKED_AT).blocks(autoencoder, IMAGES_LOOKED_AT))
            numbers = _iterations(block.autoencoder, block.images, method)
        except AuditStopped:
            raise
        except Exception:
            continue
        found[group.name] = Work(float(numbers.mean()), float(numbers.max()))
    return found


def _iterations(f: Autoencoder, image: Tensor, method: AutoencoderIterations) -> Tensor:
    first, last = LOOKED_AT
    changes = []
    for _ in range(last):
        previous, image = image, f(image)
        changes.append(per_image_mean((image - previous).double().square()).sqrt())
    before, after = changes[first - 1], changes[-1]
    falls = (before / after).log() / (last - first)
    needed = last + (after / method.tolerance).log() / falls
    # Twice the window is the least that it takes to see it; without a tolerance nothing stops early.
    wanders = 3.0 * method.wandering if method.wandering and method.tolerance > 0 else torch.inf
    needed = torch.where((falls > 0) & needed.isfinite(), needed, wanders)
    settled = torch.stack(changes) <= method.tolerance
    needed = torch.where(settled.any(0), settled.int().argmax(0) + 1.0, needed)
    looks = (needed / method.check_every).ceil().clamp_min(1)
    return (looks * method.check_every).clamp_max(method.num_iterations)


class Probe(NamedTuple):
    """What the recoveries of a few images took.

    Attributes:
        number: Images of each group.
        evaluations: By group, pattern and method but plain iterations: the mean over these images.
        certifiable: By pattern and method, of those that search turned copies for their certificates: whether a member
            may be certified beside these controls; where none may, no copy is searched.

    >>> Probe(0).evaluations
    {}
    """

    number: int
    evaluations: Mapping[CellKey, float] = {}
    certifiable: Mapping[tuple[str, str], bool] = {}


@torch.no_grad()
def probe(autoencoder: Autoencoder | ConditionalAutoencoder, groups: Sequence[Group], plan: Plan, number: int) -> Probe:
    """Recover a few images of each group by all methods but plain iterations.

    Nothing is known of a group for which a call fails: the audit will say it.

    Args:
        autoencoder: f, images (B, C, *spatial) to the same shape; for groups with conditions, what gives one for each.
        groups: Members and controls.
        plan: Its patterns and methods.
        number: Images of each group.

    Raises:
        AuditStopped: The processes must end.

    >>> group = Group.whole("members", torch.rand(8, 1, 8, 8))
    >>> probe(torch.zeros_like, [group], Plan.of(["half"], ["paper_blind", "biharmonic"]), number=2).evaluations
    {('members', 'half', 'paper_blind'): 7.0}
    """
    found: dict[CellKey, Recovery] = {}
    for group in groups:
        try:
            found |= _of_group(autoencoder, group, plan, number)
        except AuditStopped:
            raise
        except Exception:
            continue
    evaluations = {key: float(recovery.num_evaluations.double().mean()) for key, recovery in found.items()}
    certifiable = {
        (pattern, name): _any_certifiable(members, found.get(("controls", pattern, name)))
        for (group, pattern, name), members in found.items()
        if group == "members" and calibrates_on_copies(plan.methods[name])
    }
    return Probe(number, evaluations, certifiable)


def _any_certifiable(members: Recovery, controls: Recovery | None) -> bool:
    lowest = math.inf if controls is None else float(controls.score.min())
    return bool(certify(members, replace(NO_THRESHOLD, threshold=lowest)).certified.any())


def _of_group(
    autoencoder: Autoencoder | ConditionalAutoencoder, group: Group, plan: Plan, number: int
) -> dict[CellKey, Recovery]:
    block = next(group.first(number).blocks(autoencoder, number))
    found: dict[CellKey, Recovery] = {}
    for pattern in plan.patterns:
        degraded = pattern(block.images, range(len(block.images)), plan.seed)
        earlier: list[Found] = []
        for name, method in plan.methods_for(pattern).items():
            if not uses_autoencoder(method) or isinstance(method, AutoencoderIterations):
                continue
            # Certificates come later in an audit, and a known mask takes over what was searched before.
            search = replace(method, certification=None) if isinstance(method, BlindRecovery) else method
            recovery = recover(search, block.autoencoder, degraded.observed, degraded.mask, earlier)
            earlier.append((method, recovery))
            found[group.name, pattern.name, name] = recovery
    return found
