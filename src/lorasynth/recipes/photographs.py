"""Your photographs, your base: a zoo of LoRAs made from a folder, and what is fitted to it.

    lorasynth zoo build sd15 --base BASE --data people/ --encoder SPEC --out runs/zoo
    lorasynth train all sd15 --zoo runs/zoo --data people/ --encoder SPEC --out runs/fit

What they take on a GPU of 80 GB is an estimate: `lorasynth.recipes.estimate`, docs/results/performance.md.

NOTE: nobody has run these at true size. Steps and learning rates are those of the field for one LoRA; the tiny recipes go the
same way in a minute on any base of the family.
"""

from dataclasses import replace

from lorasynth.pipeline.recipe import Recipe
from lorasynth.prior.training import PriorConfig
from lorasynth.recipes.imported import BASES
from lorasynth.recipes.through_photos import THROUGH_PHOTOS, few_steps
from lorasynth.training import LoopConfig
from lorasynth.vae.training import VAEConfig
from lorasynth.zoo.adapt import AdaptConfig
from lorasynth.zoo.config import ZooConfig


def photographs(family: str) -> Recipe:
    """Of a family of `BASES`."""
    base, size = BASES[family]
    adapt = AdaptConfig(steps=400, batch_size=2, learning_rate=1e-3, adam_epsilon=1e-6, beta2=0.999)
    # People at once fit into 80 GB, by `lorasynth.recipes.estimate`, with gradient checkpointing.
    people_a_step = 4 if family == "flux" else 8
    zoo = ZooConfig(
        people=100_000, photos=16, embedding_photos=4, bank=4, pilot_people=24, pilot_in_banks=True, adapt=adapt,
        pilot=replace(adapt, lora_A="shared"),
    )  # fmt: skip
    end_to_end = THROUGH_PHOTOS["end_to_end"]
    through = replace(end_to_end.through, people_a_step=people_a_step)
    loop = LoopConfig(steps=2_000, learning_rate=5e-4, warmup_steps=100, weight_decay=0.05, validate_every=100)
    return Recipe(
        name=family, family=family, base=base, picture_size=size, zoo=zoo,
        **THROUGH_PHOTOS | {"end_to_end": replace(end_to_end, through=through)},
        vae=VAEConfig(num_components=64, local_numbers=4_000_000, latent_dim=64),
        fit_to_zoo=Recipe.spanned_by,  # a folder may have fewer subjects than that; photographs teach most of it anyway
        priors=tuple(PriorConfig(conditioning=c, dropout=0.1, loop=loop) for c in ("adalora", "adanorm")),
    )  # fmt: skip


def photographs_tiny(family: str) -> Recipe:
    """Every stage for a few steps: a minute on any base of the family, from a dozen subjects on."""
    recipe = photographs(family)
    assert recipe.zoo is not None
    adapt = replace(recipe.zoo.adapt, steps=4)
    zoo = replace(
        recipe.zoo, rank=1, photos=4, embedding_photos=2, bank=2, pilot_rounds=1, adapt=adapt,
        pilot=replace(adapt, lora_A="shared"),
    )  # fmt: skip
    loop = LoopConfig(steps=20, warmup_steps=2, validate_every=10)
    return replace(
        recipe, name=f"{family}_tiny", zoo=zoo, regression=loop, **few_steps(),
        vae=VAEConfig(num_components=4, latent_dim=2, hidden_dim=8, loop=loop),
        priors=tuple(PriorConfig(conditioning=c, width=16, depth=1, loop=loop) for c in ("adalora", "adanorm")),
    )  # fmt: skip
