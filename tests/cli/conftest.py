"""Commands that are run on the modules of a project that nobody here wrote."""

import itertools
import sys

import pytest
from their_project import write_project

_number = itertools.count()


@pytest.fixture
def project(tmp_path):
    """The name of a module in a package of the current folder, that no test before this one has imported."""
    name = f"project_{next(_number)}"
    yield write_project(tmp_path, name)
    for module in [module for module in sys.modules if module.partition(".")[0] == name]:
        del sys.modules[module]
