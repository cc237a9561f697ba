"""What the audits of a run will cost: said before each, bounded before the first, compared with what they took."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

from lightning_memaudit.callback.dataset_images import ImageChoice
from lightning_memaudit.measurement.budget import bounded_plan, bounds_for, comparable_side, num_conditions, sizes_of
from lightning_memaudit.measurement.costs import Costs
from lightning_memaudit.measurement.estimate import Estimate, Experience
from lightning_memaudit.measurement.groups import Group
from lightning_memaudit.measurement.pace import Intact, Pace
from lightning_memaudit.measurement.plan import Plan
from lightning_memaudit.measurement.probe import plain_iterations, probe
from lightning_memaudit.measurement.processes import Processes
from lightning_memaudit.measurement.reference import ReferenceModels
from lightning_memaudit.results.audit_report import AuditReport
from lightning_memaudit.results.cost import Bounds, about


@dataclass
class Budget:
    """The cost of a run's audits.

    The images, and all else that is left out to keep within ``max_seconds``, are chosen once, before the first audit,
    for the costliest that the run may come to: so the audits of a run can be compared.

    Attributes:
        num_shares: Processes that share an audit.

    >>> budget = Budget()
    >>> budget.decide([], Plan.of(["half"], ["blind"]), one_audit=True).cuts  # nothing is known
    ()
    """

    num_shares: int = 1
    _costs: Costs | None = None
    _experience: Experience = field(default_factory=Experience)
    _probed_at: dict[str, float] | None = None

    @property
    def knows_pace(self) -> bool:
        """Whether the model was timed."""
        return self._costs is not None

    def time(self, paces: Sequence[Pace | None], groups: Sequence[Group], references: ReferenceModels | None) -> None:
        """Take what every process has timed; nothing is known where one could not.

        Args:
            paces: Of every process.
            groups: The whole groups.
            references: The reference models, if there are any.
        """
        known = [pace for pace in paces if pace is not None]
        if len(known) < len(paces) or not known:
            return
        device = groups[0].images[slice(0, 1)].device.type
        conditions = num_conditions(groups)
        num_references = 0 if references is None else len(references.autoencoders)
        self._costs = Costs(Pace.slowest(known), self.num_shares, conditions, device, num_references)

    def probe(
        self,
        autoencoder: Any,
        processes: Processes,
        plan: Plan,
        groups: Sequence[Group],
        intact: Intact | None = None,
    ) -> None:
        """Recover a few images, where that costs little beside the next audit, to tell its cost from what they take.

        Not once an audit was made, which tells more; only plain iterations are told anew whenever the model is another.

        Args:
            autoencoder: The model's call on images, or what gives one for each condition.
            processes: All of which do so.
            plan: What the audit does.
            groups: The whole groups.
            intact: What the model returns for intact images by now; None is as when it was timed.
        """
        if self._costs is None:
            return
        if intact is not None:
            self._costs = replace(self._costs, pace=replace(self._costs.pace, **intact._asdict()))
        now = dict(self._costs.pace.own_psnr)
        if self._probed_at == now:
            return
        self._probed_at = now
        found = processes.share(partial(plain_iterations, autoencoder, groups, plan))[0]
        self._costs = replace(self._costs, iterations=found)
        if self._experience.seconds:
            return
        number = self._costs.num_probed(plan, sizes_of(groups))
        if number:
            found_by_few = processes.share(partial(probe, autoencoder, groups, plan, number))[0]
            self._costs = self._costs.with_probe(plan, found_by_few)

    def decide(self, groups: Sequence[Group], plan: Plan, one_audit: bool) -> Bounds:
        """What to leave out of the audits; the same in every process, since all know the same.

        Args:
            groups: The whole groups.
            plan: What is asked for.
            one_audit: Of the model as it is; else of whatever it becomes in training.
        """
        if self._costs is None:
            if plan.max_seconds is not None:
                rank_zero_warn(
                    f"max_seconds={plan.max_seconds:g}: how long an audit takes cannot be known before the first step "
                    "of this model, so it is not bounded; pass num_members and num_controls instead"
                )
            return Bounds((), plan.max_seconds)
        costs = replace(self._costs, costliest=not one_audit)
        side = comparable_side(groups[0].images[slice(0, 1)])
        bounds = bounds_for(plan, sizes_of(groups), costs.estimate, side)
        if bounds.sentence:
            rank_zero_warn(bounds.sentence)
        return bounds

    def estimate(self, plan: Plan, groups: Sequence[Group]) -> Estimate | None:
        """Of the next audit, by what the earlier ones took; None where nothing is known.

        Args:
            plan: What it does.
            groups: The whole groups.
        """
        if self._costs is None:
            return None
        found = self._costs.estimate(plan, sizes_of(groups), self._experience)
        limit = plan.max_seconds
        if limit is not None and self._experience.seconds and found.seconds > limit:
            rank_zero_warn(
                f"max_seconds={limit:g}: this audit is expected to take {about(found.seconds)} all the same, by what "
                "the earlier ones took; its images were chosen before the first, and stay, so that all can be compared"
            )
        return found

    def learn(self, plan: Plan, groups: Sequence[Group], report: AuditReport, seconds: float) -> None:
        """Compare an audit with what was expected of it, for the next ones."""
        if self._costs is None:
            return
        unaware = Experience(inpainted=self._experience.inpainted)
        raw = self._costs.estimate(plan, sizes_of(groups), unaware)
        self._experience.learn(raw, report.cells, seconds, self.num_shares)
        self._costs = replace(self._costs, num_references=0)  # kept for the next audit of the same images


def bounded_choice(which: ImageChoice, bounds: Bounds) -> ImageChoice:
    """The choice of images with what was cut from it: as if fewer had been asked for.

    >>> from lightning_memaudit.results.cost import Cut
    >>> bounded_choice(ImageChoice(num_members=100), Bounds((Cut("num_members", 100, 30),))).num_members
    30
    """
    fewer: dict[str, Any] = {}
    for cut in bounds.cuts:
        if cut.argument in ("num_members", "num_controls"):
            wanted = getattr(which, cut.argument)
            fewer[cut.argument] = cut.used if wanted is None else min(wanted, cut.used)
    return replace(which, **fewer)


__all__ = ["Budget", "bounded_choice", "bounded_plan"]
