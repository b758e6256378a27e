"""A LoRA at another rank, and a weighted sum of LoRAs: each the nearest update of its rank.

Shapes: R rank, I in features, O out features of a module.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from lorasynth.canonical.svd import by_qr, canonical_factors
from lorasynth.errors import LayoutError, UsageError
from lorasynth.lora.factors import LoRA
from lorasynth.lora.layout import Layout, Module

Spectra = dict[str, Float[Tensor, " R"]]
"""Singular values of each module's update, largest first, in float64."""


def singular_form(lora: LoRA) -> tuple[LoRA, Spectra]:
    """The same update with each module's factors balanced and sorted by singular value (`canonical_factors`)."""
    factors, spectra = {}, {}
    for name, (A_NRI, B_NOR) in lora.layout.split(lora.vector[None]).items():
        A, B, S = canonical_factors(A_NRI, B_NOR)
        factors[name], spectra[name] = (A, B), S[0]
    return replace(lora, vector=lora.layout.join(factors)[0]), spectra


def smallest_rank(spectra: Spectra, keep: float) -> int:
    """The smallest rank, one for all modules, that keeps a part of the LoRA's ``‖ΔW‖²``.

    The leading singular directions of each module are its nearest update of that rank (Eckart & Young, 1936), so the part kept is
    a sum of squared singular values.

    Args:
        spectra: of a LoRA.
        keep: the part of ``‖ΔW‖²`` to keep, above 0 and up to 1.
    """
    width = max(len(S) for S in spectra.values())
    energy_R = sum(torch.nn.functional.pad(S.square(), (0, width - len(S))) for S in spectra.values())
    kept_R = torch.as_tensor(energy_R).cumsum(0)
    # Rounding must not ask for directions that hold nothing.
    enough = kept_R >= keep * kept_R[-1] * (1 - 1e-12)
    return int(enough.int().argmax()) + 1


def truncate(singular: LoRA, spectra: Spectra, rank: int) -> tuple[LoRA, float]:
    """The leading singular directions of each module. All of them where a module has no more.

    Args:
        singular: a LoRA in `singular_form`.
        spectra: its own.
        rank: of every module, as far as its layer is wide enough. Where a module has fewer directions, zeros fill it up.

    Returns:
        The LoRA, and the relative error ``‖ΔW - ΔW'‖ / ‖ΔW‖`` over all modules.
    """
    modules = tuple(replace(m, rank=min(rank, m.in_features, m.out_features)) for m in singular.layout.modules)
    layout, factors = Layout(base=singular.layout.base, modules=modules), {}
    parts = singular.layout.split(singular.vector[None])
    for m in modules:
        A, B = parts[m.name]
        missing = max(0, m.rank - A.shape[1])
        factors[m.name] = (
            torch.nn.functional.pad(A[:, : m.rank], (0, 0, 0, missing)),
            torch.nn.functional.pad(B[:, :, : m.rank], (0, missing)),
        )
    lost2 = sum(float(spectra[m.name][m.rank :].square().sum()) for m in modules)
    whole2 = sum(float(S.square().sum()) for S in spectra.values())
    return LoRA(layout, layout.join(factors)[0], singular.metadata), (lost2 / whole2) ** 0.5 if whole2 else 0.0


def resize(lora: LoRA, *, rank: int | None = None, keep: float | None = None) -> tuple[LoRA, float]:
    """The nearest LoRA of one rank.

    Args:
        lora: of any ranks.
        rank: of every module; a layer that is narrower keeps its width.
        keep: instead of a rank, the part of ``‖ΔW‖²`` to keep: the smallest rank that does is taken.

    Returns:
        The LoRA, and its relative error ``‖ΔW - ΔW'‖ / ‖ΔW‖``.

    Raises:
        UsageError: not exactly one of ``rank`` and ``keep``, or one out of bounds.
    """
    if (rank is None) == (keep is None):
        raise UsageError(f"expected either a rank or a part to keep, got rank {rank} and keep {keep}; give one of them")
    if rank is not None and rank < 1:
        raise UsageError(f"expected a rank of at least 1, got {rank}")
    if keep is not None and not 0 < keep <= 1:
        raise UsageError(f"expected a part of ‖ΔW‖² above 0 and up to 1 to keep, got {keep:g}")
    singular, spectra = singular_form(lora)
    return truncate(singular, spectra, rank if rank is not None else smallest_rank(spectra, float(keep or 0)))


def merge(loras: Sequence[LoRA], weights: Sequence[float]) -> LoRA:
    """The sum ``Σ w ΔW`` of LoRAs for one base, exactly: their factors stand side by side, and the ranks add up.

    A module that only some of them adapt is in the sum with these alone. `resize` makes it smaller.

    Args:
        loras: for one base; at least two.
        weights: of each.

    Raises:
        UsageError: another number of weights, fewer than two LoRAs, or a weight that is not finite.
        LayoutError: they are for several bases, or a module has several shapes.
    """
    if len(loras) < 2 or len(weights) != len(loras):
        raise UsageError(
            f"expected two LoRAs or more and a weight for each, got {len(loras)} LoRAs and {len(weights)} weights"
        )
    if bad := [w for w in weights if not torch.isfinite(torch.tensor(w))]:
        raise UsageError(f"expected finite weights, got {bad[0]}")
    if len(bases := sorted({lora.layout.base for lora in loras})) > 1:
        raise LayoutError(f"expected LoRAs for one base model, got {', '.join(base or 'unknown' for base in bases)}")
    sides: dict[str, list[tuple[Module, Tensor, Tensor]]] = {}
    for lora, weight in zip(loras, weights, strict=True):
        factors = lora.layout.split(lora.vector[None])
        for m in lora.layout.modules:
            A, B = factors[m.name]
            sides.setdefault(m.name, []).append((m, A, B * weight))
    modules, joined = [], {}
    for name, parts in sides.items():
        first = parts[0][0]
        for other, _, _ in parts[1:]:
            if str(other) != str(first):
                raise LayoutError(f"{name}: expected one shape in all LoRAs, got {first} and {other}")
        A, B = torch.cat([A for _, A, _ in parts], 1), torch.cat([B for _, _, B in parts], 2)
        width = min(first.in_features, first.out_features)
        if A.shape[1] > width:  # more directions than the layer has: its own rank holds them all
            A, B, _ = by_qr(A, B)
            A, B = A[:, :width], B[:, :, :width]
        modules.append(replace(first, rank=A.shape[1]))
        joined[name] = (A, B)
    layout = Layout(base=bases[0], modules=tuple(modules))
    return LoRA(layout, layout.join(joined)[0], _marks_of(loras))


def _marks_of(loras: Sequence[LoRA]) -> dict[str, str]:
    """What a file made of several has to say: whether any subject is synthetic, and every consent that was given."""
    marks = {}
    for key in ("lorasynth.synthetic", "lorasynth.consent"):
        if said := sorted({lora.metadata[key] for lora in loras if key in lora.metadata}):
            marks[key] = ", ".join(said)
    return marks
