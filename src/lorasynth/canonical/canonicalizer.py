"""LoRA <-> canonical scaled vector, fitted on a zoo's training split (Sections 3.2 and 3.3)."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lorasynth.canonical.gauge import align_to, anchor_to
from lorasynth.canonical.svd import canonical_factors
from lorasynth.errors import ZooError
from lorasynth.files import read_tensors, write_tensors
from lorasynth.lora.layout import Factors, Layout

Gauge = Literal["procrustes", "anchored"]


@dataclass(frozen=True, kw_only=True)
class Canonicalizer:
    """The map between LoRAs and canonical scaled vectors.

    ``apply`` brings each module's (B, A) to one gauge, takes the mean off and divides by one scale a tensor; ``invert`` undoes
    mean and scale. What comes back is another gauge of the same LoRA: equal on every ΔW up to rounding.

    Entries whose deviation from the mean is nothing (a frozen lora_A in the anchored gauge) are left out: a vector has F =
    ``active.sum()`` numbers, not P.
    """

    layout: Layout
    gauge: Gauge
    reference: Float[Tensor, " P"]
    mean: Float[Tensor, " P"]
    scale: Float[Tensor, " P"]
    active: Bool[Tensor, " P"]

    @property
    def num_features(self) -> int:
        """F, the length of a canonical vector."""
        return int(self.active.sum())

    @classmethod
    def fit(
        cls,
        vectors: Float[Tensor, "N P"],
        layout: Layout,
        gauge: Gauge = "procrustes",
        reference: Float[Tensor, " P"] | None = None,
        chunk: int = 256,
    ) -> "Canonicalizer":
        """Fit gauge reference, mean and scale.

        Args:
            vectors: LoRAs of the training split.
            layout: their layout.
            gauge: "procrustes" (the paper's SVD form, signs and order fixed to a reference) or "anchored" (for a zoo with one
                shared lora_A).
            reference: for "anchored", the shared initialisation. For "procrustes" it is found: the mean of the aligned zoo, by
                three rounds of generalised Procrustes analysis (Gower, 1975) from the first item.
            chunk: items handled at once.

        Raises:
            ZooError: fewer than 2 items, or "anchored" without a reference.
        """
        if len(vectors) < 2:
            raise ZooError(f"expected at least 2 LoRAs to fit the canonical form, got {len(vectors)}; make a larger zoo")
        if gauge == "anchored" and reference is None:
            raise ZooError("gauge 'anchored' needs the zoo's shared initialisation; give reference= or use 'procrustes'")
        if reference is None:
            reference = _balanced(layout, vectors[:1])[0]
            for _ in range(3):
                total = sum(
                    _to_gauge(layout, part, gauge, reference).double().sum(0) for part in vectors.split(chunk)
                )
                reference = (torch.as_tensor(total) / len(vectors)).to(vectors.dtype)
        canonical = torch.cat([_to_gauge(layout, part, gauge, reference) for part in vectors.split(chunk)])
        mean = canonical.mean(0)
        scale, active = torch.ones_like(mean), torch.zeros_like(mean, dtype=torch.bool)
        largest = canonical.abs().max()
        for part in (s for pair in layout.slices.values() for s in pair):
            deviation = (canonical[:, part] - mean[part]).square().mean().sqrt()
            if deviation > 1e-6 * largest:
                scale[part], active[part] = deviation, True
        return cls(layout=layout, gauge=gauge, reference=reference, mean=mean, scale=scale, active=active)

    def apply(self, vectors: Float[Tensor, "N P"], chunk: int = 256) -> Float[Tensor, "N F"]:
        """LoRAs -> canonical scaled vectors."""
        parts = []
        for part in vectors.split(chunk):
            canonical = _to_gauge(self.layout, part, self.gauge, self.reference)
            parts.append(((canonical - self.mean) / self.scale)[:, self.active])
        return torch.cat(parts)

    def invert(self, scaled: Float[Tensor, "N F"]) -> Float[Tensor, "N P"]:
        """Canonical scaled vectors -> LoRAs."""
        vectors = self.mean.expand(len(scaled), -1).clone()
        vectors[:, self.active] += scaled * self.scale[self.active]
        return vectors

    def save(self, path: str | Path) -> None:
        """Write as one safetensors file."""
        header = {"layout": json.dumps(self.layout.to_dict()), "gauge": self.gauge}
        tensors = {"reference": self.reference.half(), "mean": self.mean.half(), "active": self.active.to(torch.uint8)}
        # One number a tensor: the scale is stored as such.
        places = [p.start for pair in self.layout.slices.values() for p in pair]
        write_tensors(path, {**tensors, "scale": self.scale[places]}, header)

    @classmethod
    def load(cls, path: str | Path) -> "Canonicalizer":
        """Read what `save` wrote.

        Raises:
            ModelError: the file is missing or of another kind.
        """
        from lorasynth.errors import ModelError

        tensors, header = read_tensors(path)
        try:
            layout = Layout.from_dict(json.loads(header["layout"]))
            scale = torch.ones(layout.num_parameters)
            parts = [p for pair in layout.slices.values() for p in pair]
            for part, value in zip(parts, tensors["scale"].tolist(), strict=True):
                scale[part] = value
            return cls(
                layout=layout, gauge="anchored" if header["gauge"] == "anchored" else "procrustes",
                reference=tensors["reference"], mean=tensors["mean"], scale=scale, active=tensors["active"].bool(),
            )  # fmt: skip
        except (KeyError, ValueError) as error:
            raise ModelError(f"{path}: expected a canonical form, {error} is missing or wrong") from None


def _balanced(layout: Layout, vectors: Float[Tensor, "N P"]) -> Float[Tensor, "N P"]:
    factors: Factors = {}
    for name, (A, B) in layout.split(vectors).items():
        A_c, B_c, _ = canonical_factors(A, B)
        factors[name] = (A_c, B_c)
    return layout.join(factors)


def _to_gauge(
    layout: Layout, vectors: Float[Tensor, "N P"], gauge: Gauge, reference: Float[Tensor, " P"]
) -> Float[Tensor, "N P"]:
    """Each module's factors in the gauge that ``reference`` fixes."""
    goal = layout.split(reference[None])
    factors: Factors = {}
    for name, (A, B) in layout.split(vectors).items():
        goal_A, goal_B = goal[name][0][0], goal[name][1][0]
        if gauge == "anchored":
            factors[name] = anchor_to(A, B, goal_A)
        else:
            A_c, B_c, _ = canonical_factors(A, B)
            factors[name] = align_to(A_c, B_c, goal_A, goal_B)
    return layout.join(factors)
