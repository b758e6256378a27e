"""The portraits world at 64 pixels: its recipe, the same for a zoo of the paper's size, and in a minute or two."""

from dataclasses import replace

from lorasynth.pipeline.recipe import Recipe
from lorasynth.prior.training import PriorConfig
from lorasynth.recipes.drawn import as_measured, drawn
from lorasynth.recipes.tiny import tiny
from lorasynth.refining import EndToEndConfig, RefineConfig
from lorasynth.vae.training import VAEConfig
from lorasynth.zoo.config import ZooConfig


def portraits() -> Recipe:
    """A synthesizer of 64 pixels. It was shipped until 2026-11-30."""
    return as_measured(drawn("portraits", ZooConfig()))


def portraits_64k() -> Recipe:
    """A zoo of the paper's size, for a GPU: larger steps, less to hold the priors back, and straight on to end to end."""
    loop = replace(PriorConfig().loop, steps=1_500, weight_decay=0.02)
    prior = PriorConfig(conditioning="adalora", dropout=0.1, batch_size=1_024, loop=loop)
    last = RefineConfig(
        states="drawn", first_person=68_000, people=30_000, people_a_step=1_024,
        loop=replace(RefineConfig().loop, steps=1_000, learning_rate=1.5e-3, validate_every=100),
    )  # fmt: skip
    return drawn(
        "portraits_64k",
        ZooConfig(people=64_000, validation_people=512, bank=512),
        vae=VAEConfig(batch_size=1_024, dropout=0.0, loop=replace(VAEConfig().loop, weight_decay=0.01)),
        priors=(prior, replace(prior, conditioning="adanorm")),
        regression=replace(loop, weight_decay=0.1),
        refine=RefineConfig(critic=replace(RefineConfig().critic, steps=3_000), critic_people=20_000),
        end_to_end=EndToEndConfig(through=last, zoo_batch=256),
        refined_apart=False,
    )


def portraits_tiny() -> Recipe:
    """The same path in a minute or two."""
    return tiny("portraits")
