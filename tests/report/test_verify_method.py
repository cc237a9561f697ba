"""Which method is audited follows from those that ran; what is taken on trust is not ticked."""

import pytest

from lightning_memaudit.recovery.methods.registry import METHODS, uses_autoencoder
from lightning_memaudit.report.verify.described import OWN, same_method
from lightning_memaudit.results.names import CALLING


class Folder:
    """Methods that ran, in this order, and what run.json says of them."""

    def __init__(self, methods, version=None, **settings):
        self.methods, self.settings, self.version = methods, settings, version

    def audits(self):
        return [{"audit": 0, "method": method} for method in self.methods]

    def run(self):
        return {"settings": self.settings, "versions": {"lightning_memaudit": self.version or "0.3.4"}}


ALL = ["known_mask", "autoencoder_iterations", "biharmonic"]
ORDERED = ["known_mask", "paper_blind"]
CASES = {
    "the one told nothing": (Folder(ALL, primary_method="autoencoder_iterations"), True),
    "not said": (Folder(ALL), True),
    "the one told the mask": (Folder(ALL, primary_method="known_mask"), False),
    "the inpainter": (Folder(ALL, primary_method="biharmonic"), False),
    "called one without autoencoder": (
        Folder(["blind", *ALL], primary_method="autoencoder_iterations", without_autoencoder=["blind", "biharmonic"]),
        False,
    ),
    "called so, and not said which": (Folder(["blind", *ALL], without_autoencoder=["blind"]), False),
    "another's, that is said to call none": (
        Folder(["mine", "known_mask"], primary_method="known_mask", without_autoencoder=["mine"]),
        None,
    ),
    "another's, that is said to call it": (Folder(["mine", "known_mask"], primary_method="mine"), None),
    "another's, on which nothing hangs": (
        Folder(["mine", "blind"], primary_method="blind", without_autoencoder=["mine"]),
        True,
    ),
    "another's, excluded, and the report takes it": (
        Folder(["mine", "known_mask"], without_autoencoder=["mine"]),
        False,
    ),
    "the first, when order chose": (Folder(ORDERED, "0.3.3", primary_method="known_mask"), None),
    "the first, when order did no more": (Folder(ORDERED, "0.3.4", primary_method="known_mask"), False),
    "the first, of a version that is none": (Folder(ORDERED, "1.0.dev0", primary_method="known_mask"), False),
    "not the first, when order chose": (
        Folder(["paper_blind", "known_mask"], "0.3.3", primary_method="known_mask"),
        False,
    ),
    "the first before blind, when order chose": (
        Folder(["known_mask", "blind"], "0.3.3", primary_method="known_mask"),
        False,
    ),
    "one that did not run": (Folder(ORDERED, "0.3.3", primary_method="blind"), False),
}


@pytest.mark.parametrize("name", CASES)
def test_the_audited_method_is_the_one_that_must_be(name):
    folder, passed = CASES[name]
    check = same_method("method", folder)
    assert check.passed is passed, check
    assert (check.name == "method") == (passed is not None), "what is taken on trust says which method that is"


def test_the_methods_that_call_the_autoencoder_are_known_by_name():
    assert {name for name, make in METHODS.items() if uses_autoencoder(make())} == set(CALLING)
    assert set(METHODS) <= OWN
