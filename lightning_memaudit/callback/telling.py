"""How it is told what a watched batch shows: the first one may refuse the run, later ones can only doubt the audits."""

from collections import Counter
from dataclasses import dataclass, field, replace

from lightning.pytorch.utilities import rank_zero_warn

from lightning_memaudit.callback.inspection import Inspection
from lightning_memaudit.results.own_output import Doubt
from lightning_memaudit.results.training_doubts import CALLED_OTHERWISE, LEARNS_OTHERWISE

MEND = (
    "pass reconstruct=<a function (module, images) that prepares a batch's images as training_step does, and undoes it "
    "on the result>"
)
MEND_CURVE = f"{MEND}, or, where that cannot be undone, members= and controls= whose images are prepared so"
MEND_SIZE = f"{MEND}; or, where it is given tiles or other sizes of them, members= and controls= of such images"
MEND_CALL = (
    "pass reconstruct=<a function> that calls the model as it is to be audited: (module, images), or (module, batch), "
    "which gets the run's own batch, with its labels"
)


class Refused(ValueError):
    """A later batch has shown what would have refused the run: it was told as a doubt, and nothing more is compared.

    >>> issubclass(Refused, ValueError)
    True
    """


@dataclass
class Telling:
    """Says what watched batches show; whatever may be random is said once in a run.

    Attributes:
        found: What was read; it learns of the doubts.
        when: Of a later batch, such as "in epoch 3"; empty for the first ones.
        told: Kinds of what was said; this and the next three are shared by all batches of a run.
        gone: Kinds of what some batches had, and the next no more, as what is drawn for each.
        in_a_row: For how many rows of batches all have had something, up to the newest.
        of_images: Doubts of what the images of batches become, which later batches may no longer show.

    >>> telling = Telling(Inspection())
    >>> telling.refuse("the images are dark", "pass std=[0.5]")
    Traceback (most recent call last):
    ValueError: the images are dark: pass std=[0.5]
    >>> later = telling.later("in epoch 3")
    >>> later.which, later.told is telling.told
    ('a batch of epoch 3', True)
    """

    found: Inspection
    when: str = ""
    told: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)
    in_a_row: Counter[str] = field(default_factory=Counter)
    of_images: list[Doubt] = field(default_factory=list)

    def later(self, when: str) -> "Telling":
        """The same for a later batch.

        Args:
            when: Such as "in epoch 3".
        """
        return replace(self, when=when)

    @property
    def is_later(self) -> bool:
        """Whether the batch is not one of the first."""
        return bool(self.when)

    @property
    def which(self) -> str:
        """The batch in words."""
        return f"a batch of {self.when.removeprefix('in ')}" if self.when else "the first batch"

    def refuse(self, text: str, mend: str = MEND) -> None:
        """What is wrong with every audit: no step has been made when the first batch shows it.

        Args:
            text: What it is.
            mend: What to do.

        Raises:
            ValueError: It is the first batch.
            Refused: It is a later one, whose training goes on; the doubt was told.
        """
        if not self.is_later:
            raise ValueError(f"{text}: {mend}")
        self.doubt(text, mend)
        raise Refused(text)

    def doubt(self, text: str, mend: str = MEND) -> None:
        """Warn that the training calls the model otherwise than the audit, and let the verdicts know.

        Of a later batch only what is new: while one doubt stands, no other is added.
        """
        if self.is_later and self.found.doubts:
            return
        if self.is_later:
            text = f"{self.when}, unlike in the first batch, {text}"
        rank_zero_warn(f"members: {text}: {mend}")
        self.found.doubts.append(Doubt(CALLED_OTHERWISE, text))
        if mend in (MEND, MEND_CURVE, MEND_SIZE):
            self.of_images.append(self.found.doubts[-1])

    def learns_otherwise(self, text: str, mend: str) -> None:
        """Warn that the training does not teach the model to return its images, and let the verdicts know."""
        rank_zero_warn(f"members: {text}, and the audit takes it for the images: {mend}")
        self.found.doubts.append(Doubt(LEARNS_OTHERWISE, text))

    @property
    def is_settled(self) -> bool:
        """Whether there are doubts that no later batch can remove."""
        return any(one not in self.of_images for one in self.found.doubts)

    def withdraw(self) -> None:
        """Batches in a row have shown that the images now reach the model as they do in the audit."""
        if self.found.doubts and not self.is_settled:
            rank_zero_warn(f"members: {self.when}, unlike before, the training gives the model what the audit gives it")
            self.found.doubts.clear()
            self.of_images.clear()

    def warn(self, kind: str, text: str, mend: str = MEND, unless: str = "") -> None:
        """Warn of what may be random, where no batch before has shown something of its kind.

        Args:
            kind: Of what it is.
            text: What it is.
            mend: What to do.
            unless: Another condition under which there is nothing to do.
        """
        if kind not in self.told:
            self.told.add(kind)
            rank_zero_warn(f"members: {text}: if not at random{unless}, {mend}")

    def nothing_compared(self, reason: str) -> None:
        """Warn, once, that nobody has looked at what ``training_step`` does with the images."""
        if "nothing" not in self.told:
            self.told.add("nothing")
            about = f", {self.when}," if self.is_later else ""
            rank_zero_warn(
                f"members: what training_step gives the model could not be compared{about} with what the audit gives "
                f"it, for {reason}: where training_step prepares them, {MEND}"
            )
