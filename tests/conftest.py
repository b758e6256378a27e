"""One thread, no network, the same examples each time.

NOTE: nothing of lorasynth may be imported here: jaxtyping's import hook is not in place yet, and would check nothing.
"""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("lorasynth", deadline=None, derandomize=True, database=None)
settings.load_profile("lorasynth")
