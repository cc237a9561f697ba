"""The audit: members and controls × patterns × methods, measured and summed up. Callback and CLI run this engine."""

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone

from lightning_memaudit.measurement.arguments import GivenAutoencoder, check_module, given_images, module_of
from lightning_memaudit.measurement.budget import bounded_groups, bounded_plan, estimated
from lightning_memaudit.measurement.calibration import certify_from_controls, without_own_certificates
from lightning_memaudit.measurement.checks import FUNCTION_MENDS, check_group
from lightning_memaudit.measurement.extraction import extract
from lightning_memaudit.measurement.groups import ConditionalAutoencoder, Group, ImageSource
from lightning_memaudit.measurement.identity import check_disjoint, image_hashes
from lightning_memaudit.measurement.inpainting_cache import InpaintingCache
from lightning_memaudit.measurement.measure import Progress, measure_groups
from lightning_memaudit.measurement.near_duplicates import repeat_psnr, repeats
from lightning_memaudit.measurement.plan import (
    DEFAULT_PATTERNS,
    Methods,
    Plan,
    check_degradations,
)
from lightning_memaudit.measurement.preparation import doubts_about_preparation
from lightning_memaudit.measurement.processes import Processes
from lightning_memaudit.measurement.reference import ReferenceModels, given_references
from lightning_memaudit.recovery import Autoencoder
from lightning_memaudit.results.audit_report import AuditReport
from lightning_memaudit.results.cells import Cell, Columns, Measurement
from lightning_memaudit.results.hashes import tensors_sha256
from lightning_memaudit.results.kept_blocks import KeptBlocks
from lightning_memaudit.results.own_output import Doubt, doubts_about
from lightning_memaudit.results.rows import Occasion, audit_rows, headline
from lightning_memaudit.results.shown_channels import given_channels


def audit(
    autoencoder: Autoencoder,
    members: ImageSource,
    controls: ImageSource | None = None,
    *,
    patterns: Sequence[str] = DEFAULT_PATTERNS,
    methods: Methods | None = None,
    threshold_db: float = 30.0,
    seed: int = 0,
    block_size: int = 512,
    save_recoveries: int = 64,
    show_channels: Sequence[int] | None = None,
    progress: Progress | None = None,
    reference: Autoencoder | Sequence[Autoencoder] | None = None,
    extraction: int = 0,
    max_seconds: float | None = None,
) -> AuditReport:
    """Degrade images, recover them with the autoencoder, and report how many come back: members next to controls.

    The autoencoder gets copies and what it returns is copied: it may work in place, or overwrite what it returned.

    Args:
        autoencoder: f, images (B, C, *spatial) to the same shape; put a module in eval mode first. A module of another
            floating-point type gets images of that.
        members: Images it was trained on: a tensor or array of floats (n, C, *spatial) in [0, 1], with one to three
            spatial axes, or anything that slices into such tensors.
        controls: Images it was not trained on, none of them a member at 8 bits per value; without them no rate means
            much.
        patterns: Degradations by name, see :mod:`lightning_memaudit.measurement.degradations`.
        methods: Names, or a mapping from names to methods; None takes
            :data:`~lightning_memaudit.measurement.plan.DEFAULT_METHODS`, and for images of 128 x 128 pixels or more
            where those are expected to take more than ten minutes ``blind`` and ``biharmonic``.
        threshold_db: PSNR in dB at or above which an image counts as recovered.
        seed: Seeds the masks.
        block_size: Images that are degraded and recovered together; bounds the memory.
        save_recoveries: Images per group whose recoveries are kept in the report.
        show_channels: Of images with many channels those that pictures show: three for red, green and blue, counted
            from 0, such as ``[3, 2, 1]``, or one. None takes the first three.
        progress: Called with a description and a number of images after every piece of work.
        reference: One model or several, of the same architecture, that were trained on other images of the same source,
            neither on members nor on controls. Their errors say how hard each image is: members are then told from
            controls by what the autoencoder knows beyond that, see :mod:`lightning_memaudit.results.membership`.
        extraction: Also look for images that come out by themselves, from at most so many starts that know none;
            ``report.extraction`` is what did.
        max_seconds: That the audit may take, by what a few calls say it will: first fewer images are audited, as many
            of both groups by a seeded random choice, 20 at least; then with fewer evaluations; then from fewer starts.
            ``report.cost`` says what was cut, and a warning does.

    Returns:
        The report: rates by method, pattern and group, measurements of every image, and the recoveries kept.

    Raises:
        ValueError: Bad names, types, shapes, values or sizes, or controls that are members; the message names the
            argument, the value and the mend.

    >>> import torch
    >>> members, controls = torch.rand(2, 4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    >>> def memory(x):  # an autoencoder that has learned nothing but its training images: it returns the nearest
    ...     return members[torch.cdist(x.flatten(1), members.flatten(1)).argmin(1)]
    >>> report = audit(memory, members, controls, patterns=["random-0.5"], methods=["blind", "biharmonic"])
    >>> [report.rate("blind", "random-0.5", group) for group in ("members", "controls")]
    [1.0, 0.0]
    >>> report.rate("biharmonic", "random-0.5")  # no inpainter gets these members back
    0.0
    """
    plan = Plan.of(
        patterns,
        methods,
        threshold_db=threshold_db,
        seed=seed,
        block_size=block_size,
        save_recoveries=save_recoveries,
        show_channels=show_channels,
        extraction=extraction,
        max_seconds=max_seconds,
    )
    groups = _given_groups(autoencoder, members, controls, plan)
    references = given_references(reference, autoencoder, groups)
    module = module_of(autoencoder)
    weights = None if module is None else tensors_sha256(module.state_dict())
    occasion = Occasion(0, "audit", None, None, now(), weights)
    given = GivenAutoencoder(autoencoder)
    began = time.monotonic()
    estimate, bounds = estimated(given, groups, plan, references)
    plan, groups = bounded_plan(plan, bounds), bounded_groups(groups, bounds, plan.seed)
    if bounds.sentence:
        warnings.warn(bounds.sentence, stacklevel=2)
    again = repeats(*(group.images for group in groups), psnr_db=repeat_psnr(plan.threshold_db))
    apart = doubts_about_preparation([group.images for group in groups], again)
    report = run_audit(
        given, groups, plan, occasion, progress=progress, references=references, repeated=again, doubts=apart
    )
    return report.with_cost(estimate, bounds, time.monotonic() - began)


def _given_groups(
    autoencoder: Autoencoder, members: ImageSource, controls: ImageSource | None, plan: Plan
) -> list[Group]:
    """The groups that :func:`audit` is given, checked: images, that no control is a member, and the autoencoder."""
    given = {"members": members} if controls is None else {"members": members, "controls": controls}
    groups = [Group.whole(name, given_images(name, images)) for name, images in given.items()]
    for group in groups:
        if not len(group.images):
            raise ValueError(f"{group.name} holds no images: pass at least one")
    shapes = [tuple(group.images[slice(0, 1)].shape[1:]) for group in groups]
    if len(set(shapes)) > 1:
        raise ValueError(f"controls are images of shape {shapes[1]}, members of {shapes[0]}: pass images of one size")
    hashes = [image_hashes(group, plan.block_size, FUNCTION_MENDS) for group in groups]
    if controls is not None:
        check_disjoint(hashes[0], hashes[1], "leave those out of controls")
    check_module(autoencoder, "members", groups[0].images)
    for group in groups:
        check_group(group, GivenAutoencoder(autoencoder), mends=FUNCTION_MENDS)
        check_degradations(plan, group)
    return groups


def run_audit(
    autoencoder: Autoencoder | ConditionalAutoencoder,
    groups: Sequence[Group],
    plan: Plan,
    occasion: Occasion,
    processes: Processes | None = None,
    cache: InpaintingCache | None = None,
    progress: Progress | None = None,
    references: ReferenceModels | None = None,
    repeated: Mapping[str, Sequence[int]] | None = None,
    kept: KeptBlocks | None = None,
    doubts: Sequence[Doubt] = (),
) -> AuditReport:
    """Measure every group, join what the processes measured, sum up. Every process returns the same report.

    Args:
        autoencoder: f, images (B, C, *spatial) to the same shape; for groups with conditions, what gives one for each.
        groups: Members and, if there are any, controls; of each this process's share, checked before.
        plan: Patterns, methods and settings.
        occasion: When and why the audit runs; goes into the report.
        processes: Those that share the audit; None is this process alone.
        cache: Keeps what does not depend on the autoencoder for the next audit of the same images.
        progress: Called with a description and a number of images after every piece of work.
        references: Models that were trained on other images, measured on the same ones.
        repeated: Positions by group of images that show what another shows that counts, see
            :func:`~lightning_memaudit.measurement.near_duplicates.repeats`; they are measured, and not judged.
        kept: Where this process keeps what is measured, for an audit that goes on after a kill.
        doubts: What else speaks against members being what was trained on, and controls what was not.

    Raises:
        Exception: As :meth:`~lightning_memaudit.measurement.processes.Processes.share` does, when a method fails or the
            audit must end.
    """
    processes = processes or Processes()
    groups = [replace(group, repeated=(repeated or {}).get(group.name, ())) for group in groups]
    uncertified_plan = without_own_certificates(plan, groups)

    def measure_all() -> list[Measurement]:
        found = measure_groups(autoencoder, groups, uncertified_plan, cache, progress, kept)
        if references is None:
            return found
        return [references.add_to(one, group, plan) for one, group in zip(found, groups, strict=True)]

    cells: list[Cell] = []
    recoveries: Columns = {}
    train_loss = float("nan")
    about_output: list[Doubt] = []
    for group, parts in zip(groups, zip(*processes.share(measure_all), strict=True), strict=True):
        joined = Measurement.join(parts)
        if group.name == "members":
            train_loss = joined.error_sum / max(1, joined.num_images)
            about_output = doubts_about(joined.outputs)
        cells += joined.cells
        recoveries |= joined.recoveries
    certifications = certify_from_controls(cells, plan)
    rows = audit_rows(cells, occasion, train_loss, plan.threshold_db, certifications, [*about_output, *doubts])
    numbers = {**headline(rows, cells, plan.primary), "train_loss": train_loss}
    extraction = extract(autoencoder, groups, plan, processes) if plan.extraction else None
    if extraction is not None:
        rows = [{**row, "extraction": extraction.to_dict()} for row in rows]
        recoveries |= extraction.pictures
        numbers["extracted"] = float(extraction.num_extracted)
    about = (plan.threshold_db, plan.primary, extraction, given_channels(plan.show_channels))
    return AuditReport(rows, cells, numbers, recoveries, occasion, *about)


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
