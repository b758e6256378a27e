"""A few numbers that say which update a LoRA makes, whatever its gauge: how duplicates are found among many."""

import torch
from jaxtyping import Float
from torch import Tensor

from lorasynth.lora.layout import Layout
from lorasynth.lora.products import update_inner

WIDTH = 32
TOLERANCE = 2e-3
"""Relative distance of sketches below which two LoRAs are one: above what float16 and bfloat16 files lose, far below what two
trainings of one person differ by."""


class Sketcher:
    """Random linear functionals of ΔW: ``s_k = sum over modules of l_kᵀ B A r_k``, never forming an update.

    Linear in ΔW, so that the gauge does not matter, and random, so that ``‖s(x) - s(y)‖²`` is an unbiased estimate of
    ``‖ΔX - ΔY‖²`` (Johnson & Lindenstrauss, 1984, for vectors of +-1: Achlioptas, 2003).
    """

    def __init__(self, layout: Layout, width: int = WIDTH, seed: int = 0):
        generator = torch.Generator("cpu").manual_seed(seed)

        def signs(n: int) -> Tensor:
            return (torch.randint(2, (n, width), generator=generator, device="cpu") * 2.0 - 1).to(
                torch.get_default_device()
            )

        self.layout = layout
        self._probes = {m.name: (signs(m.in_features), signs(m.out_features)) for m in layout.modules}
        self._width = width

    def __call__(self, vectors: Float[Tensor, "N P"]) -> Float[Tensor, "N K"]:
        """LoRAs -> sketches, in float64."""
        total = torch.zeros(len(vectors), self._width, dtype=torch.float64)
        for name, (A_NRI, B_NOR) in self.layout.split(vectors).items():
            right, left = self._probes[name]
            total += ((A_NRI @ right).double() * (B_NOR.transpose(1, 2) @ left).double()).sum(1)
        return total / self._width**0.5

    def sizes(self, vectors: Float[Tensor, "N P"]) -> list[float]:
        """``‖ΔW‖`` of each, in float64."""
        total = torch.zeros(len(vectors), dtype=torch.float64)
        for A, B in self.layout.split(vectors).values():
            total += update_inner(A, B, A, B)
        return total.clamp(min=0).sqrt().tolist()


class Seen:
    """The sketches of what has been taken in, to ask whether a LoRA is among it."""

    def __init__(self, width: int = WIDTH):
        self._rows = torch.zeros(256, width, dtype=torch.float64)
        self._ids: list[str] = []

    def add(self, id: str, sketch: Float[Tensor, " K"]) -> None:
        """Remember one."""
        if len(self._ids) == len(self._rows):
            self._rows = torch.cat([self._rows, torch.zeros_like(self._rows)])
        self._rows[len(self._ids)] = sketch
        self._ids.append(id)

    def twin(self, sketch: Float[Tensor, " K"]) -> str | None:
        """The id of one with the same update, or None."""
        if not self._ids:
            return None
        distance = (self._rows[: len(self._ids)] - sketch).norm(dim=1)
        nearest = int(distance.argmin())
        return self._ids[nearest] if distance[nearest] <= TOLERANCE * sketch.norm() else None
