"""Model cards: what a shipped model is, what it was made from, what it is not."""

from typing import Any

from lorasynth.recipes.recipe import Recipe
from lorasynth.zoo.store import Zoo


def synthesizer_card(recipe: Recipe, zoo: Zoo, record: dict[str, Any]) -> str:
    """The card of a synthesizer, with the hub's front matter."""
    people = sum(item.split == "train" for item in zoo.items)
    refine = recipe.refine
    vae, priors, refined = record["vae"], record["priors"], record["refined"]
    rows = "\n".join(
        f"| {name} | {priors[name]['explained']:.3f} | {priors[name]['ridge_explained']:.3f} | "
        f"{values['loss_before']:.4f} | {values['loss_after']:.4f} |"
        for name, values in refined.items()
    )
    return f"""---
library_name: lorasynth
license: apache-2.0
tags: [lora, hypernetwork, zero-shot, text-to-image]
---

# lorasynth synthesizer: {recipe.name}

One photo of a person of the drawn world `{recipe.zoo.world}` in, a rank-{recipe.zoo.rank} LoRA of that world's base model out.

* **Data**: {people} LoRAs, each fine-tuned on {recipe.zoo.photos} drawn photos of one person. No real person, no downloaded data.
* **Made by**: `make reproduce` (recipe `{recipe.name}`).
* **VAE**: {recipe.vae.num_components} {recipe.vae.stem} components, latent {recipe.vae.latent_dim}; relative squared error of
  ΔW on people held back {vae["delta_W_error"]:.3f} (the zoo's mean alone: {vae["delta_W_error_of_the_mean"]:.3f});
  {vae["active_units"]:.0f} of {recipe.vae.latent_dim} units active.
* **Through the base**: each diffusion prior was then trained for {refine.loop.steps:,} steps of {refine.people_a_step} people, of
  {refine.people:,} with photos and no LoRAs, by the base's v-loss and an identity loss. The critic of the latter has learned from
  {refine.critic_people:,} other people, and is neither the encoder nor the second recogniser that scores are told by.

| prior | held latents' variance explained, zoo only | by ridge | that loss on held people, zoo only | and through the base |
|---|---|---|---|---|
{rows}

How like their people its pictures are: `lorasynth evaluate` with this folder; for the shipped model see docs/figures.md.

**Limits**: it knows cartoon portraits of this world, seen from the front, one person in the middle. Photographs of people are
refused. It shows the method; for real faces train on a zoo of them.
"""
