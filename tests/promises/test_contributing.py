"""What contributors are told is true: files exist, workflows run what CI runs, and Pythons are those supported."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
GITHUB = ROOT / ".github"


def test_contributing_names_what_exists():
    text = (GITHUB / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!http)([^)#]+)", text):
        assert (GITHUB / target).exists(), target
    for path in re.findall(r"`(tests/[\w/.]+)`", text):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"`((?:recovery|measurement|results)/[\w/.]+)`", text):
        assert (ROOT / "lightning_memaudit" / path).exists(), path


def test_the_workflow_runs_ci_on_every_supported_python():
    jobs = yaml.safe_load((GITHUB / "workflows" / "tests.yml").read_text(encoding="utf-8"))["jobs"]
    pythons = jobs["tests"]["strategy"]["matrix"]["python"]
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert pythons == re.findall(r"Programming Language :: Python :: (3\.\d+)", project)
    assert f'requires-python = ">={pythons[0]}"' in project
    assert any("bash .ci/run" in str(step.get("run")) for step in jobs["tests"]["steps"])
    assert (ROOT / ".ci" / "run").is_file()


@pytest.mark.parametrize("form", sorted((GITHUB / "ISSUE_TEMPLATE").glob("[!c]*.yml")), ids=lambda path: path.stem)
def test_issue_forms_are_whole_and_ask_for_the_report(form):
    content = yaml.safe_load(form.read_text(encoding="utf-8"))
    assert {"name", "description", "body"} <= set(content)
    fields = [one["attributes"]["label"] for one in content["body"] if one["type"] != "markdown"]
    assert any("report.json" in label for label in fields)


def test_pre_commit_runs_the_linters():
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert [hook["id"] for hook in local["hooks"]] == ["ruff-check", "ruff-format", "mypy"]
