"""Keys and import paths on the command line and in a config, and in the config that a run saves."""

import pytest
import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch.demos.boring_classes import RandomDataset

from lightning_memaudit import MemorizationAuditCallback
from lightning_memaudit.cli.fit import parse, the_callback, with_quickstart
from lightning_memaudit.cli.main import main

KEYS = {
    "pixels": "pixels",
    "0": 0,
    "-1": -1,
    "[inputs, 1]": ["inputs", 1],
    "my_package.calls.pixels": "my_package.calls.pixels",
    "math.sqrt": "math.sqrt",
    "{members: image, controls: 0}": {"members": "image", "controls": 0},
    "{members: [a, 0], controls: math.sqrt}": {"members": ["a", 0], "controls": "math.sqrt"},
    "{controls: 1}": {"controls": 1},
    "null": None,
}


def parsed(*arguments):
    return parse(with_quickstart(list(arguments)), run=False)


LIKE_ANOTHER = ("0", "{members: image, controls: 0}", "{controls: 1}")


@pytest.mark.parametrize(
    "text", [pytest.param(text, marks=pytest.mark.slow) if text in LIKE_ANOTHER else text for text in KEYS]
)
def test_image_keys(text, tmp_path):
    """From the command line, from a config, and from the config that Lightning saves of either."""
    cli = parsed(f"--memaudit.image_key={text}")
    assert the_callback(cli.trainer).which.image_key == KEYS[text]
    (tmp_path / "given.yaml").write_text(f"memaudit:\n  image_key: {text}\n")
    saved = cli.parser.dump(cli.config, skip_none=False)
    (tmp_path / "saved.yaml").write_text(yaml.safe_dump({"memaudit": yaml.safe_load(saved)["memaudit"]}))
    for file in ("given.yaml", "saved.yaml"):
        again = parse([*with_quickstart([]), "--config", str(tmp_path / file)], run=False)
        assert the_callback(again.trainer).which.image_key == KEYS[text], file


def test_data_sets_by_their_class():
    """In YAML, as ``members:`` and ``controls:`` of the callback in a LightningCLI of one's own too."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(MemorizationAuditCallback, "audit")
    images = {"class_path": f"{RandomDataset.__module__}.RandomDataset", "init_args": {"size": 4, "length": 5}}
    given = parser.parse_object({"audit": {"members": images, "controls": images}})
    which = parser.instantiate_classes(given).audit.which
    assert [type(one) for one in (which.members, which.controls)] == [RandomDataset] * 2
    assert len(which.members) == 5


def test_keys_of_groups_one_by_one():
    cli = parsed("--memaudit.image_key.members=pixels", "--memaudit.image_key.controls=1")
    assert the_callback(cli.trainer).which.image_key == {"members": "pixels", "controls": 1}


def test_outputs_and_import_paths():
    cli = parsed("--memaudit.output=[out, 0]", "--memaudit.reconstruct=math.sqrt")
    assert the_callback(cli.trainer).how.output == ["out", 0]
    assert the_callback(cli.trainer).how.reconstruct in ("math.sqrt", __import__("math").sqrt)
    for text in ("sample", "torch.sigmoid"):
        assert the_callback(parsed(f"--memaudit.output={text}").trainer).how.output == text
    saved = yaml.safe_load(cli.parser.dump(cli.config, skip_none=False))["memaudit"]
    assert (saved["output"], saved["reconstruct"]) == (["out", 0], "math.sqrt")


def test_a_mapping_of_anything_but_groups_is_refused(capsys):
    assert main(["fit", "--memaudit.image_key={inputs: 0}"]) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1, error
    assert "image_key={'inputs': 0}: a mapping gives each group a key of its own" in error
