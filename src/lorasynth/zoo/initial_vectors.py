"""Where the LoRAs of a zoo start: from nothing, from the zoo's mean, or from what a synthesizer predicts (bootstrapping).

A prediction needs fewer steps to become the person. It also leaves something of its own in the zoo. The figures are in
docs/results/zoo-training.md.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lorasynth.errors import LayoutError, UsageError
from lorasynth.lora.layout import Layout
from lorasynth.worlds.world import WORLDS

ZERO, MEAN = "zero", "mean"
InitialVectors = Callable[[Float[Tensor, " P"], Float[Tensor, "N J D"]], Float[Tensor, "N P"]]
"""(the zoo's shared initialisation, embeddings of N people) -> where their LoRAs start, all with the initialisation's lora_A."""


def predictor(start: str, model: str, layout: Layout) -> InitialVectors:
    """A start by name.

    Args:
        start: "zero" (lora_B = 0), "mean" (the initialisation itself, which is the mean of the pilot's people), or the name of a
            prior ("ridge", "adalora", …), whose prediction for the mean of a person's embeddings is the start.
        model: the folder of the prior's synthesizer; if empty, the one that is shipped for the base of the LoRAs.
        layout: of the LoRAs.

    Raises:
        UsageError: the synthesizer has no such prior, or none is named for a real base.
        LayoutError: the synthesizer is of another layout.
    """
    if start == ZERO:
        return lambda init, embeddings: without_update(layout, init).expand(len(embeddings), -1)
    if start == MEAN:
        return lambda init, embeddings: init.expand(len(embeddings), -1)
    # NOTE: the one place where a stage looks ahead in the pipeline: what the last zoo taught helps to make the next.
    from lorasynth.prior import DiffusionPrior
    from lorasynth.synthesizer import Synthesizer

    if not model and layout.base not in WORLDS:
        raise UsageError(
            f"expected start_model, the folder of a synthesizer for {layout.base!r}, got none; that base has no shipped one: "
            f"name one, or start from {ZERO!r} or {MEAN!r}"
        )
    synthesizer = Synthesizer.from_pretrained(model or layout.base)
    if start not in synthesizer.priors:
        raise UsageError(
            f"expected start {ZERO!r}, {MEAN!r} or a prior among {sorted(synthesizer.priors)}, got {start!r}"
        )
    if differences := layout.diff(synthesizer.canonicalizer.layout):
        raise LayoutError(f"expected a synthesizer of the zoo's layout, got one in which {differences[0]}")

    # Without noise, which would be another one for the same person in another bank.
    sampler: dict[str, Any] = {"temperature": 0.0} if isinstance(synthesizer.priors[start], DiffusionPrior) else {}

    def predict(init: Float[Tensor, " P"], embeddings: Float[Tensor, "N J D"]) -> Float[Tensor, "N P"]:
        embedding = F.normalize(embeddings.mean(1), dim=1)
        return with_lora_A(layout, synthesizer.synthesize(embedding, prior=start, **sampler), init)

    return predict


def without_update(layout: Layout, init: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
    """An initialisation with lora_B = 0."""
    init = init.clone()
    for _, b in layout.slices.values():
        init[b] = 0
    return init


def with_lora_A(layout: Layout, vectors: Float[Tensor, "N P"], init: Float[Tensor, " P"]) -> Float[Tensor, "N P"]:
    """LoRAs with another's lora_A, and the lora_B that then come nearest in ΔW (least squares)."""
    theirs, ours = layout.split(vectors), layout.split(init[None])
    factors = {}
    for name, (A_NRI, B_NOR) in theirs.items():
        A_RI = ours[name][0][0]
        # min over B of |B A - B_N A_N|: B = B_N (A_N A^+).
        change_NRR = A_NRI.double() @ torch.linalg.pinv(A_RI.double())
        factors[name] = (A_RI.expand(len(vectors), -1, -1), (B_NOR.double() @ change_NRR).to(B_NOR.dtype))
    return layout.join(factors)
