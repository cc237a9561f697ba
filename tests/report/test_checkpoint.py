"""What is in a checkpoint is named without running it, and loaded only as far as it is allowed."""

import argparse
import enum
import functools
import pathlib
from pickle import UnpicklingError

import numpy as np
import pytest
import torch
from lightning.fabric.utilities.data import AttributeDict

from lightning_memaudit.report.checkpoint import allowed, foreign_types, read_checkpoint

HERE = __name__


class Outer:
    class Inner:
        value = 1

        class Innermost:
            pass

    class Other:
        pass

    class Kind(enum.Enum):
        ONE = 1


class Container:
    """Keeps its state as omegaconf's do: by ``__setstate__``."""

    def __init__(self):
        self.content = {"width": 2}

    def __setstate__(self, state):
        self.__dict__.update(state)


class Mine(dict):
    pass


class Malicious:
    def __reduce__(self):
        return (open, ("harmed", "w"))


def save(content, path="a.ckpt"):
    torch.save({"state_dict": {"weight": torch.ones(2)}, "content": content}, path)
    return path


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ({"plain": [1, 2.0, "three", None, (True,), {4}, b"5", 6j, 10**400]}, []),
        (AttributeDict(a=1), []),
        (argparse.Namespace(a=1), ["argparse.Namespace"]),
        (
            [argparse.Namespace(), pathlib.PurePosixPath("a")],
            ["argparse.Namespace", f"{pathlib.PurePosixPath.__module__}.PurePosixPath"],
        ),
        (functools.partial(argparse.Namespace, a=1), ["argparse.Namespace", "functools.partial"]),
        (Container(), [f"{HERE}.Container"]),
        (Outer.Inner(), [f"{HERE}.Outer.Inner"]),
        (Outer.Inner.Innermost(), [f"{HERE}.Outer.Inner.Innermost"]),
        ([Outer(), Outer.Inner()], [f"{HERE}.Outer", f"{HERE}.Outer.Inner"]),
        ([Outer.Inner(), Outer.Inner.Innermost()], [f"{HERE}.Outer.Inner", f"{HERE}.Outer.Inner.Innermost"]),
        ([Outer.Kind.ONE, Outer.Other()], [f"{HERE}.Outer.Kind", f"{HERE}.Outer.Other"]),
    ],
)
def test_all_types_are_named_at_once_and_loaded_when_they_are_allowed(content, names):
    path = save(content)
    assert foreign_types(path) == names
    loaded = read_checkpoint(path, names)
    assert type(loaded["content"]) is (dict if isinstance(content, AttributeDict) else type(content))
    if not names:
        return
    with pytest.raises(ValueError, match="could run code") as error:
        read_checkpoint(path)
    assert f"--allow_types=[{','.join(names)}]" in str(error.value)
    for one in names:
        rest = [name for name in names if name != one]
        assert foreign_types(path, rest) == [one]
        with pytest.raises(ValueError, match="could run code") as error:
            read_checkpoint(path, rest)
        assert f"--allow_types=[{','.join([*rest, one])}]" in str(error.value), "with those that were allowed before"


def test_numbers_and_arrays_of_numpy():
    content = [np.float64(3), np.int32(2), np.arange(3.0), np.array(["a"])]
    path = save(content)
    names = foreign_types(path)
    assert {name.rpartition(".")[2] for name in names} == {"scalar", "dtype", "_reconstruct", "ndarray"}
    loaded = read_checkpoint(path, names)["content"]
    assert loaded[:2] == content[:2]
    assert all((one == other).all() for one, other in zip(loaded[2:], content[2:], strict=True))


def test_an_inner_class_does_not_allow_the_one_around_it_nor_its_neighbours():
    with allowed([f"{HERE}.Outer.Inner"]):
        for content in (Outer(), Outer.Other(), [Outer.Inner(), Outer()], [].append):
            with pytest.raises((UnpicklingError, TypeError)):
                torch.load(save(content), weights_only=True)
        assert torch.load(save(Outer.Inner()), weights_only=True)["content"].value == 1
    with pytest.raises(UnpicklingError):
        torch.load(save(Outer.Inner()), weights_only=True)


def test_nothing_is_run(tmp_path):
    path = save([Malicious(), Outer.Inner()])
    assert foreign_types(path) == [f"{open.__module__}.open", f"{HERE}.Outer.Inner"]
    with pytest.raises(ValueError, match=r"io\.open"):
        read_checkpoint(path)
    assert not (tmp_path / "harmed").exists()


def test_types_of_another_script(monkeypatch):
    with monkeypatch.context() as script:
        script.setattr(Container, "__module__", "__main__")
        script.setattr("__main__.Container", Container, raising=False)
        path = save([Container(), argparse.Namespace()])
    for names in ([], ["argparse.Namespace"], ["argparse.Namespace", "__main__.Container"]):
        with pytest.raises(ValueError, match=r"__main__\.Container") as error:
            read_checkpoint(path, names)
        assert "script that saved the checkpoint" in str(error.value)
        assert "move it into a module" in str(error.value)
        assert "--allow_types" not in str(error.value)


def test_what_cannot_be_loaded_even_when_it_is_allowed():
    path, names = save(Mine(a=1)), [f"{HERE}.Mine"]
    try:
        with torch.serialization.safe_globals([Mine]):
            loaded = torch.load(path, weights_only=True)["content"]
    except UnpicklingError:
        with pytest.raises(ValueError, match="without running its code") as error:
            read_checkpoint(path, names)
        assert "Mine" in str(error.value)
    else:  # torch 2.6 fills it item by item, as it does any other that is allowed
        assert read_checkpoint(path, names)["content"] == loaded == {"a": 1}


@pytest.mark.parametrize("name", ["no.such.Type", "argparse.Nmespace", "Type", "", "argparse."])
def test_a_type_that_is_not_there(name):
    with pytest.raises(ValueError, match="there is no type"):
        read_checkpoint(save(1), [name])


def test_files_of_before_2020_and_files_that_are_none(tmp_path):
    torch.save({"content": Container()}, "old.ckpt", _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match="could run code") as error:
        read_checkpoint("old.ckpt")
    assert f"--allow_types=[{HERE}.Container]" in str(error.value)
    assert read_checkpoint("old.ckpt", [f"{HERE}.Container"])["content"].content == {"width": 2}
    (tmp_path / "text").write_text("a text")
    (tmp_path / "torn").write_bytes(pathlib.Path(save(1)).read_bytes()[:200])
    for name in ("text", "torn"):
        with pytest.raises(ValueError, match=f"{name}' cannot be read as a checkpoint"):
            read_checkpoint(name)
