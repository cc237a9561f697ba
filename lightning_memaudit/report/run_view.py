"""A run to be shown: what page, figures and comparison need of it is read and drawn once."""

from collections.abc import Callable, Sequence
from functools import cached_property

from markupsafe import Markup

from lightning_memaudit.report.document import Document
from lightning_memaudit.report.selection import saved_images
from lightning_memaudit.results.rows import Row
from lightning_memaudit.results.run_folder import RunFolder, SavedRecoveries
from lightning_memaudit.results.shown_channels import given_channels

PREFIX = "memaudit-chart"
"""Before the ids in a drawn chart, until it has a place on a page."""


def shown_channels(folder: RunFolder) -> tuple[int, ...] | None:
    """The channels that a run's pictures show, as its settings say."""
    try:
        settings = folder.run().get("settings")
    except FileNotFoundError:  # results without the run
        return None
    return given_channels((settings or {}).get("show_channels"))


class RunView:
    """Reads and draws what is asked for, the first time that it is asked for.

    Args:
        folder: The results.
        document: Their ``report.json``.

    >>> folder = RunFolder("memaudit")
    >>> folder.append_audit([{"audit": 0, "step": 500}], image_rows=[], recoveries={})
    >>> view = RunView(folder, {"judgement": {"audit": 0, "method": "blind"}})
    >>> len(view.rows), view.saved, view.images, view.primary
    (1, None, [], 'blind')
    """

    def __init__(self, folder: RunFolder, document: Document) -> None:
        self.folder, self.document = folder, document
        self.primary = str(document["judgement"]["method"])
        self._drawn: dict[str, Markup | None] = {}

    @cached_property
    def rows(self) -> Sequence[Row]:
        """Of ``audits.jsonl``."""
        return self.folder.audits()

    @cached_property
    def saved(self) -> SavedRecoveries | None:
        """The newest audit's recoveries; None where none were saved, or they are of an older audit."""
        saved = self.folder.newest_recoveries()
        return saved if saved is not None and saved.audit == self.document["judgement"]["audit"] else None

    @cached_property
    def images(self) -> list[Row]:
        """The rows of the images whose recoveries were saved."""
        return [] if self.saved is None else saved_images(self.folder, self.saved.audit, self.saved.arrays)

    @cached_property
    def channels(self) -> tuple[int, ...] | None:
        """Those that pictures show, see :func:`.chosen`; None are the first ones."""
        return shown_channels(self.folder)

    def chart(self, name: str, place: str, draw: Callable[[str], Markup | None]) -> Markup | None:
        """A chart with ids that are unique to its place on a page; None where there is nothing to draw.

        Args:
            name: Of the chart.
            place: Unique within the page.
            draw: Draws it, given what its ids begin with.
        """
        if name not in self._drawn:
            self._drawn[name] = draw(PREFIX)
        drawn = self._drawn[name]
        if drawn is None:
            return None
        return Markup(str(drawn).replace(f'"{PREFIX}', f'"{place}').replace(f"#{PREFIX}", f"#{place}"))  # ours
