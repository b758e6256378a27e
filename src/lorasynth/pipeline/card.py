"""Cards of synthesizers, with the hub's front matter."""

from pathlib import Path
from typing import Any

from PIL import Image

from lorasynth.base import render
from lorasynth.drawn.encoder import WorldEncoder
from lorasynth.encoders.images import to_image
from lorasynth.encoders.records import describe
from lorasynth.gallery import Role
from lorasynth.pipeline.choosing import CLEARLY, format_settings, tolerance
from lorasynth.pipeline.recipe import Recipe
from lorasynth.storage.cards import front_matter
from lorasynth.storage.hub import is_repo_id
from lorasynth.subjects.drawn import DrawnSubjects
from lorasynth.synthesizer import Synthesizer
from lorasynth.teaching import OF_PILOT_ALONE, shortcoming_of_model
from lorasynth.worlds.recogniser import Joined
from lorasynth.worlds.world import get_domain
from lorasynth.zoo.card import licence_fields
from lorasynth.zoo.config import is_pilot_alone
from lorasynth.zoo.store import Zoo

TAGS = ["lora", "hypernetwork", "zero-shot", "text-to-image"]


def draw_gallery(model: Synthesizer, subjects: DrawnSubjects) -> list[tuple[Image.Image, str]]:
    """Pictures for the card of a drawn world's synthesizer, each with its words: one subject's photo, then what it gives.

    The subject is one of those who are scored, whom no stage has seen.
    """
    person = subjects.people(Role.EVALUATED, 8)[-1:]
    vectors = model.synthesize(subjects.given(person)[:, 0])
    pictures = render(subjects.base, subjects.prompts, model.canonicalizer.layout, vectors)[0]
    size = (4 * model.picture_size, 4 * model.picture_size)
    drawn = [to_image(picture).resize(size, Image.Resampling.BICUBIC) for picture in pictures]
    photo = subjects.images(person)[0].resize(size, Image.Resampling.BICUBIC)
    return [(photo, "The photo that the LoRA was made from"), *zip(drawn, subjects.prompts, strict=True)]


def base_card(recipe: Recipe, zoo: Zoo, model: Synthesizer, record: dict[str, Any]) -> str:
    """The card of a real base's synthesizer, whose ``made_from`` is ``record``."""
    from huggingface_hub import ModelCardData

    vae, encoder = record["vae"], model.encoder_record or {}
    rows = "\n".join(
        f"| {name} | {values['relative_error']:.3f} | {values['explained']:.3f} | "
        f"{model.settings.get(name, {}).get('scale', 1):g} |"
        for name, values in record["validation"].items()
    )
    data = ModelCardData(
        library_name="lorasynth", **licence_fields(zoo.items), **_base_fields(model.base), tags=TAGS,
        instance_prompt=model.subject,
        pipeline_tag="text-to-image",
    )  # fmt: skip
    ranks = sorted({m.rank for m in zoo.layout.modules})
    said = shortcoming_of_model(record)
    limits = "its settings were chosen by errors of weights, and no picture was looked at"
    if "end_to_end" in record:
        limits = (
            f"`lorasynth evaluate` says how like their subjects pictures are; {record['teachers']:,} subjects taught it"
        )
    warning = f"\n> **Warning**: {said}.\n" if said else ""
    return f"""{front_matter(data)}
# lorasynth synthesizer: {recipe.name}
{warning}
A photo's embedding in, a rank-{", ".join(map(str, ranks))} LoRA of {_base_link(model.base)} out:
{len(zoo.layout.modules)} modules, {zoo.layout.num_parameters:,} numbers.

    model = Synthesizer.from_pretrained("FOLDER_OR_ID", encoder="SPEC")   # or without: model.from_embedding(vector)
    model("me.jpg").save("me.safetensors")

* **Encoder**, which is not in this folder: {describe(encoder) if encoder.get("files") else "unknown; it takes embeddings only"}.
* **Data**: {record["zoo_loras"]:,} LoRAs to learn from{_of_pilot(zoo)}; licences
  {", ".join(sorted({item.licence for item in zoo.items}))}.
* **VAE**: {recipe.vae.num_components} {recipe.vae.stem} components, latent {recipe.vae.latent_dim}; relative squared error of
  ΔW on validation people through it and back {vae["delta_W_error"]:.3f} (the zoo's mean alone:
  {vae["delta_W_error_of_the_mean"]:.3f}).
{_through_base(recipe, model, record)}
* **Default prior**: {model.default_prior}{_instead_of(recipe.priors[0].conditioning, model.default_prior, record)}.

| prior | relative squared error of ΔW, those LoRAs | part explained of their deviation from the zoo's mean | scale |
|---|---|---|---|
{rows}

**Limits**: {limits}. `priors/nearest.safetensors` and
`priors/kernel.safetensors` hold embeddings of the zoo's people: `push_to_hub` leaves them out.
Use it for your own face, of someone who agreed, or of nobody.
"""


def _base_fields(base: str) -> dict[str, Any]:
    """What the hub reads of the base model: its id. Nothing of a folder's, which is nobody else's."""
    return {"base_model": base, "base_model_relation": "adapter"} if _is_on_hub(base) else {}


def _base_link(base: str) -> str:
    return f"[{base}](https://huggingface.co/{base})" if _is_on_hub(base) else f"`{Path(base).name}`"


def _is_on_hub(base: str) -> bool:
    """Whether a base's name is a hub id, and no folder or file here."""
    return is_repo_id(base) and not Path(base).exists()


def _through_base(recipe: Recipe, model: Synthesizer, record: dict[str, Any]) -> str:
    """What the base had to do with it, and how settings were chosen."""
    if "end_to_end" not in record:
        return f"""* **Settings** (scale, guidance, temperature) were chosen by the error of ΔW on {record["tune_loras"]}
  validation LoRAs, since no picture was drawn. That error likes small LoRAs: where pictures show too little of a person,
  give a larger `scale`."""
    through, last = recipe.end_to_end.through, record["end_to_end"]
    return f"""* **End to end**: priors and VAE were then trained through the base for {through.loop.steps:,} steps of
  {through.people_a_step} subjects, of {record["teachers"]:,} with photos. Similarity of what is drawn for validation subjects,
  mean over the priors: {last["likeness_before"]:.3f} before, {last["likeness_after"]:.3f} after.
* **Settings** (scale, guidance, temperature) were chosen by the similarity of pictures of {record["chosen_on"]}
  validation subjects{_among_obedient(model, record)}."""


def _among_obedient(model: Synthesizer, record: dict[str, Any]) -> str:
    """What the rule of obedience had to do with the settings, and the default prior's."""
    obeyed, words = record["obeyed"], format_settings(model.settings[model.default_prior])
    if not obeyed:
        return ""
    of_prior, less = obeyed.get(model.default_prior, {}), tolerance(record["chosen_on"])
    said = (
        f", among settings whose pictures show what was asked for as often as at scale 0, or less by at most {less:.2g}"
    )
    return f"{said}. The default prior's do in {of_prior[words]:.0%}" if words in of_prior else said


def _of_pilot(zoo: Zoo) -> str:
    """What to say of LoRAs that are the pilot's alone."""
    return f" ({OF_PILOT_ALONE})" if is_pilot_alone(zoo.recipe) else ""


def _instead_of(usual: str, default: str, record: dict[str, Any]) -> str:
    """What to say of a default prior that is not the recipe's."""
    if default == usual:
        return ""
    better = "similarity was higher" if "end_to_end" in record else "error was lower"
    return f", whose {better} than that of the recipe's {usual} by more than {CLEARLY:g}"


def _condition(model: Synthesizer) -> str:
    """What a drawn world's synthesizer is given of a photo."""
    joined = isinstance(model.encoder, WorldEncoder) and isinstance(model.encoder.net, Joined)
    beside = " and by the appearance net beside it" if joined else ""
    return f"the photo's embedding by the world's encoder{beside},\n  {model.embedding_dim:,} numbers"


def synthesizer_card(recipe: Recipe, zoo: Zoo, model: Synthesizer, record: dict[str, Any]) -> str:
    """The card of a drawn world's synthesizer, whose ``made_from`` is ``record``."""
    from huggingface_hub import ModelCardData

    assert recipe.zoo is not None, "a drawn world's zoo is built"
    people = sum(item.split == "train" for item in zoo.items)
    refine, redraw, through = recipe.refine, recipe.redraw, recipe.end_to_end.through
    vae, priors, last = record["vae"], record["priors"], record["end_to_end"]
    names = [config.conditioning for config in recipe.priors]
    head = "| prior | variance of held-out latents explained, zoo only | the same by ridge |"
    rule = "|---|---|---|"
    by_ridge = {n: f"{priors[n]['ridge_explained']:.3f}" if "ridge_explained" in priors[n] else "–" for n in names}
    rows = {n: f"| {n} | {priors[n]['explained']:.3f} | {by_ridge[n]} |" for n in names}
    apart = ""
    if recipe.refined_apart:
        head, rule = head + " loss before, after: on photos | on what it draws |", rule + "---|---|"
        for name, phases in record["refined"].items():
            rows[name] += "".join(f" {p['loss_before']:.4f}, {p['loss_after']:.4f} |" for p in phases.values())
        apart = f"""* **Through the base**: each diffusion prior was then trained for {refine.loop.steps:,} steps of
  {refine.people_a_step} subjects. They are of {refine.people:,} with photos and no LoRAs.
  The losses are the base's v-loss and an identity loss.
* **By what it draws**: {redraw.loop.steps:,} steps of {redraw.people_a_step} subjects followed. The critic looked at
  what the base was about to draw. Identity weighs {redraw.identity_weight:g} there.
"""
    table = "\n".join([head, rule, *rows.values()])
    data = ModelCardData(
        library_name="lorasynth", license="apache-2.0", tags=TAGS, instance_prompt=model.subject, pipeline_tag="text-to-image"
    )  # fmt: skip
    return f"""{front_matter(data)}
# lorasynth synthesizer: {recipe.name}

With this folder `lorasynth synthesize` makes a LoRA from one photo of the drawn world
`{recipe.zoo.world}`. The LoRA has rank {recipe.zoo.rank} and is for that world's base model.

* **Data**: {people} LoRAs{_of_pilot(zoo)}, each fine-tuned on {recipe.zoo.photos} drawn photos of one subject.
  No real person, no downloaded data.
* **Made by**: `python -m lorasynth.recipes.reproduce --recipe {recipe.name}`.
* **Condition**: {_condition(model)}.
* **VAE**: {recipe.vae.num_components} {recipe.vae.stem} components, latent {recipe.vae.latent_dim}.
  {vae["active_units"]:.0f} of its units are active.
{apart}* **End to end**: {through.loop.steps:,} steps of {through.people_a_step} subjects. They are of {through.people:,}
  with photos and no LoRAs. All priors and the VAE learn together. The losses are the base's v-loss
  and an identity loss on what it is about to draw. The VAE keeps reconstructing the zoo's LoRAs.
* **Critic**: a third recogniser, which has learned from {refine.critic_people:,} other people, gives the
  identity loss. Neither of the two recognisers that score has a part in it.
* **Settings** of the default prior, {model.default_prior}:
  {format_settings(model.settings[model.default_prior])}.

| | before end to end | after |
|---|---|---|
| similarity of pictures, {through.validation_people} validation subjects, scale {through.scale:g} | \
{last["likeness_before"]:.3f} | {last["likeness_after"]:.3f} |
| relative squared error of ΔW of held-out LoRAs through the VAE (mean alone: {vae["delta_W_error_of_the_mean"]:.3f}) | \
{vae["delta_W_error"]:.3f} | {last["delta_W_error"]:.3f} |

{table}

`lorasynth evaluate` with this folder scores its pictures.

**Limits**: it knows {get_domain(recipe.family).about}.
It refuses most photographs. It shows the method. For real faces train on a zoo of them.
"""
