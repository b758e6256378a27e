"""What all trainings share: noise that depends on (seed, step), checkpoints, averages, progress."""

from lorasynth.storage.settings import config_record
from lorasynth.training.ema import ExponentialAverage
from lorasynth.training.loop import LoopConfig, train
from lorasynth.training.processes import SINGLE_PROCESS, Processes, Share, launched, require_alone
from lorasynth.training.seeding import epoch_batch, local_seed, step_generator, stratified_uniform

__all__ = [
    "SINGLE_PROCESS",
    "ExponentialAverage",
    "LoopConfig",
    "Processes",
    "Share",
    "config_record",
    "epoch_batch",
    "launched",
    "local_seed",
    "require_alone",
    "step_generator",
    "stratified_uniform",
    "train",
]
