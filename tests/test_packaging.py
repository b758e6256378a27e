"""What a release consists of agrees with itself: versions, workflows, pinned packages."""

import re
import tomllib
from pathlib import Path

import yaml

import lorasynth

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def workflows():
    return {path.name: yaml.safe_load(path.read_text()) for path in (ROOT / ".github/workflows").glob("*.yml")}


def test_version_is_said_in_one_place():
    assert "version" not in PROJECT
    assert PROJECT["dynamic"] == ["version"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == lorasynth.__version__


def test_every_package_of_an_extra_is_pinned():
    pinned = {
        re.split(r"[=\[]", line)[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    }
    wanted = [*PROJECT["dependencies"], *(p for extra in PROJECT["optional-dependencies"].values() for p in extra)]
    names = {re.split(r"[>=\[]", each)[0].lower().replace("_", "-") for each in wanted} - {"lorasynth"}
    assert names <= pinned


def test_workflows_call_targets_that_the_makefile_has():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    commands = [
        step["run"]
        for flow in workflows().values()
        for job in flow["jobs"].values()
        for step in job["steps"]
        if "run" in step
    ]
    called = {target for command in commands for target in re.findall(r"^make ([\w-]+)", command, re.MULTILINE)}
    assert {"check", "test-all", "wheel", "site"} <= called <= targets


def test_release_needs_no_token_and_a_built_wheel():
    jobs = workflows()["release.yml"]["jobs"]
    assert jobs["publish"]["permissions"] == {"id-token": "write"}
    assert jobs["publish"]["needs"] == "build"
    assert "secrets." not in (ROOT / ".github/workflows/release.yml").read_text()


def test_every_public_name_is_there():
    for name in lorasynth.__all__:
        assert getattr(lorasynth, name) is not None
    assert {"open_base", "open_gallery", "open_encoder", "Synthesizer", "Zoo", "LoRA", "Layout"} <= set(
        lorasynth.__all__
    )
