"""LoRA <-> canonical scaled vector, fitted on a zoo's training split (Sections 3.2 and 3.3)."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lorasynth.canonical.gauge import orthonormal_rows
from lorasynth.canonical.reference import Gauge, generalised_procrustes, to_gauge
from lorasynth.devices import exact_matmul
from lorasynth.errors import LayoutError, ZooError
from lorasynth.lora.layout import Layout
from lorasynth.storage.files import write_tensors
from lorasynth.storage.fingerprint import fingerprint
from lorasynth.storage.rows import Rows, chunks, numbers_of, rows_at_once
from lorasynth.storage.schema import Misfit, dimensions, one_of
from lorasynth.storage.tensorfile import TensorFile
from lorasynth.storage.weights import packed_shapes, read_packed

Metric = Literal["entries", "updates"]
"""What distances between canonical vectors are: of scaled entries, each tensor alike, or (anchored gauge) of ΔW."""
_TENSORS = {"reference": "P", "mean": "P", "scale": "T", "active": "T"}
"""What a file of it holds: P numbers of a LoRA, T tensors, two a module."""


@dataclass(frozen=True, kw_only=True)
class Canonicalizer:
    """The map between LoRAs and canonical scaled vectors.

    ``apply`` brings each module's (B, A) to one gauge, takes the mean off and divides by one scale a tensor. ``invert`` undoes
    mean and scale. What comes back is another gauge of the same LoRA: equal on every ΔW up to rounding.

    With the metric "updates" squared distances are those of ΔW, up to one factor for all: lora_A of every item has orthonormal
    rows, and all modules share one scale. So what varies more in ΔW weighs more, in a VAE's error and a prior's too.

    Entries whose deviation from the mean is nothing (a frozen lora_A in the anchored gauge) are left out: a vector has F =
    ``active.sum()`` numbers, not P.
    """

    layout: Layout
    gauge: Gauge
    reference: Float[Tensor, " P"]
    mean: Float[Tensor, " P"]
    scale: Float[Tensor, " P"]
    active: Bool[Tensor, " P"]

    def __repr__(self) -> str:
        """In a line, without its numbers."""
        return f"Canonicalizer({self.gauge!r}, {self.num_features:,} features, {self.layout!r})"

    @property
    def num_features(self) -> int:
        """F, the length of a canonical vector."""
        return int(self.active.sum())

    @property
    def blocks(self) -> list[int]:
        """How many of a canonical vector's numbers are of each module, in order. Modules without any are left out."""
        counts = [sum(int(self.active[part].sum()) for part in pair) for pair in self.layout.slices.values()]
        return [count for count in counts if count]

    @classmethod
    def fit(
        cls,
        vectors: Float[Tensor, "N P"] | Rows,
        layout: Layout,
        gauge: Gauge = "procrustes",
        reference: Float[Tensor, " P"] | None = None,
        metric: Metric = "entries",
        chunk: int | None = None,
    ) -> "Canonicalizer":
        """Fit gauge reference, mean and scale.

        Differs from the paper, which fixes no sign and removes no mean. Signs that LAPACK happens to choose are noise to a
        VAE. Most of a raw zoo's variance is what all of its items share.

        Mean and scale are of all items, and take one pass over them.

        Args:
            vectors: LoRAs of the training split, in memory or on disk; the result is the same.
            layout: their layout.
            gauge: "procrustes" (the paper's SVD form, signs and order fixed to a reference) or "anchored" (for a zoo with one
                shared lora_A).
            reference: for "anchored", the shared initialisation. For "procrustes" it is found: the mean of the aligned zoo, or
                of some thousands of its items, by generalised Procrustes analysis (Gower, 1975), begun from the largest one.
            metric: what distances between canonical vectors are. "updates" is for the anchored gauge and items of one row space.
            chunk: items handled at once, which bounds the memory; see `chunks`.

        Raises:
            ZooError: fewer than 2 items, an item that is not finite or not of the anchor's row space, an unknown gauge or metric,
                "anchored" without a reference, or "updates" where these are not what distances can be.
        """
        if gauge not in ("procrustes", "anchored"):
            raise ZooError(f"expected gauge 'procrustes' or 'anchored', got {gauge!r}")
        if metric not in ("entries", "updates"):
            raise ZooError(f"expected metric 'entries' or 'updates', got {metric!r}")
        if len(vectors) < 2:
            raise ZooError(
                f"expected at least 2 LoRAs to fit the canonical form, got {len(vectors)}; make a larger zoo"
            )
        if gauge == "anchored" and reference is None:
            raise ZooError(
                "gauge 'anchored' needs the zoo's shared initialisation; give reference= or use 'procrustes'"
            )
        # The anchor with orthonormal rows: then distances of B are distances of ΔW.
        if metric == "updates":
            if gauge != "anchored":
                raise ZooError(f"metric 'updates' needs gauge 'anchored', got {gauge!r}; use metric='entries'")
            assert reference is not None
            factors = {
                name: (orthonormal_rows(A[0])[None], B) for name, (A, B) in layout.split(reference[None]).items()
            }
            reference = layout.join(factors)[0]
        if reference is None:
            reference = generalised_procrustes(layout, vectors, chunk)
        # One pass: mean and squared deviations of what has been seen, merged chunk by chunk (Chan et al., 1983).
        numbers = numbers_of(vectors)
        seen, mean = 0, torch.zeros(layout.num_parameters, dtype=torch.float64)
        squares = torch.zeros_like(mean)
        for part in chunks(vectors, chunk):
            canonical = to_gauge(layout, part, gauge, reference, numbers[seen : seen + len(part)]).double()
            n, its_mean = len(canonical), canonical.mean(0)
            difference = its_mean - mean
            squares += canonical.sub_(its_mean).square_().sum(0) + difference.square() * (seen * n / (seen + n))
            mean += difference * (n / (seen + n))
            seen += n
        # One scale a tensor. What does not vary is left out.
        scale, active = torch.ones_like(mean), torch.zeros_like(mean, dtype=torch.bool)
        for place in (p for pair in layout.slices.values() for p in pair):
            deviation = (squares[place].mean() / seen).sqrt()
            # Below this it is float32's rounding of a tensor that does not vary.
            if deviation > 1e-6 * mean[place].square().mean().sqrt():
                scale[place], active[place] = deviation, True
        if not active.any():
            raise ZooError(
                "expected LoRAs that differ, got one and the same in all items; nothing can be learned from them"
            )
        if metric == "updates":
            if loose := [name for name, (place_A, _) in layout.slices.items() if active[place_A].any()]:
                raise ZooError(
                    f"{loose[0]}: metric 'updates' needs LoRAs of one lora_A, up to a change of gauge, got different ones; "
                    "use metric='entries'"
                )
            scale[active] = (squares[active].mean() / seen).sqrt()
        dtype = vectors.dtype
        return cls(
            layout=layout, gauge=gauge, reference=reference.to(dtype),
            mean=mean.to(dtype), scale=scale.to(dtype), active=active,
        )  # fmt: skip

    def apply(self, vectors: Float[Tensor, "N P"], chunk: int | None = None) -> Float[Tensor, "N F"]:
        """LoRAs -> canonical scaled vectors.

        Args:
            vectors: LoRAs.
            chunk: items handled at once, which bounds the memory; see `chunks`.

        Raises:
            ZooError: an item is not finite, or (anchored) its lora_A does not span the reference.
            LayoutError: the vectors have another length.
        """
        self._require_length(vectors)
        if len(vectors) <= (chunk or rows_at_once(vectors)):
            return self._apply_at_once(vectors)
        out, done = vectors.new_empty(len(vectors), self.num_features), 0
        for part in chunks(vectors, chunk):
            out[done : done + len(part)] = self._apply_at_once(part, torch.arange(done, done + len(part)))
            done += len(part)
        return out

    def _apply_at_once(
        self,
        vectors: Float[Tensor, "N P"],
        items: Int[Tensor, " N"] | None = None,
        out: Float[Tensor, "N P"] | None = None,
    ) -> Float[Tensor, "N F"]:
        canonical = to_gauge(self.layout, vectors, self.gauge, self.reference, items, out)
        canonical.sub_(self.mean).div_(self.scale)
        return canonical if self.active.all() else canonical[:, self.active]

    def view(self, vectors: Rows) -> Rows:
        """The canonical scaled vectors of LoRAs on disk, each computed when it is asked for.

        Raises:
            LayoutError: the vectors have another length. Reading rows raises what `apply` does.
        """

        def read(index: Int[Tensor, " B"]) -> Float[Tensor, "B F"]:
            with exact_matmul():
                x = vectors[index]
                return self._apply_at_once(x, vectors.numbers[index], out=x)

        self._require_length(vectors)
        digest = vectors.digest + fingerprint(self.reference, self.mean, self.scale, self.active)
        return Rows(read, (len(vectors), self.num_features), digest, vectors.numbers)

    def _require_length(self, vectors: Tensor | Rows) -> None:
        if vectors.shape[1] != len(self.mean):
            raise LayoutError(f"expected vectors of {len(self.mean)} numbers, got {vectors.shape[1]}")

    def invert(self, scaled: Float[Tensor, "N F"]) -> Float[Tensor, "N P"]:
        """Canonical scaled vectors -> LoRAs.

        Raises:
            LayoutError: the vectors have another length.
        """
        if scaled.shape[1] != self.num_features:
            raise LayoutError(f"expected canonical vectors of {self.num_features} numbers, got {scaled.shape[1]}")
        if self.active.all():
            return (self.mean + scaled * self.scale).to(scaled.dtype)
        vectors = self.mean.to(scaled.dtype).expand(len(scaled), -1).clone()
        vectors[:, self.active] += scaled * self.scale[self.active]
        return vectors

    def save(self, path: str | Path) -> None:
        """Write as one safetensors file, in fp32. `load` gives the same numbers back, of a form in float64 rounded."""
        header = {"layout": json.dumps(self.layout.to_dict()), "gauge": self.gauge}
        # Scale and activity are one number a tensor, and stored as such.
        places = [p.start for pair in self.layout.slices.values() for p in pair]
        tensors = {
            "reference": self.reference.float(), "mean": self.mean.float(),
            "scale": self.scale[places].float(), "active": self.active[places].to(torch.uint8),
        }  # fmt: skip
        write_tensors(path, tensors, header)

    @classmethod
    def load(cls, path: str | Path) -> "Canonicalizer":
        """Read what `save` wrote.

        Raises:
            ModelError: the file is missing, of another kind, or holds what cannot be.
        """
        with TensorFile(path) as file:
            gauge: Gauge = file.said({"gauge": one_of(*get_args(Gauge))})["gauge"]
            layout: Layout = file.json("layout", Layout.parse)
            dimensions(
                packed_shapes(file, flags=["active"]), _TENSORS, P=layout.num_parameters, T=2 * len(layout.modules)
            )
            tensors = read_packed(file)
            if not (tensors["scale"] > 0).all() or not tensors["active"].any():
                raise Misfit("scale", "positive numbers, some of them active", "others")
        sizes = torch.tensor([p.stop - p.start for pair in layout.slices.values() for p in pair])
        scale, active = (tensors[name].repeat_interleave(sizes) for name in ("scale", "active"))
        reference, mean = tensors["reference"], tensors["mean"]
        return cls(layout=layout, gauge=gauge, reference=reference, mean=mean, scale=scale, active=active.bool())
