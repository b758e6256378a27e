"""What tests the paper's claims: cells, figures and verdicts, `config → cell → figures → verdict`.

The claims themselves are files outside of the package, in the folder ``experiments/claims`` of a checkout.
"""

import sys
from functools import cache
from importlib import import_module
from pathlib import Path

from lorasynth.errors import UsageError
from lorasynth.experiments.experiment import Experiment

FOLDER = Path(__file__).parents[3] / "experiments"
"""Beside the package's source, where it is a checkout."""
_PACKAGE = "claims"


@cache
def experiment_names() -> tuple[str, ...]:
    """Names of the experiments, in the order of the page of evidence.

    Raises:
        UsageError: the package was installed without its checkout.
    """
    if not (FOLDER / _PACKAGE / "__init__.py").is_file():
        raise UsageError(
            f"{FOLDER}: expected the experiments of a checkout, got an installed package without them; clone the repository "
            "and install it with `pip install -e .`"
        )
    # On the path, not loaded by file: worker processes import the claims by name.
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    names: tuple[str, ...] = import_module(_PACKAGE).ORDER
    return names


def get_experiment(name: str) -> Experiment:
    """An experiment by name.

    Raises:
        UsageError: there is none of that name, or no checkout.
    """
    if name not in experiment_names():
        raise UsageError(f"expected an experiment among {list(experiment_names())}, got {name!r}")
    experiment: Experiment = import_module(f"{_PACKAGE}.{name.replace('-', '_')}").EXPERIMENT
    return experiment


__all__ = ["Experiment", "experiment_names", "get_experiment"]
