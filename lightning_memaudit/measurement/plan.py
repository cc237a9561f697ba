"""What an audit does, and to which images; all of it checked before anything runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from lightning_memaudit.measurement.checks import check_group, check_values
from lightning_memaudit.measurement.degradations import Degradation, Degraded, parse_degradation
from lightning_memaudit.measurement.groups import Group, ImageSource
from lightning_memaudit.recovery import BlindRecovery, KnownMaskRecovery
from lightning_memaudit.recovery.checks import check_counts, check_plane
from lightning_memaudit.recovery.methods.registry import METHODS, Method, is_for_planes, recovers_from, uses_autoencoder
from lightning_memaudit.recovery.spatial import spatial
from lightning_memaudit.results.names import INPAINTER, check_name, did_you_mean, primary_method
from lightning_memaudit.results.shown_channels import check_channels, given_channels

DEFAULT_PATTERNS = ("random-0.5", "block-0.25")
DEFAULT_METHODS = ("blind", "paper_blind", "known_mask", "autoencoder_iterations", "biharmonic")

MAX_THRESHOLD_DB = 90.0
"""Above this, a root mean squared error of 3e-5, what a network returns is lost in rounding: nothing would count."""

LARGE_SIDE, LARGE_METHODS = 128, ("blind", "biharmonic")
"""Images of at least so many pixels a side, and volumes of as many, get these methods instead of the default ones,
where those take too long."""

Methods = Sequence[str] | Mapping[str, str | Method]
"""Names of methods, or a mapping from names to methods or names."""


@dataclass(frozen=True)
class Plan:
    """What an audit does to every group.

    Attributes:
        patterns: Degradations, in order.
        methods: Methods by name, in order.
        threshold_db: PSNR in dB at or above which an image counts as recovered; at most :data:`MAX_THRESHOLD_DB`.
        seed: Seeds the masks, together with the kind of mask and the image's position in its group; 0 or more, below
            2**63.
        block_size: Images that are degraded and recovered together; bounds the memory.
        save_recoveries: Images per group whose recoveries are kept.
        raise_errors: Raise when a method fails on a block, instead of counting its images as failed.
        num_proximal: At the end, also say how far f is from a proximal map at so many images per group.
        find_largest_missing: At the end, also find the largest missing fraction from which each image comes back.
        extraction: Also look for images that come out by themselves, from at most so many starts; 0 does not.
        max_seconds: That one audit may take, see :mod:`lightning_memaudit.measurement.budget`; None for no bound.
        show_channels: Of images with many channels those that pictures show; None are the first three.
        default_methods: Whether the methods are nobody's choice: large images may get cheaper ones.

    Raises:
        ValueError: An attribute is out of its range; the message names it, its value and the mend.

    >>> plan = Plan.of(["random-0.5", "half"], ["blind", "biharmonic"])
    >>> [pattern.name for pattern in plan.patterns], list(plan.methods)
    (['random-0.5', 'half'], ['blind', 'biharmonic'])
    """

    patterns: Sequence[Degradation]
    methods: Mapping[str, Method]
    threshold_db: float = 30.0
    seed: int = 0
    block_size: int = 512
    save_recoveries: int = 64
    raise_errors: bool = True
    num_proximal: int = 0
    find_largest_missing: bool = False
    extraction: int = 0
    max_seconds: float | None = None
    show_channels: Sequence[int] | None = None
    default_methods: bool = False

    def __post_init__(self) -> None:
        if not self.patterns:
            raise ValueError("patterns=[]: name at least one, such as random-0.5")
        names = [pattern.name for pattern in self.patterns]
        if len(set(names)) < len(names):
            raise ValueError(f"patterns={names}: name each only once")
        _check_distinct(self.patterns)
        if (
            not isinstance(self.threshold_db, int | float)
            or isinstance(self.threshold_db, bool)
            or not 0 < self.threshold_db <= MAX_THRESHOLD_DB
        ):
            raise ValueError(
                f"threshold_db={self.threshold_db}: must be a positive number of decibels, at most "
                f"{MAX_THRESHOLD_DB:g}, such as 30"
            )
        seed: object = self.seed
        if not isinstance(seed, int | np.integer) or isinstance(seed, bool) or not 0 <= seed < 2**63:
            raise ValueError(f"seed={seed!r}: must be an integer from 0 to 2**63 - 1")
        for argument in ("block_size", "num_proximal", "save_recoveries", "extraction"):
            given: object = getattr(self, argument)
            if not isinstance(given, int | np.integer) or isinstance(given, bool):
                raise ValueError(f"{argument}={given!r}: must be an integer")
        check_counts(block_size=self.block_size)
        given_channels(self.show_channels)
        for argument in ("num_proximal", "save_recoveries", "extraction"):
            if getattr(self, argument) < 0:
                raise ValueError(f"{argument}={getattr(self, argument)}: must be 0 or more")
        seconds: object = self.max_seconds
        is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
        if seconds is not None and not (is_number and 1 <= seconds < float("inf")):  # type: ignore[operator]
            raise ValueError(
                f"max_seconds={seconds}: must be at least 1, the seconds that one audit may take, or null for no bound"
            )
        without = self.without_autoencoder
        # The inpainter alone has its use: the autoencoder's own errors, at no other cost.
        if len(without) == len(self.methods) and without != [INPAINTER]:
            raise ValueError(
                f"methods={list(self.methods)}: none of them calls the autoencoder, so what comes back says nothing of "
                f"it; add {'blind' if 'blind' not in without else 'one that does, such as known_mask'}"
            )
        self._check_fit(names)

    def _check_fit(self, patterns: Sequence[str]) -> None:
        for pattern in self.patterns:
            if not self.methods_for(pattern):
                raise ValueError(
                    f"pattern {pattern.name!r}: none of the methods {', '.join(self.methods)} recovers from a "
                    f"{pattern.family}; add {'blind_deblurring' if pattern.family == 'blur' else 'blind'}"
                )
        for name, method in self.methods.items():
            if not any(recovers_from(method, pattern.family) for pattern in self.patterns):
                raise ValueError(
                    f"method {name!r} recovers from none of the patterns {', '.join(patterns)}: leave it out, or add a "
                    "pattern that it recovers from"
                )
        if self.find_largest_missing and not recovers_from(self.methods[self.primary], "mask"):
            raise ValueError(f"largest_missing=True: {self.primary} recovers from no mask; add blind to methods")

    @property
    def primary(self) -> str:
        """The audited method: the one that the headline and the verdict speak of."""
        return primary_method(list(self.methods), self.without_autoencoder)

    @property
    def without_autoencoder(self) -> list[str]:
        """The methods that never call the autoencoder, such as the inpainter: none of them is audited."""
        return [name for name, method in self.methods.items() if not uses_autoencoder(method)]

    def methods_for(self, pattern: Degradation) -> dict[str, Method]:
        """The methods that are for images degraded in this way."""
        return {name: method for name, method in self.methods.items() if recovers_from(method, pattern.family)}

    @property
    def cells(self) -> list[tuple[str, str]]:
        """Names of every pattern and method that run together, in the order in which they do."""
        return [(pattern.name, name) for pattern in self.patterns for name in self.methods_for(pattern)]

    def with_methods(self, methods: Methods) -> "Plan":
        """The same with other methods.

        Raises:
            ValueError: They are not for these patterns.
        """
        return replace(self, methods=resolve_methods(methods), default_methods=False)

    def at_most(self, max_evaluations: int) -> "Plan":
        """The same with no more evaluations of an image by any method that tunes itself.

        >>> plan = Plan.of(["half"], ["blind", "paper_blind"]).at_most(60)
        >>> [method.max_evaluations for method in plan.methods.values()]
        [60, None]
        """
        methods = dict(self.methods)
        for name, method in self.methods.items():
            tuned = self_tuned(method)
            if tuned is not None:
                number = min(max_evaluations, tuned.max_evaluations or max_evaluations)
                methods[name] = replace(tuned, max_evaluations=number)
        return replace(self, methods=methods)

    @classmethod
    def of(cls, patterns: Sequence[str] = DEFAULT_PATTERNS, methods: Methods | None = None, **settings: Any) -> "Plan":
        """A plan with patterns and methods by their names.

        Args:
            patterns: Degradations, see :mod:`lightning_memaudit.measurement.degradations`.
            methods: Names, or a mapping from names to methods; None is :data:`DEFAULT_METHODS`.
            settings: The other attributes.

        Raises:
            ValueError: A name is unknown, or an attribute out of its range.
        """
        if methods is None:
            methods, settings = DEFAULT_METHODS, {"default_methods": True, **settings}
        for argument, names in (("patterns", patterns), ("methods", methods)):
            if isinstance(names, str) or not isinstance(names, Sequence | Mapping):
                raise ValueError(f"{argument}={names!r}: pass a list of names, such as [{names!r}]")
        return cls([parse_degradation(name) for name in patterns], resolve_methods(methods), **settings)


def _check_distinct(patterns: Sequence[Degradation]) -> None:
    """Raise where two names are spellings of one pattern: the verdict allows for the patterns tried, each once."""
    spelled: dict[Degradation, str] = {}
    for pattern in patterns:
        first = spelled.setdefault(replace(pattern, name=""), pattern.name)
        if first != pattern.name:
            raise ValueError(f"patterns: {first!r} and {pattern.name!r} are the same; leave one of them out")


def self_tuned(method: Method) -> BlindRecovery | KnownMaskRecovery | None:
    """The method, if it searches until an image is recovered well, with as many evaluations as that takes."""
    return method if isinstance(method, BlindRecovery | KnownMaskRecovery) and method.penalties is None else None


def resolve_methods(methods: Methods) -> dict[str, Method]:
    """Turn names, or a mapping from names to methods (or names), into methods in the given order.

    Raises:
        ValueError: An unknown name, one that cannot be part of a metric's, or no method at all.
    """
    named = dict(methods) if isinstance(methods, Mapping) else {name: name for name in methods}
    wrong = [name for name in named if not isinstance(name, str)]
    if wrong:
        raise ValueError(f"methods: {wrong[0]!r} is no name: pass names, or a mapping from names to methods")
    if len(named) < len(methods):
        raise ValueError(f"methods={list(methods)}: name each only once")
    for name, method in named.items():
        if not callable(method) and not isinstance(method, str):
            raise ValueError(
                f"methods: {name} is of type {type(method).__name__}: pass the name of a method or a method"
            )
    if not named:
        raise ValueError(f"methods={methods!r}: name at least one of {', '.join(METHODS)}")
    for name in named:
        check_name(name, f"method name {name!r}")
    return {name: _make(method) if isinstance(method, str) else method for name, method in named.items()}


def _make(name: str) -> Method:
    """Make the method called ``name`` with its defaults."""
    if name not in METHODS:
        hint = f"{did_you_mean(name, METHODS)} ".lstrip()
        extra = "; ddnm takes a diffusion model: methods={'ddnm': DDNM(...)}" if name == "ddnm" else ""
        raise ValueError(f"method {name!r} is unknown: {hint}pass one of {', '.join(METHODS)}{extra}")
    return METHODS[name]()


def check_degradations(plan: Plan, group: Group) -> None:
    """Degrade the first images of a group by every pattern: sizes that do not fit are known before the audit.

    Raises:
        ValueError: The images have not all channels that are to be shown, a pattern cannot be applied to images of
            this size, hides nothing or all of them, or leaves the same of them as another one, or a method is for
            other numbers of axes or larger images.
    """
    images = group.images[slice(0, 2)]
    image = images[:1]
    check_channels(plan.show_channels, image.shape[1])
    seen: list[tuple[str, Degraded]] = []
    for pattern in plan.patterns:
        degraded = pattern(images, range(len(images)), plan.seed)
        mask = degraded.mask[:1]
        same = next((name for name, other in seen if _alike(other, degraded)), None)
        if same is not None:
            raise ValueError(
                f"patterns: {same!r} and {pattern.name!r} leave the same of images of this size; leave one of them out"
            )
        seen.append((pattern.name, degraded))
        if pattern.family == "mask" and (bool((mask > 0).all()) or not bool(mask.any())):
            size = " x ".join(map(str, spatial(image)))
            raise ValueError(
                f"pattern {pattern.name!r}: of {size} images it hides {'all' if not bool(mask.any()) else 'nothing'}; "
                "leave it out, or choose another kind or fraction"
            )
    for name, method in plan.methods.items():
        if is_for_planes(method):
            check_plane(name, image)
        support = getattr(method, "kernel_size", 0)
        if isinstance(support, int) and support > min(spatial(image)):
            size = " x ".join(map(str, spatial(image)))
            raise ValueError(
                f"method {name!r}: its kernel of {support} pixels is larger than {size} images; leave it out"
            )


def _alike(one: Degraded, other: Degraded) -> bool:
    return torch.equal(one.mask, other.mask) and torch.equal(one.observed, other.observed)


__all__ = [
    "DEFAULT_METHODS",
    "DEFAULT_PATTERNS",
    "Group",
    "ImageSource",
    "Methods",
    "Plan",
    "check_degradations",
    "check_group",
    "check_values",
    "resolve_methods",
]
