"""The paper's claims, tested: each experiment is a claim, cells, figures and a verdict, `config → cell → figures → verdict`."""

from importlib import import_module

from lorasynth.errors import UsageError
from lorasynth.experiments.experiment import Experiment

EXPERIMENTS = {
    "targets": "TARGETS",
    "conditioning": "CONDITIONING_EXPERIMENT",
    "parameterisation": "PARAMETERISATION",
    "bottleneck": "BOTTLENECK",
    "sampler": "SAMPLER",
    "gauge": "GAUGE",
    "initialisation": "INITIALISATION",
    "vae-shape": "VAE_SHAPE",
    "vae-kinds": "VAE_KINDS",
    "metric": "METRIC",
    "zoo-size": "ZOO_SIZE",
    "memorisation": "MEMORISATION",
    "baselines": "BASELINES",
    "seconds": "SECONDS",
    "bootstrapping": "BOOTSTRAPPING",
}
"""Name, which is its module's too -> the name of the experiment in it."""


def get_experiment(name: str) -> Experiment:
    """An experiment by name.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in EXPERIMENTS:
        raise UsageError(f"expected an experiment among {list(EXPERIMENTS)}, got {name!r}")
    module = import_module(f"lorasynth.experiments.{name.replace('-', '_')}")
    experiment: Experiment = getattr(module, EXPERIMENTS[name])
    return experiment


__all__ = ["EXPERIMENTS", "Experiment", "get_experiment"]
