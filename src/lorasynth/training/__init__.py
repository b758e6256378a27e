"""What all trainings share: noise that depends on (seed, step), checkpoints, averages, progress."""

from lorasynth.training.seeding import step_generator

__all__ = ["step_generator"]
