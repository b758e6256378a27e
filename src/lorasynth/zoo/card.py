"""A zoo's card as a data set of the hub: what it holds, and under which licences."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorasynth.encoders.records import describe
from lorasynth.lora.layout import Layout
from lorasynth.storage.cards import CARD, front_matter, write_gallery
from lorasynth.zoo.manifest import Item

if TYPE_CHECKING:
    from PIL.Image import Image

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


def licence_fields(items: Sequence[Item]) -> dict[str, Any]:
    """The licence of a zoo's LoRAs, and of what is made from them, as the hub says it."""
    said = sorted({item.licence for item in items})
    if len(said) == 1 and said[0].lower() in _LICENCES:
        return {"license": said[0].lower()}
    return {"license": "other", "license_name": "-and-".join(said).replace(" ", "-").lower()[:80] or "none-stated"}


def write_card(folder: Path, layout: Layout, recipe: dict[str, Any], items: Sequence[Item]) -> None:
    """Write a zoo's card where there is none. That of a drawn world's zoo shows four LoRAs; photographs are never shown."""
    if (folder / CARD).exists():
        return
    shown = sorted((i for i in items if i.split == "train"), key=lambda i: i.person)[:4] if "world" in recipe else []
    pictures = [_drawn_subjects(folder, layout, recipe, shown)] if shown else []
    prompts = ["Four subjects of the zoo: a drawn photo of each, and below it a picture with its LoRA"] * len(pictures)
    write_gallery(folder, zoo_card(layout, recipe, items), pictures, prompts, "dataset")


def _drawn_subjects(folder: Path, layout: Layout, recipe: dict[str, Any], items: Sequence[Item]) -> "Image":
    """Above the drawn photos of some subjects, below a picture with the LoRA of each."""
    import torch

    from lorasynth.base import render
    from lorasynth.encoders.images import to_image
    from lorasynth.worlds.world import get_world
    from lorasynth.zoo.rows import open_rows

    world, (rows, _) = get_world(recipe["world"]), open_rows(folder, items, layout.num_parameters)
    photos = world.draw([i.person for i in items], [recipe["first_photo"]] * len(items), world.picture_size)
    drawn = render(world.base, world.prompts[:1], layout, rows[:])[:, 0]
    image = to_image(torch.cat([torch.cat(list(row), 2) for row in (photos, drawn)], 1))
    return image.resize((3 * image.width, 3 * image.height))


def zoo_card(layout: Layout, recipe: dict[str, Any], items: Sequence[Item]) -> str:
    """The card of a zoo as a data set repository."""
    from huggingface_hub import DatasetCardData

    count, splits = len(items), [item.split for item in items]
    limits = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
    ranks = sorted({m.rank for m in layout.modules})
    encoder = recipe.get("encoder")
    data = DatasetCardData(
        pretty_name=f"LoRAs of {layout.base}", **licence_fields(items), tags=["lora", "weights", "lorasynth"],
        size_categories=[next((name for limit, name in limits if count < limit), "n>1M")],
        configs=[{"config_name": "default", "data_files": "manifest.jsonl"}],
    )  # fmt: skip
    return f"""{front_matter(data)}
# A zoo of {count:,} LoRAs for {layout.base}

{count:,} LoRAs of {len({item.person for item in items}):,} people, each with embeddings: what
[lorasynth](https://pypi.org/project/lorasynth) learns a space of LoRAs from.

| | |
|---|---|
| base | {layout.base} |
| modules, rank | {len(layout.modules)}, {", ".join(map(str, ranks))} |
| numbers a LoRA | {layout.num_parameters:,} (layout `{layout.hash}`) |
| people's splits | {", ".join(f"{name} {splits.count(name):,}" for name in sorted(set(splits)))} |
| sources | {", ".join(sorted({item.source for item in items}))} |
| licences | {", ".join(sorted({item.licence for item in items}))} |
| embeddings | {describe(encoder) if encoder else "by an unnamed encoder"} |

**Files**: `zoo.json` (layout, recipe), `manifest.jsonl` (a line an item: person, split, shard, row, sha256, licence),
`shard-*.safetensors` ("vectors" and "embeddings", float16). An item exists only if the manifest says so and its hash agrees.

    zoo = lorasynth.Zoo.open("FOLDER")          # a local copy; or Zoo.from_hub("OWNER/NAME")
    persons, vectors, embeddings = zoo.load("train")

**A face's embedding is biometric data, and so may be a LoRA of a face.** Publish a zoo only of people who agreed to exactly
that, or of nobody (drawn people), and keep the repository private otherwise.
"""
