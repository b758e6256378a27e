"""The embedded default: the recipe of what is shipped, and the same path in a minute or two."""

from dataclasses import replace

from lorasynth.prior.training import PriorConfig
from lorasynth.recipes.recipe import WorldRecipe
from lorasynth.refining import EndToEndConfig, RefineConfig
from lorasynth.vae.training import VAEConfig
from lorasynth.worlds.recogniser_training import RecogniserConfig
from lorasynth.zoo.adapt import AdaptConfig
from lorasynth.zoo.build import ZooConfig


def portraits() -> WorldRecipe:
    """The shipped synthesizer of the portraits world."""
    return WorldRecipe(name="portraits")


def portraits_64k() -> WorldRecipe:
    """A zoo of the paper's size, for a GPU: larger steps, less to hold the priors back, and straight on to end to end."""
    loop = replace(PriorConfig().loop, steps=1_500, weight_decay=0.02)
    prior = PriorConfig(conditioning="adalora", dropout=0.1, batch_size=1_024, loop=loop)
    last = RefineConfig(
        states="drawn", first_person=68_000, people=30_000, people_a_step=1_024,
        loop=replace(RefineConfig().loop, steps=1_000, learning_rate=1.5e-3, validate_every=100),
    )  # fmt: skip
    return WorldRecipe(
        name="portraits_64k",
        zoo=ZooConfig(people=64_000, validation_people=512, bank=512),
        vae=VAEConfig(batch_size=1_024, dropout=0.0, loop=replace(VAEConfig().loop, weight_decay=0.01)),
        priors=(prior, replace(prior, conditioning="adanorm")),
        regression=replace(loop, weight_decay=0.1),
        refine=RefineConfig(critic=replace(RefineConfig().critic, steps=3_000), critic_people=20_000),
        end_to_end=EndToEndConfig(through=last, zoo_batch=256),
        refined_apart=False,
    )


def portraits_tiny() -> WorldRecipe:
    """The same path in a minute or two, for trying out: the LoRAs are poor and the synthesizer with them."""
    adapt = AdaptConfig(steps=6, batch_size=4)
    zoo = ZooConfig(
        people=24, validation_people=8, photos=4, rank=1, embedding_photos=2, bank=8, pilot_people=8, pilot_rounds=1,
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
    return WorldRecipe(
        name="portraits_tiny",
        zoo=zoo,
        vae=vae,
        priors=priors,
        regression=replace(loop, steps=20),
        refine=refine,
        redraw=redraw,
        end_to_end=EndToEndConfig(through=redraw, zoo_batch=4),
        tune_people=2,
        fine_tuning=adapt,
    )
