"""One thread, no network, the same examples each time.

NOTE: nothing of lorasynth may be imported here: jaxtyping's import hook is not in place yet, and would check nothing.
"""

import os
import signal
from contextlib import contextmanager

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest
import torch
from hypothesis import settings
from torch.optim.optimizer import register_optimizer_step_post_hook

torch.set_num_threads(1)
settings.register_profile("lorasynth", deadline=None, derandomize=True, database=None)
settings.load_profile("lorasynth")


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
