"""What a release consists of agrees with itself: versions, workflows, pinned packages."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

import lorasynth
from lorasynth.cli.app import app

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def workflows():
    return {path.name: yaml.safe_load(path.read_text()) for path in (ROOT / ".github/workflows").glob("*.yml")}


def test_version_is_said_in_one_place():
    assert "version" not in PROJECT
    assert PROJECT["dynamic"] == ["version"]


def test_version_is_that_of_citation_changelog_and_nodes():
    released = re.findall(r"^## (\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    nodes = tomllib.loads((ROOT / "integrations/comfyui/pyproject.toml").read_text())["project"]
    needed = (ROOT / "integrations/comfyui/requirements.txt").read_text().split()
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == lorasynth.__version__
    assert released[0] == lorasynth.__version__
    assert nodes["version"] == lorasynth.__version__
    assert nodes["dependencies"] == needed == [f"lorasynth>={lorasynth.__version__}"]


def test_program_says_its_version():
    done = CliRunner().invoke(app, ["--version"])
    assert (done.exit_code, done.output) == (0, f"lorasynth {lorasynth.__version__}\n")


IMPORTED_AS = {"onnxruntime": "onnxruntime", "opencv-python-headless": "cv2", "ray": "ray"}


@pytest.mark.parametrize("extra", sorted(PROJECT["optional-dependencies"].keys() - {"dev", "docs"}))
def test_file_that_imports_an_extras_package_names_the_extra(extra):
    for package in PROJECT["optional-dependencies"][extra]:
        name = re.split(r"[>=\[]", package)[0]
        module = IMPORTED_AS.get(name, name)
        files = [
            path
            for path in (ROOT / "src").rglob("*.py")
            if re.search(rf"^\s+(import {module}\b|from {module}\b)", path.read_text(), re.MULTILINE)
        ]
        assert files, module
        assert not [
            p for p in (ROOT / "src").rglob("*.py") if re.search(rf"^(import|from) {module}\b", p.read_text(), re.M)
        ]
        assert any(f"pip install 'lorasynth[{extra}]'" in path.read_text() for path in files), module


def test_every_package_of_an_extra_is_pinned():
    pinned = {
        re.split(r"[=\[]", line)[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    }
    wanted = [*PROJECT["dependencies"], *(p for extra in PROJECT["optional-dependencies"].values() for p in extra)]
    names = {re.split(r"[>=\[]", each)[0].lower().replace("_", "-") for each in wanted} - {"lorasynth"}
    assert names <= pinned


def test_notice_names_every_package_of_a_user_with_its_licence():
    notice = dict(re.findall(r"^  ([\w-]+) {2,}(\S.*)$", (ROOT / "NOTICE").read_text(), re.MULTILINE))
    extras = PROJECT["optional-dependencies"]
    users = [*PROJECT["dependencies"], *(p for name in extras.keys() - {"dev", "docs"} for p in extras[name])]
    assert {re.split(r"[>=\[]", each)[0] for each in users} == notice.keys() - {"package"}


def test_metadata_has_licence_typing_and_addresses():
    assert PROJECT["license"] == "Apache-2.0"
    assert PROJECT["license-files"] == ["LICENSE", "NOTICE"]
    assert {"Typing :: Typed", "Programming Language :: Python :: 3.13"} <= set(PROJECT["classifiers"])
    assert (ROOT / "src/lorasynth/py.typed").exists()
    assert PROJECT["urls"]["Paper"].endswith("2412.02352")


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


def steps():
    """Every step of every job, with its workflow's name."""
    return [
        (name, step) for name, flow in workflows().items() for job in flow["jobs"].values() for step in job["steps"]
    ]


def test_workflows_name_every_action_by_its_commit():
    text = "".join(path.read_text() for path in (ROOT / ".github/workflows").glob("*.yml"))
    used = re.findall(r"uses: (.+)", text)
    assert len(used) >= 10
    assert [each for each in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v[\d.]+", each)] == []
    assert len(set(used)) == len({each.partition("@")[0] for each in used})  # one commit an action


def test_workflows_leave_no_credentials_and_no_shell_expression():
    for name, step in steps():
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False, name
        assert "${{" not in step.get("run", ""), name


def test_workflows_ask_for_the_least_rights_and_end():
    for name, flow in workflows().items():
        assert flow["permissions"] == {"contents": "read"}, name
        assert all(0 < job["timeout-minutes"] <= 90 for job in flow["jobs"].values()), name


def test_every_public_name_is_there():
    for name in lorasynth.__all__:
        assert getattr(lorasynth, name) is not None
    assert {"open_base", "open_gallery", "open_encoder", "Synthesizer", "Zoo", "LoRA", "Layout"} <= set(
        lorasynth.__all__
    )
