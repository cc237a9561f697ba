"""What run.json says that was run must be there, each pattern with each method that is for it, in order."""

import pytest

from lightning_memaudit.recovery.methods.registry import METHODS
from lightning_memaudit.report.verify.left_out import in_order, whole_plan


class Folder:
    """Rows of audits, and what run.json says of them."""

    def __init__(self, rows, **settings):
        self.rows, self.settings = rows, settings

    def audits(self):
        return self.rows

    def run(self):
        return {"settings": self.settings}


PATTERNS, NAMES = ["random-0.3", "blur-1", "random-0.9"], ["blind", "blind_deblurring", "biharmonic"]
MADE = {name: repr(METHODS[name]()) for name in NAMES}
CELLS = [(p, m) for p in PATTERNS for m in NAMES if ("blur" in p) == (m == "blind_deblurring")]


def folder(cells=CELLS, patterns=PATTERNS, methods=NAMES, made=MADE):
    rows = [
        {"audit": 0, "group": group, "pattern": pattern, "method": method}
        for group in ("members", "controls")
        for pattern, method in cells
    ]
    return Folder(rows, patterns=patterns, methods=methods, method_settings=made)


def without(*cells):
    return [cell for cell in CELLS if cell not in cells]


def renamed(cells, names):
    return [(pattern, names.get(method, method)) for pattern, method in cells]


EXCHANGED = {"blind": "biharmonic", "biharmonic": "blind"}
CASES = {
    "all": (folder(), True),
    "a method of the user's": (
        folder(renamed(CELLS, {"blind": "mine"}), methods=["mine", *NAMES[1:]], made=MADE | {"mine": "Mine()"}),
        True,
    ),
    "another method by a known name": (folder(made=MADE | {"blind": "Mine()"}), True),
    "a run that does not say": (Folder(folder().rows), None),
    "a pattern left out": (folder(without(*[cell for cell in CELLS if cell[0] == "random-0.3"])), False),
    "the inpainter left out of a pattern": (folder(without(("random-0.3", "biharmonic"))), False),
    "the blur left out": (folder(without(("blur-1", "blind_deblurring"))), False),
    "a method left out": (folder([cell for cell in CELLS if cell[1] != "blind"]), False),
    "the user's method left out of a pattern": (
        folder(
            renamed(without(("random-0.3", "blind")), {"blind": "mine"}),
            methods=["mine", *NAMES[1:]],
            made=MADE | {"mine": "Mine()"},
        ),
        False,
    ),
    "methods in another order": (folder(methods=NAMES[::-1]), False),
    "patterns in another order": (folder(patterns=PATTERNS[::-1]), False),
    "methods exchanged": (folder(renamed(CELLS, EXCHANGED)), False),
    "a method on a pattern that it is not for": (folder([*CELLS, ("blur-1", "blind")]), False),
}


@pytest.mark.parametrize("name", CASES)
def test_every_pattern_and_method_is_there(name):
    case, passed = CASES[name]
    assert whole_plan("plan", case).passed is passed


@pytest.mark.parametrize(
    ("epochs", "passed"), [((0, 5, 5, 9), True), ((None, None), True), ((0, None, 3), True), ((0, 9, 5), False)]
)
def test_training_goes_on_from_audit_to_audit(epochs, passed):
    for key in ("epoch", "step"):
        rows = [{"audit": number, key: epoch} for number, epoch in enumerate(epochs)]
        assert in_order("order", Folder(rows)).passed is passed
