"""The whole path of a drawn world in a minute or two, for trying out: the LoRAs are poor and the synthesizer with them."""

from dataclasses import replace

from lorasynth.pipeline.recipe import Recipe
from lorasynth.prior.training import PriorConfig
from lorasynth.recipes.drawn import drawn
from lorasynth.refining import EndToEndConfig, RefineConfig
from lorasynth.vae.training import VAEConfig
from lorasynth.worlds.recogniser_training import RecogniserConfig
from lorasynth.zoo.adapt import AdaptConfig
from lorasynth.zoo.config import ZooConfig


def tiny(world: str) -> Recipe:
    """The recipe ``WORLD_tiny``."""
    adapt = AdaptConfig(steps=6, batch_size=4)
    zoo = ZooConfig(
        world=world, people=24, validation_people=8, photos=4, rank=1, embedding_photos=2, bank=8, pilot_people=8, pilot_rounds=1,
        pilot=replace(adapt, lora_A="shared"), adapt=adapt,
    )  # fmt: skip
    vae = VAEConfig(num_components=12, latent_dim=8, hidden_dim=32, loop=replace(VAEConfig().loop, steps=40))
    loop = replace(PriorConfig().loop, steps=40)
    priors = tuple(PriorConfig(conditioning=c, width=32, depth=1, loop=loop) for c in ("adalora", "adanorm"))
    critic = RecogniserConfig(loss="arcface", steps=4, batch_size=8)
    refine = RefineConfig(
        people_a_step=4, validation_people=4, loop=replace(loop, steps=4), critic_people=16, critic=critic
    )
    redraw = replace(refine, states="drawn", drawing_steps=3)
    return drawn(
        f"{world}_tiny",
        zoo,
        vae=vae,
        priors=priors,
        regression=replace(loop, steps=20),
        refine=refine,
        redraw=redraw,
        end_to_end=EndToEndConfig(through=redraw, zoo_batch=4),
        tune_people=2,
        fine_tuning=adapt,
    )
