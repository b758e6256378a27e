"""What tests the paper's claims: cells, figures and verdicts, `config → cell → figures → verdict`.

The claims themselves are the files of the folder ``claims`` beside this one. Both come with a checkout alone.
"""

from importlib import import_module

from claims import ORDER
from evidence.experiment import Experiment
from lorasynth.errors import UsageError


def experiment_names() -> tuple[str, ...]:
    """Names of the experiments, in the order of the page of evidence."""
    return ORDER


def get_experiment(name: str) -> Experiment:
    """An experiment by name.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in ORDER:
        raise UsageError(f"expected an experiment among {list(ORDER)}, got {name!r}")
    experiment: Experiment = import_module(f"claims.{name.replace('-', '_')}").EXPERIMENT
    return experiment


__all__ = ["Experiment", "experiment_names", "get_experiment"]
