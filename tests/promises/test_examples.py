"""Every public class, and ``audit()``, shows in its docstring how it is used, and what it shows is what happens."""

import doctest
import inspect
from importlib import import_module
from pathlib import Path

import pytest

import lightning_memaudit

PACKAGE = Path(lightning_memaudit.__file__).parent
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.IGNORE_EXCEPTION_DETAIL


def public_objects():
    """Classes and functions by their full names, each where it is defined."""
    for file in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(("lightning_memaudit", *file.relative_to(PACKAGE).with_suffix("").parts))
        if file.name in ("__init__.py", "__main__.py"):
            continue
        module = import_module(name)
        for attribute, value in vars(module).items():
            defined_here = getattr(value, "__module__", None) == name and not attribute.startswith("_")
            if defined_here and (inspect.isclass(value) or inspect.isfunction(value)):
                yield f"{name}.{attribute}", value


OBJECTS = dict(public_objects())


def examples(name):
    module = import_module(OBJECTS[name].__module__)
    found = doctest.DocTestFinder(recurse=False).find(OBJECTS[name], name, globs=dict(vars(module)))
    return [one for one in found if one.examples]


MUST_HAVE = [name for name, value in OBJECTS.items() if inspect.isclass(value) or name.endswith(".audit")]
HAVE = [name for name in OBJECTS if examples(name)]


def test_the_objects_are_found():
    assert {"lightning_memaudit.measurement.engine.audit", "lightning_memaudit.results.verdict.Verdict"} <= {*MUST_HAVE}
    assert len(MUST_HAVE) > 90


@pytest.mark.parametrize("name", MUST_HAVE)
def test_has_an_example(name):
    assert name in HAVE


@pytest.mark.parametrize("name", HAVE)
def test_the_example_runs_as_shown(name):
    for example in examples(name):
        complaints = []
        doctest.DocTestRunner(optionflags=OPTIONS).run(example, out=complaints.append)
        assert not complaints, "".join(complaints)
