"""What a world is made of stays inside it: nobody else names its rooms, and it names no other world's."""

import ast
from pathlib import Path

import pytest

import lorasynth
from lorasynth.errors import ModelError, UsageError
from lorasynth.worlds.world import DOMAIN_MODULES, WORLDS, get_domain, get_world

PACKAGE = Path(lorasynth.__file__).parent
FOLDERS = sorted({module.split(".")[0] for module in DOMAIN_MODULES.values()})


def imported(path):
    """Absolute names of all modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides what it names"
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)


def test_every_folder_is_a_registered_world():
    folders = {path.parent.name for path in (PACKAGE / "worlds").glob("*/domain.py")}
    assert folders == set(FOLDERS)


@pytest.mark.parametrize("world", FOLDERS)
@pytest.mark.slow
def test_nothing_outside_a_world_imports_from_it(world):
    room, home = f"lorasynth.worlds.{world}", PACKAGE / "worlds" / world
    names = {path: list(imported(path)) for path in PACKAGE.rglob("*.py")}
    assert any(room in name for path in home.glob("*.py") for name in names[path])  # the walk sees imports
    outside = {
        str(path)
        for path, found in names.items()
        if home not in path.parents and any(n.startswith(room) for n in found)
    }
    assert outside == set()


@pytest.mark.parametrize("world", FOLDERS)
def test_world_knows_of_the_method_nothing_but_drawing(world):
    allowed = ("lorasynth.worlds", "lorasynth.errors")
    for path in (PACKAGE / "worlds" / world).glob("*.py"):
        ours = [name for name in imported(path) if name.startswith("lorasynth")]
        assert all(name.startswith(allowed) for name in ours), path


def test_worlds_are_found_by_name_and_others_refused():
    assert [get_domain(name).name for name in WORLDS] == list(WORLDS)
    with pytest.raises(UsageError, match=r"expected a world among \[.*'portraits', 'portraits128'\], got 'faces'"):
        get_domain("faces")


def test_world_without_models_draws_and_says_how_to_make_them():
    world = get_world("emblems")
    assert world.draw([1], [2], 32).shape == (1, 3, 32, 32)
    for part in ("base", "encoder", "second_recogniser"):
        with pytest.raises(
            ModelError, match=r"expected the models of the world 'emblems', got no folder; make them .*--recipe emblems"
        ):
            getattr(world, part)
