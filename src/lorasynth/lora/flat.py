"""From the types of a file to one float32 vector, the scaling of each module folded into its lora_B."""

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from lorasynth.lora.layout import Layout
from lorasynth.lora.scaling import Stored
from lorasynth.storage.arrays import Array, as_tensor

# NOTE: looking at a LoRA file asks for no torch, whose import takes ten times as long.
if TYPE_CHECKING:
    from torch import Tensor
else:
    Tensor = Any

_TOGETHER = 1 << 18
"""Numbers that are converted in one call. A call takes microseconds, and a small file has hundreds of tensors."""


def flat_of(layout: Layout, stored: Stored) -> Float[Tensor, " P"]:
    """The vector of a LoRA in float32. ``stored`` is emptied on the way.

    NOTE: straight from the file's own type into the one vector: float16 in twice its size needs just that. And by torch, which
    turns float16 into float32 twenty times as fast as numpy.
    """
    import torch

    vector = torch.from_numpy(np.empty(layout.num_parameters, np.float32))
    waiting: list[Array] = []
    start = end = 0

    def convert() -> None:
        """Those that wait, as one."""
        whole = waiting[0] if len(waiting) == 1 else np.concatenate(waiting)
        vector[start:end].copy_(as_tensor(whole))
        waiting.clear()

    scaled = []
    for name, (_, of_B) in layout.slices.items():
        A, B, scaling = stored.pop(name)
        for part in (A, B):
            if waiting and (part.dtype != waiting[0].dtype or end - start + part.size > _TOGETHER):
                convert()
                start = end
            waiting.append(part.reshape(-1))
            end += part.size
        if scaling != 1:
            scaled.append((of_B, scaling))
    convert()
    for of_B, scaling in scaled:
        vector[of_B].mul_(scaling)
    return vector.to(torch.get_default_device())
