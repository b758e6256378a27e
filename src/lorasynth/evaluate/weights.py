"""How near synthesised LoRAs come to a zoo's own, in weights: for bases of which no picture can be drawn here.

Why this metric: it needs no base model and no pictures. What it cannot say: how a picture looks. A direction of LoRA space
counts by how far LoRAs spread along it, not by what it does to a picture, and the noise of each fine-tuning, which nothing can
predict, counts as error; so compare methods with each other, and pictures with pictures (`lorasynth evaluate` in a drawn world).
"""

from collections.abc import Callable
from statistics import median
from typing import Any

from jaxtyping import Float
from torch import Tensor

from lorasynth.evaluate.memorisation import Memorisation
from lorasynth.lora.factors import delta_W_norm2, delta_W_relative_error
from lorasynth.synthesizer import Synthesizer
from lorasynth.zoo.store import Zoo


def evaluate_weights(
    model: Synthesizer,
    zoo: Zoo,
    *,
    trained_on: Zoo | None = None,
    seed: int = 0,
    report: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Every prior of a model on a zoo's held-out LoRAs, each from the first of its embeddings, with the prior's own settings.

    Args:
        model: whose priors.
        zoo: whose LoRAs they are to find.
        trained_on: the zoo that the model learned from: asks whether LoRAs are copies of it; see `memorisation`.
        seed: of the sampler.
        report: gets a line now and then.

    Returns:
        "methods" (`errors_of` by the name of the prior), "seconds" ("embedding_to_lora", by each prior), perhaps "memorisation".

    Raises:
        ZooError: a zoo has no such LoRAs.
        LayoutError: they are not of the model's layout.
    """
    _, vectors, embeddings = zoo.load("held_out")
    memorisation = Memorisation.fit(model.canonicalizer, trained_on, report=report) if trained_on is not None else None
    methods, near, seconds = {}, {}, {}
    for name in model.priors:
        predicted = model.synthesize(embeddings[:, 0], seed=seed, prior=name)
        methods[name] = errors_of(model, vectors, predicted)
        if memorisation is not None:
            near[name] = memorisation.of(predicted)
        times = []
        for embedding in embeddings[:6, 0]:
            model.from_embedding(embedding, seed=seed, prior=name)
            times.append(model.last_seconds)
        seconds[name] = median(times[1:] or times)
        report(f"{name:12s} relative error {methods[name]['relative_error']:.3f}")
    record = {
        "methods": methods, "zoo": str(zoo.folder), "people": len(vectors), "split": "held_out",
        "seconds": {"embedding_to_lora": seconds},
    }  # fmt: skip
    if memorisation is not None:
        record["memorisation"] = memorisation.record(near)
    return record


def errors_of(model: Synthesizer, true: Float[Tensor, "N P"], predicted: Float[Tensor, "N P"]) -> dict[str, float]:
    """How far LoRAs are from others, ΔW against ΔW.

    Returns:
        "relative_error": mean of ``‖ΔW - ΔW'‖² / ‖ΔW‖²``, 0 is exact and 1 as bad as no LoRA. "explained": what part of LoRAs'
        deviation from the zoo's mean LoRA is explained, ``1 - Σ‖ΔW - ΔW'‖² / Σ‖ΔW - ΔW_mean‖²``; 0 is the mean, 1 is exact.
        "size": ``√(Σ‖ΔW'‖² / Σ‖ΔW‖²)``, 1 where they do as much as the true ones.
    """
    layout = model.canonicalizer.layout
    mean = model.canonicalizer.mean.expand(len(true), -1)
    size = delta_W_norm2(layout, true.double())
    error, of_mean = (delta_W_relative_error(layout, true, other) for other in (predicted, mean))
    explained = 1 - float((error * size).sum() / (of_mean * size).sum())
    predicted_size = delta_W_norm2(layout, predicted.double())
    return {
        "relative_error": float(error.mean()), "explained": explained,
        "size": float(predicted_size.sum() / size.sum()) ** 0.5,
    }  # fmt: skip
