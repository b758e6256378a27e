"""No module of the package can unpickle anything but one, which no other imports: syntax trees are searched for every way in."""

import ast
from functools import cache
from pathlib import Path

import pytest

import lorasynth

MODULES = {"pickle", "_pickle", "cPickle", "pickletools", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
TORCH = {"load", "save", "package", "hub", "serialization"}
FILES = sorted(Path(lorasynth.__file__).parent.rglob("*.py"))
CHILD = Path(lorasynth.__file__).parent / "lora" / "unpickle.py"
"""The program that `import-legacy` runs in a process of its own."""


def is_constant(node, value):
    return isinstance(node, ast.Constant) and node.value is value


def nodes_of(source):
    """Of its syntax tree."""
    return list(ast.walk(ast.parse(source)))


def ways_to_unpickle(nodes):
    """What in a source imports a pickler, or loads or saves by one."""
    found, aliases = [], {"torch": "torch"}
    for node in nodes:
        if isinstance(node, ast.Import):
            aliases |= {alias.asname: alias.name for alias in node.names if alias.asname}
    for node in nodes:
        match node:
            case ast.Import(names=names):
                found += [name.name for name in names if name.name.partition(".")[0] in MODULES]
            case ast.ImportFrom(module=str(module), names=names):
                found += [module] if module.partition(".")[0] in MODULES else []
                taken = {name.name for name in names}
                found += [f"{module}.{name}" for name in taken if (module, name) in {("torch", word) for word in TORCH}]
                found += [f"{module}.{name}" for name in taken if module == "torch.serialization" or name in MODULES]
            case ast.Attribute(value=ast.Name(id=name), attr=attribute):
                found += [f"torch.{attribute}"] if aliases.get(name) == "torch" and attribute in TORCH else []
            case ast.keyword(arg="weights_only", value=value) if not is_constant(value, True):
                found.append("weights_only")
            case ast.keyword(arg="allow_pickle", value=value) if not is_constant(value, False):
                found.append("allow_pickle")
            case ast.keyword(arg="trust_remote_code" | "pickle_module"):
                found.append(node.arg)
            case ast.keyword(arg="use_safetensors", value=value) if not is_constant(value, True):
                found.append("use_safetensors")
            case ast.Call(args=[ast.Constant(value=str(text)), *_]) if text.partition(".")[0] in MODULES:
                found.append(f"import of {text}")
            case ast.Call(func=ast.Name(id="eval" | "exec" as name)):
                found.append(name)
    return found


def imports(nodes):
    """Modules that a source imports, as a whole or a name of them."""
    found = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@cache
def seen_in(path):
    """Ways to unpickle in a file of the package, and what it imports."""
    nodes = nodes_of(path.read_text())
    return ways_to_unpickle(nodes), imports(nodes)


@pytest.mark.parametrize("path", [path for path in FILES if path != CHILD], ids=lambda path: path.stem)
def test_no_module_of_the_package_can_unpickle(path):
    ways, imported = seen_in(path)
    assert ways == []
    assert "lorasynth.lora.unpickle" not in imported


def test_pickle_is_loaded_by_one_program_for_import_legacy():
    assert seen_in(CHILD)[0] == ["torch.load"]
    (call,) = (
        node
        for node in ast.walk(ast.parse(CHILD.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "load"
    )
    assert is_constant({k.arg: k.value for k in call.keywords}["weights_only"], True)
    assert [path.name for path in FILES if "unpickle.py" in path.read_text() and path != CHILD] == ["legacy.py"]
    assert [path.name for path in FILES if "lorasynth.lora.legacy" in seen_in(path)[1]] == ["files.py"]


def test_program_for_pickles_imports_nothing_of_ours():
    tree = ast.parse(CHILD.read_text())
    kinds = (ast.Import, ast.ImportFrom, ast.FunctionDef)
    others = [node for node in tree.body if not isinstance(node, kinds)]
    assert [type(node) for node in others] == [ast.Expr, ast.If]
    assert ast.unparse(others[1].test) == "__name__ == '__main__'"
    assert "lorasynth" not in CHILD.read_text()


def test_whole_package_is_searched():
    assert len(FILES) > 50
    assert {"gate.py", "checkpoint.py", "files.py"} <= {path.name for path in FILES}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import os, dill as d",
        "from joblib import load",
        "from shelve import open as o",
        "def f():\n    import marshal",
        "import importlib; importlib.import_module('pickle')",
        "__import__('cPickle')",
        "import torch; torch.load('x')",
        "import torch as t; t.load('x', weights_only=True)",
        "from torch import load as f",
        "from torch.serialization import load",
        "import torch; torch.serialization.load('x')",
        "f('x', weights_only=False)",
        "f('x', weights_only=flag)",
        "import numpy as np; np.load('x', allow_pickle=True)",
        "f('x', use_safetensors=False)",
        "f('x', trust_remote_code=True)",
        "eval('1')",
    ],
)
def test_search_finds_each_way(source):
    assert ways_to_unpickle(nodes_of(source))


@pytest.mark.parametrize(
    "source",
    [
        "import torch, numpy\nfrom safetensors.torch import load, save\nload(b'')\nself.load('x')",
        "np.load('x', allow_pickle=False); f('x', use_safetensors=True)",
    ],
)
def test_search_lets_safe_loading_pass(source):
    assert ways_to_unpickle(nodes_of(source)) == []
