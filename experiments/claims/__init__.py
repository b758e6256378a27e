"""The claims of the paper and of ours, a file each: cells that differ in one thing, figures, and the bar of each verdict.

Each file holds an `EXPERIMENT`. The command of all of them, about 15 hours of one thread on a zoo of 1,400 LoRAs:

    lorasynth experiment all --zoo ZOO --workers 2
"""

ORDER = (
    "targets",
    "conditioning",
    "parameterisation",
    "bottleneck",
    "sampler",
    "guidance",
    "gauge",
    "initialisation",
    "vae-shape",
    "vae-kinds",
    "metric",
    "heads",
    "zoo-size",
    "memorisation",
    "baselines",
    "seconds",
    "bootstrapping",
)
"""Experiments in the order of the page of evidence. A file's name has underscores for the hyphens."""
