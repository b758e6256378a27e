"""The tree in CONTRIBUTING.md is an order: a module imports only from packages that stand above its own."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "lorasynth"
TOP = ("__init__", "__main__")
"""What a user imports or runs; it may import every package."""


def tree_of(page):
    """The packages of the page's tree, and the modules beside them, in its order."""
    block = re.search(r"^src/lorasynth/\n((?:  .*\n)+)", page, re.MULTILINE)[1]
    packages = re.findall(r"^  (\w+)(?:/|\.py)\s", block, re.MULTILINE)
    return tuple(package for package in packages if package != "assets")


ORDER = tree_of((ROOT / "CONTRIBUTING.md").read_text())


def modules():
    """Every module's name, as its path within the package, and its source."""
    folder = ROOT / "src" / PACKAGE
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        yield ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts), path.read_text()


SOURCES = dict(modules())


@cache
def read(source) -> set[tuple[str, bool]]:
    """Modules of the package that a source imports, in functions too, and whether only for a type checker."""
    found, waiting = set(), [(ast.parse(source), False)]
    while waiting:
        node, types = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            waiting += [(inner, True) for inner in node.body] + [(inner, types) for inner in node.orelse]
            continue
        waiting += [(inner, types) for inner in ast.iter_child_nodes(node)]
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "expected the whole name of what is imported"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            names = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
        else:
            continue
        found |= {(name, types) for name in names if name.split(".")[0] == PACKAGE}
    return found


def imports(source, *, types=False):
    """Modules of the package that a source imports when it runs; and, if asked, what a type checker reads."""
    return [name for name, only_types in read(source) if types or not only_types]


def home_of(name, known):
    """The module that holds an imported name: `lorasynth.zoo.Zoo` is of `zoo`, `lorasynth.Zoo` of `__init__`."""
    parts = name.split(".")[1:]
    while parts and ".".join(parts) not in known:
        parts.pop()
    return ".".join(parts) or "__init__"


def graph(sources, *, types=False):
    return {
        module: {home_of(name, sources) for name in imports(text, types=types)} - {module}
        for module, text in sources.items()
    }


def package_of(module):
    return module.split(".")[0]


def arrows_back_up(sources, order):
    """Imports of a package that stands below, or of the whole package."""
    places = {package: place for place, package in enumerate(order)}
    places |= {package: len(order) for package in TOP}
    return [
        f"{module} imports {other}"
        for module, others in graph(sources).items()
        for other in sorted(others)
        if places[package_of(other)] > places[package_of(module)]
    ]


def circles(sources, *, types=False):
    """Modules that are left when those are taken away, again and again, that import none of the rest."""
    left = graph(sources, types=types)
    while free := [module for module, others in left.items() if not others & left.keys()]:
        for module in free:
            del left[module]
    return sorted(left)


def test_every_package_stands_once_in_the_tree():
    packages = {package_of(module) for module in SOURCES} - set(TOP)
    assert set(ORDER) == packages
    assert len(ORDER) == len(packages)


def test_no_package_imports_one_below_it():
    assert arrows_back_up(SOURCES, ORDER) == []


def test_no_module_imports_itself_through_others():
    assert circles(SOURCES) == []


def test_no_circle_is_drawn_for_types_alone():
    assert circles(SOURCES, types=True) == []


@pytest.mark.parametrize(
    "source",
    [
        "import lorasynth.high",
        "import lorasynth",
        "from lorasynth import high",
        "from lorasynth import __version__",
        "from lorasynth.high.thing import name",
        "def f():\n    from lorasynth.high import thing",
        "class C:\n    def f(self):\n        if True:\n            import lorasynth.high.thing as t",
        "if TYPE_CHECKING:\n    import torch\nelse:\n    from lorasynth.high import thing",
        "from importlib import import_module\ndef f():\n    return import_module('lorasynth.high.thing').name",
    ],
)
def test_arrow_back_up_is_seen_however_it_is_written(source):
    sources = {"__init__": "", "low": source, "high": "from lorasynth.low import x", "high.thing": ""}
    assert len(arrows_back_up(sources, ("low", "high"))) == 1


@pytest.mark.parametrize(
    "source", ["if TYPE_CHECKING:\n    from lorasynth.high import x", "import torch", "from lorasynth.low.a import b"]
)
def test_what_only_a_type_checker_reads_is_no_arrow(source):
    assert arrows_back_up({"low": source, "low.a": "", "high": ""}, ("low", "high")) == []


def test_circle_is_seen_within_a_package():
    sources = {
        "a.x": "from lorasynth.a.y import f",
        "a.y": "def f():\n    from lorasynth.a.z import g",
        "a.z": "import lorasynth.a.x",
    }
    assert circles(sources) == ["a.x", "a.y", "a.z"]
    assert circles(sources | {"a.z": ""}) == []


def test_circle_for_types_is_seen_where_it_is_asked_for():
    sources = {"a.x": "if TYPE_CHECKING:\n    from lorasynth.a.y import f", "a.y": "import lorasynth.a.x"}
    assert circles(sources) == []
    assert circles(sources, types=True) == ["a.x", "a.y"]
