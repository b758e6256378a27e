"""(h) What should a VAE and a prior count as an error: entries of LoRA vectors, one scale a tensor, or ΔW?"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lorasynth.errors import ZooError
from lorasynth.experiments.experiment import Claim, Config, Experiment, more
from lorasynth.experiments.lab import AT_ZERO, Lab, Method, seeded
from lorasynth.experiments.statistics import Figures
from lorasynth.prior import DiffusionPrior
from lorasynth.prior.baselines import Baseline
from lorasynth.vae import fit_vae


@dataclass(frozen=True)
class UpdateMetric:
    """Canonical vectors <-> vectors whose squared distances are those of ΔW, up to one factor.

    In the anchored gauge all LoRAs have one lora_A, so that ``‖(B - B') A‖² = ‖(B - B') L‖²`` with ``A Aᵀ = L Lᵀ``: each row of a
    module's lora_B is multiplied by its scale and by L.
    """

    blocks: list[int]  # how many numbers a vector has of each module
    maps: list[Float[Tensor, "R R"]]  # of each module: scale times L

    @classmethod
    def of(cls, lab: Lab) -> "UpdateMetric":
        """Of a zoo that shares its lora_A; with it, the training people's vectors have unit mean square.

        Raises:
            ZooError: the canonical vectors hold other numbers than lora_B's.
        """
        form, layout, maps = lab.canonicalizer, lab.zoo.layout, []
        for name, (A_1RI, _) in layout.split(form.mean[None].double()).items():
            place_A, place_B = layout.slices[name]
            if form.active[place_A].any() or not form.active[place_B].all():
                raise ZooError(f"{name}: expected LoRAs that differ in lora_B alone; use a zoo of one frozen lora_A")
            A_RI = A_1RI[0]
            maps.append((torch.linalg.cholesky(A_RI @ A_RI.T) * form.scale[place_B.start]).float())
        size = cls(form.blocks, maps).apply(lab.x[lab.train]).square().mean().sqrt()
        return cls(form.blocks, [m / size for m in maps])

    def apply(self, x: Float[Tensor, "N F"]) -> Float[Tensor, "N F"]:
        """Canonical vectors -> vectors with ΔW's distances."""
        return self._each(x, self.maps)

    def invert(self, y: Float[Tensor, "N F"]) -> Float[Tensor, "N F"]:
        """And back."""
        return self._each(y, [torch.linalg.inv(m) for m in self.maps])

    def _each(self, x: Float[Tensor, "N F"], maps: list[Float[Tensor, "R R"]]) -> Float[Tensor, "N F"]:
        parts = zip(x.split(self.blocks, dim=1), maps, strict=True)
        return torch.cat([(part.unflatten(1, (-1, len(m))) @ m).flatten(1) for part, m in parts], dim=1)


def run(lab: Lab, config: Config, seed: int) -> Figures:
    """The recipe's VAE and ADALoRA prior, and ridge regression of its latents, on vectors with the cell's distances.

    Returns:
        `Lab.score`'s figures of the prior and ("ridge …") of ridge; "reconstructed": `Lab.explained` of people's own LoRAs
        through the VAE.
    """
    metric = UpdateMetric.of(lab) if config["metric"] == "delta_W" else None
    x = metric.apply(lab.x) if metric else lab.x
    recipe = replace(lab.recipe.vae, loop=seeded(lab.recipe.vae.loop, seed))
    vae, _ = fit_vae(
        x,
        recipe,
        train_rows=lab.train,
        validation_rows=lab.choosing,
        blocks=lab.canonicalizer.blocks,
        embeddings=lab.faces,
    )
    with torch.no_grad():
        mean, logvar = vae.encode(x)

    def back(y: Float[Tensor, "B F"]) -> Float[Tensor, "B F"]:
        return metric.invert(y) if metric else y

    def method(prior: DiffusionPrior | Baseline, **settings: Any) -> Method:
        def predicted(rows: Int[Tensor, " B"]) -> Float[Tensor, "B F"]:
            return back(vae.decode(prior.predict(lab.photo(rows), **settings)))

        return torch.no_grad()(predicted)

    with torch.no_grad():
        own = lab.canonicalizer.invert(back(vae.decode(mean[lab.scored])))
    adalora = method(lab.prior_on(mean, logvar, lab.recipe.priors[0], seed), **AT_ZERO)
    return (
        lab.score(adalora) | lab.score(method(lab.ridge(mean)), prefix="ridge ") | {"reconstructed": lab.explained(own)}
    )


METRIC = Experiment(
    name="metric",
    title="The recipe's VAE and ADALoRA prior on canonical vectors, whose entries have one scale a tensor, and on vectors whose "
    "distances are those of ΔW",
    cells={name: {"metric": name} for name in ("canonical", "delta_W")},
    run=run,
    plotted=("similarity", "ridge similarity"),
    claims=(
        Claim(
            text="A VAE whose errors are those of ΔW keeps more of ΔW, of 256 numbers",
            source="ours",
            criterion=more("reconstructed", "delta_W", "canonical"),
        ),
        Claim(
            text="ADALoRA's likeness gains by it",
            source="ours",
            criterion=more("similarity", "delta_W", "canonical"),
        ),
        Claim(
            text="Ridge's likeness gains by it",
            source="ours",
            criterion=more("ridge similarity", "delta_W", "canonical"),
        ),
    ),
)
