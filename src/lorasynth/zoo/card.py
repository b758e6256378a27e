"""A zoo's card as a data set of the hub: what it holds, and under which licences."""

from typing import TYPE_CHECKING, Any

from lorasynth.encoders.records import describe
from lorasynth.storage.cards import CARD, front_matter, write_gallery

if TYPE_CHECKING:
    from PIL.Image import Image

    from lorasynth.zoo.store import Zoo

_LICENCES = (
    "apache-2.0",
    "mit",
    "cc0-1.0",
    "cc-by-4.0",
    "cc-by-sa-4.0",
    "cc-by-nc-4.0",
    "creativeml-openrail-m",
    "openrail++",
)
"""Of those that the hub knows by name, the usual ones of LoRAs; any other is "other"."""


def licence_fields(zoo: "Zoo") -> dict[str, Any]:
    """The licence of a zoo's LoRAs, and of what is made from them, as the hub says it."""
    said = sorted({item.licence for item in zoo.items})
    if len(said) == 1 and said[0].lower() in _LICENCES:
        return {"license": said[0].lower()}
    return {"license": "other", "license_name": "-and-".join(said).replace(" ", "-").lower()[:80] or "none-stated"}


def write_card(zoo: "Zoo") -> None:
    """Write a zoo's card where there is none. That of a drawn world's zoo shows four LoRAs; photographs are never shown."""
    if (zoo.folder / CARD).exists():
        return
    pictures = [_four_loras(zoo)] if "world" in zoo.recipe else []
    prompts = ["Four subjects of the zoo: a drawn photo of each, and below it a picture with its LoRA"] * len(pictures)
    write_gallery(zoo.folder, zoo_card(zoo), pictures, prompts, "dataset")


def _four_loras(zoo: "Zoo") -> "Image":
    """Above the drawn photos of four subjects, below a picture with the LoRA of each."""
    import torch

    from lorasynth.base import render
    from lorasynth.encoders.images import to_image
    from lorasynth.worlds.world import get_world

    world, (persons, rows, _) = get_world(zoo.recipe["world"]), zoo.open_rows("train")
    shown = persons[:4]
    photos = world.draw(shown, [zoo.recipe["first_photo"]] * len(shown), world.picture_size)
    drawn = render(world.base, world.prompts[:1], zoo.layout, rows[: len(shown)])[:, 0]
    image = to_image(torch.cat([torch.cat(list(row), 2) for row in (photos, drawn)], 1))
    return image.resize((3 * image.width, 3 * image.height))


def zoo_card(zoo: "Zoo") -> str:
    """The card of a zoo as a data set repository."""
    from huggingface_hub import DatasetCardData

    count, splits = len(zoo.items), [item.split for item in zoo.items]
    limits = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
    ranks = sorted({m.rank for m in zoo.layout.modules})
    encoder = zoo.recipe.get("encoder")
    data = DatasetCardData(
        pretty_name=f"LoRAs of {zoo.layout.base}", **licence_fields(zoo), tags=["lora", "weights", "lorasynth"],
        size_categories=[next((name for limit, name in limits if count < limit), "n>1M")],
        configs=[{"config_name": "default", "data_files": "manifest.jsonl"}],
    )  # fmt: skip
    return f"""{front_matter(data)}
# A zoo of {count:,} LoRAs for {zoo.layout.base}

{count:,} LoRAs of {len({item.person for item in zoo.items}):,} people, each with embeddings: what
[lorasynth](https://pypi.org/project/lorasynth) learns a space of LoRAs from.

| | |
|---|---|
| base | {zoo.layout.base} |
| modules, rank | {len(zoo.layout.modules)}, {", ".join(map(str, ranks))} |
| numbers a LoRA | {zoo.layout.num_parameters:,} (layout `{zoo.layout.hash}`) |
| people's splits | {", ".join(f"{name} {splits.count(name):,}" for name in sorted(set(splits)))} |
| sources | {", ".join(sorted({item.source for item in zoo.items}))} |
| licences | {", ".join(sorted({item.licence for item in zoo.items}))} |
| embeddings | {describe(encoder) if encoder else "by an unnamed encoder"} |

**Files**: `zoo.json` (layout, recipe), `manifest.jsonl` (a line an item: person, split, shard, row, sha256, licence),
`shard-*.safetensors` ("vectors" and "embeddings", float16). An item exists only if the manifest says so and its hash agrees.

    zoo = lorasynth.Zoo.open("FOLDER")          # a local copy; or Zoo.from_hub("OWNER/NAME")
    persons, vectors, embeddings = zoo.load("train")

**A face's embedding is biometric data, and so may be a LoRA of a face.** Publish a zoo only of people who agreed to exactly
that, or of nobody (drawn people), and keep the repository private otherwise.
"""
