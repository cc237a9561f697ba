"""What a run remembers of the images that its training was given, in its checkpoints; and what speaks against them.

All of it is plain Python, and the same in every process: it grows at the ends of epochs.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from math import exp, lgamma, sqrt
from typing import Any

from lightning_memaudit.results.own_output import Doubt
from lightning_memaudit.results.training_doubts import (
    CONTROLS_GIVEN,
    MEMBERS_LEFT_OUT,
    MEMBERS_NOT_GIVEN,
    MEMBERS_NOT_YET_GIVEN,
    MEMBERS_WITHOUT_LOSS,
    NEARLY_ALL,
)

DIGITS = 16
"""Of an image's SHA-256, by which it is known here."""

CHANCE = 0.01
"""That an image which comes at random may have of staying away for so long."""

AWAY = 6
"""Epochs after which one that has come in every epoch before is taken for gone."""

SELDOM, MANY = 0.2, 10
"""Share of so many epochs or more: in fewer of them come images that are cropped or moved at random, but not those
that are flipped half of the time."""

OFTEN = 3
"""Epochs in which a loss that chooses among the images of a batch, such as the hardest, comes to each of them."""

LEFT_OUT = 0.25
"""Of the audited members, at least, that are gone where images were exchanged: some are by chance."""


@dataclass(frozen=True)
class Epoch:
    """What an epoch gave to the training.

    Attributes:
        num_images: All images of its batches.
        given: Digests of those that are looked for.
        repeats: Whether it gave the first images of the training again just as they were; None where there is nothing
            to compare.

    >>> Epoch(5, frozenset({"ab"})).repeats is None
    True
    """

    num_images: int
    given: frozenset[str]
    repeats: bool | None = None


@dataclass(frozen=True)
class Members:
    """The members of an audit, as far as it matters whether the training was given them.

    Attributes:
        digests: Of each.
        num_available: Images that the training chooses from; None where that is not known, as of a stream.
        certain: Whether every epoch is sure to give all of them.
        passed: Whether they were passed by the user: then they may be the images before augmentation.

    >>> Members(["ab"]).certain
    True
    """

    digests: Sequence[str]
    num_available: int | None = None
    certain: bool = True
    passed: bool = False


@dataclass
class GivenRecord:
    """What the training was given of the images that are audited.

    Attributes:
        is_whole: Whether the training was watched from its first step on.
        num_images: Images that it was given since it is watched.
        num_epochs: Epochs, or parts of some, in which it was.
        watched: Digests of the images that were looked for.
        given: Of those that were found: in how many epochs, and in which last, counted from 1.
        repeats: Whether the newest epoch gave the first images of the training again just as they were.
        called: How the training calls the model otherwise than the audit does, as far as it was seen.
        excused: Digests of which nobody knows whether they were given when nothing was looked at.
        learned: Digests from which the training has learned.
        other_shape: Of images of the newest epoch, none of which has that of the members; empty where some have.
        left_out: Of others those that were in its batches, where its loss left them out; and in how many epochs.

    >>> record = GivenRecord()
    >>> record.watch(["a", "b", "c"])
    >>> record.add(Epoch(3, frozenset("a")))
    >>> [doubt.text for doubt in record.doubts(Members(["a", "b"], num_available=3), ["c"])]
    ["1 of 2 audited members are not among the 3 images that were seen in the training's batches"]
    """

    is_whole: bool = True
    num_images: int = 0
    num_epochs: int = 0
    watched: set[str] = field(default_factory=set)
    given: dict[str, tuple[int, int]] = field(default_factory=dict)
    repeats: bool | None = None
    called: list[Doubt] = field(default_factory=list)
    excused: set[str] = field(default_factory=set)
    learned: set[str] = field(default_factory=set)
    left_out: dict[str, int] = field(default_factory=dict)
    other_shape: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, state: Mapping[str, Any] | None) -> "GivenRecord":
        """From :meth:`state_dict`; None, or what another version has left, tells nothing of the training."""
        if state is None or "watched" not in state:
            return cls(is_whole=False)
        return cls(
            bool(state["is_whole"]),
            int(state["num_images"]),
            int(state["num_epochs"]),
            set(state["watched"]),
            {digest: (int(count), int(last)) for digest, (count, last) in state["given"].items()},
            state["repeats"],
            [Doubt(code, text) for code, text in state["called"]],
            set(state["excused"]),
            set(state.get("learned") or ()),
            dict(state.get("left_out") or {}),
            list(state.get("other_shape") or ()),
        )

    def state_dict(self) -> dict[str, Any]:
        """Plain Python, which any checkpoint may hold."""
        return {
            "is_whole": self.is_whole,
            "num_images": self.num_images,
            "num_epochs": self.num_epochs,
            "watched": sorted(self.watched),
            "given": {digest: list(numbers) for digest, numbers in sorted(self.given.items())},
            "repeats": self.repeats,
            "called": [list(one) for one in self.called],
            "excused": sorted(self.excused),
            "learned": sorted(self.learned),
            "left_out": dict(sorted(self.left_out.items())),
            "other_shape": list(self.other_shape),
        }

    def watch(self, digests: Collection[str]) -> None:
        """These are looked for from now on; of those that were not before, nobody knows whether they were given."""
        new = set(digests) - self.watched
        if self.num_images or not self.is_whole:
            self.excused |= new
        if not (self.num_images or self.is_whole):
            self.excused |= set(digests)
        self.watched |= new

    def excuse(self) -> None:
        """Nothing can be said of what was not found, for not every batch was looked at."""
        self.excused |= self.watched

    def add(self, epoch: Epoch) -> None:
        """Count what an epoch gave."""
        if not epoch.num_images:
            return
        self.num_images += epoch.num_images
        self.num_epochs += 1
        for digest in epoch.given:
            self.given[digest] = self.given.get(digest, (0, 0))[0] + 1, self.num_epochs
        self.repeats = self.repeats if epoch.repeats is None else epoch.repeats

    def learn(self, learned: Collection[str] = (), left_out: Collection[str] = ()) -> None:
        """Note from which images the training has learned in an epoch, and which its loss has left out in some batch.

        >>> record = GivenRecord()
        >>> record.learn({"a"}, {"a", "b"})
        >>> record.left_out
        {'b': 1}
        """
        self.learned |= set(learned)
        for digest in left_out:
            self.left_out[digest] = self.left_out.get(digest, 0) + 1
        self.left_out = {digest: count for digest, count in self.left_out.items() if digest not in self.learned}

    def see_shapes(self, shapes: Collection[tuple[int, ...]], of_members: tuple[int, ...]) -> None:
        """Note of which shapes the images of an epoch were, as by progressive resizing."""
        if shapes:
            self.other_shape = [] if of_members in shapes else list(min(shapes))

    def doubts(self, members: Members, controls: Sequence[str]) -> list[Doubt]:
        """What speaks against taking members for what is trained on as it is audited, and controls for what is not."""
        if not self.num_images:
            return list(self.called)
        given = sum(one in self.given for one in controls)
        text = f"{given} of {len(controls)} controls are among the images that were seen in the training's batches"
        left = self._about_left_out(members)
        found = [
            self._about_missing(members)
            or self._about_loss(members)
            or (self._about_seldom(members) if left is None else None),
            left,
            Doubt(CONTROLS_GIVEN, text) if given else None,
        ]
        return [*self.called, *(doubt for doubt in found if doubt is not None)]

    def _about_missing(self, members: Members) -> Doubt | None:
        known = [one for one in members.digests if one not in self.excused]
        given = sum(one in self.given for one in known)
        # Where the training changes its images, those that were passed may be what they were before.
        if given >= NEARLY_ALL * len(known) or (members.passed and not self.repeats):
            return None
        text = (
            f"{len(known) - given} of {len(known)} audited members are not among the {self.num_images} images that "
            "were seen in the training's batches"
        )
        is_late = given < self._expected(members, len(known))
        return Doubt(MEMBERS_NOT_GIVEN if is_late else MEMBERS_NOT_YET_GIVEN, text)

    def _about_loss(self, members: Members) -> Doubt | None:
        """Members that are in the batches, but never in the loss; one that chooses may have to come to them yet."""
        known = [one for one in members.digests if one not in self.excused]  # others may have had one before
        counts = [self.left_out[one] for one in known if one in self.left_out]
        if len(counts) <= (1 - NEARLY_ALL) * len(members.digests):
            return None
        text = (
            f"{len(counts)} of {len(members.digests)} audited members have had no part in the loss of the training, "
            "whose batches hold them"
        )
        return Doubt(MEMBERS_WITHOUT_LOSS if max(counts) >= OFTEN else MEMBERS_NOT_YET_GIVEN, text)

    def _about_seldom(self, members: Members) -> Doubt | None:
        """Where every epoch gives all images, but hardly ever as they were audited: random augmentation."""
        counts = [self.given.get(one, (0, 0))[0] for one in members.digests if one not in self.excused]
        known = members.certain and not members.passed and members.num_available is not None
        if not (known and counts and self.num_epochs >= MANY):
            return None
        times = sum(counts) / len(counts)
        if times > SELDOM * self.num_epochs:
            return None
        text = (
            f"audited members were seen in the training's batches as they were audited in {times:.1f} of "
            f"{self.num_epochs} epochs on average"
        )
        return Doubt(MEMBERS_NOT_GIVEN, text)

    def _expected(self, members: Members, number: int) -> float:
        """So many of the members should have been given by now, or something is wrong with what was read."""
        if members.num_available is None:
            return number * float(self.num_images >= 3 * number)
        if members.certain:
            return number * float(self.num_images >= members.num_available)
        # Of draws at random that may prefer some images: a quarter of what they would bring without, and chance.
        share = 1 - exp(-self.num_images / max(1, members.num_available))
        return number * share / 4 - 3 * sqrt(number * share * (1 - share))

    def _about_left_out(self, members: Members) -> Doubt | None:
        """Members that came, and have stayed away for longer than they would if they still came as often."""
        if self.other_shape and any(one in self.given for one in members.digests):
            shape = tuple(self.other_shape)
            return Doubt(
                MEMBERS_LEFT_OUT, f"the training's images have come to be of shape {shape}, and members are not"
            )
        left = sum(self._is_gone(*self.given[one], members.certain) for one in members.digests if one in self.given)
        if left < LEFT_OUT * len(members.digests):
            return None
        text = (
            f"{left} of {len(members.digests)} audited members were seen in the training's batches, and are no longer"
        )
        return Doubt(MEMBERS_LEFT_OUT, text)

    def _is_gone(self, count: int, last: int, certain: bool) -> bool:
        """Whether an image that came in some epochs, the last of which is given, does so no more.

        Of all the ways in which its epochs may lie, if each is as likely, so few lie before the last one.
        """
        if last == self.num_epochs:
            return False
        ways = [lgamma(among + 1) - lgamma(among - count + 1) for among in (last, self.num_epochs)]
        return exp(ways[0] - ways[1]) < CHANCE or (certain and count == last and self.num_epochs - last >= AWAY)
