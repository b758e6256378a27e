"""One thread, no network, the same examples each time; shapes are checked.

NOTE: nothing of lorasynth may be imported before jaxtyping's import hook is in place, which would check nothing then.
"""

import gc
import multiprocessing
import os
import signal
import tempfile
from contextlib import contextmanager
from functools import cache
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import beartype
import pytest
import torch
import typer.main
from hypothesis import settings
from jaxtyping import install_import_hook
from torch.optim.optimizer import register_optimizer_step_post_hook

ROOT = Path(__file__).parents[1]


def modules_with_shapes():
    """Names of the modules whose annotations say shapes. Of the others mypy alone checks the types."""
    for root in (ROOT / "src", ROOT / "experiments"):
        for path in root.rglob("*.py"):
            if "from jaxtyping import" in path.read_text():
                yield ".".join(path.relative_to(root).with_suffix("").parts)


def compiled_once(check):
    """A type checker that remembers its checks: a function within a function is made, and would be compiled, by each call."""
    made = {}

    def checked(function):
        signature = function.__code__, tuple(function.__annotations__.items())
        defaults = len(function.__defaults__ or ()), tuple(function.__kwdefaults__ or ())
        key = function.__module__, signature, defaults
        if key not in made:
            made[key] = check(function)
        return made[key]

    return checked


beartype.beartype = compiled_once(beartype.beartype)
install_import_hook(sorted(modules_with_shapes()), "beartype.beartype")
# The program has 30 verbs; each call would read their signatures anew.
typer.main.get_command = cache(typer.main.get_command)
torch.set_num_threads(1)
settings.register_profile("lorasynth", deadline=None, derandomize=True, database=None)
settings.load_profile("lorasynth")


def pytest_collection_finish():
    """Keep what was imported out of the garbage collector's rounds, each of which would look at millions of objects in vain."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def stopped_in_step():
    """A context in which control-C is pressed in a training's step ``number`` (counted from 1), as seen from the optimizer."""

    @contextmanager
    def stopped(number):
        steps = []

        def stop(*_):
            steps.append(1)
            if len(steps) == number:
                signal.raise_signal(signal.SIGINT)

        handle = register_optimizer_step_post_hook(stop)
        try:
            with pytest.raises(KeyboardInterrupt, match=r"^$"):
                yield
        finally:
            handle.remove()

    return stopped


@pytest.fixture
def in_a_closed_folder():
    """Calls a function, which must not fail, with a folder that its process may not write to."""

    def run(function):
        def child(folder):
            if os.geteuid() == 0:  # root may write anywhere: be somebody else, in this process alone
                os.setuid(65_534)
            function(folder)

        # Not below tmp_path, which is closed to others.
        with tempfile.TemporaryDirectory() as name:
            Path(name).chmod(0o555)
            process = multiprocessing.get_context("fork").Process(target=child, args=(Path(name),))
            process.start()
            process.join()
            assert process.exitcode == 0
            Path(name).chmod(0o755)

    return run


@pytest.fixture
def unused_port():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
