"""How near synthesised LoRAs come to a zoo's own, in weights: for bases of which no picture can be drawn here.

Why this metric: it needs no base model and no pictures. What it cannot say: how a picture looks. A direction of LoRA space
counts by how far LoRAs spread along it, not by what it does to a face, and the noise of each fine-tuning, which nothing can
predict, counts as error; so compare methods with each other, and pictures with pictures (`lorasynth evaluate` in a drawn world).
"""

from jaxtyping import Float
from torch import Tensor

from lorasynth.lora.factors import delta_W_norm2, delta_W_relative_error
from lorasynth.synthesizer import Synthesizer
from lorasynth.zoo.store import Zoo


def weight_errors(
    model: Synthesizer, zoo: Zoo, split: str = "held_out", *, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Every prior of a model on the LoRAs of a split, each from the first of its embeddings, with the prior's own settings.

    Returns:
        `errors_of` by the name of the prior.

    Raises:
        ZooError: the zoo has no such LoRAs.
        LayoutError: they are not of the model's layout.
    """
    _, vectors, embeddings = zoo.load(split)
    return {
        name: errors_of(model, vectors, model.synthesize(embeddings[:, 0], seed=seed, prior=name))
        for name in model.priors
    }


def errors_of(model: Synthesizer, true: Float[Tensor, "N P"], predicted: Float[Tensor, "N P"]) -> dict[str, float]:
    """How far LoRAs are from others, ΔW against ΔW.

    Returns:
        "relative_error": mean of ``‖ΔW - ΔW'‖² / ‖ΔW‖²``, 0 is exact and 1 as bad as no LoRA. "explained": what part of LoRAs'
        deviation from the zoo's mean LoRA is explained, ``1 - Σ‖ΔW - ΔW'‖² / Σ‖ΔW - ΔW_mean‖²``; 0 is the mean, 1 is exact.
    """
    layout = model.canonicalizer.layout
    mean = model.canonicalizer.mean.expand(len(true), -1)
    size = delta_W_norm2(layout, true.double())
    error, of_mean = (delta_W_relative_error(layout, true, other) for other in (predicted, mean))
    explained = 1 - float((error * size).sum() / (of_mean * size).sum())
    return {"relative_error": float(error.mean()), "explained": explained}
