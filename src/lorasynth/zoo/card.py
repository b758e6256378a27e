"""A zoo's card as a data set of the hub: what it holds, under which licences; and the front matter of cards."""

from typing import TYPE_CHECKING, Any

from lorasynth.encoders.records import describe

if TYPE_CHECKING:
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


def front_matter(**fields: Any) -> str:
    """The fields that the hub reads, as the YAML block that a card begins with."""
    from huggingface_hub.repocard_data import CardData

    return f"---\n{CardData(**fields).to_yaml()}\n---\n"


def licence_fields(zoo: "Zoo") -> dict[str, str]:
    """The licence of a zoo's LoRAs, and of what is made from them, as the hub says it."""
    said = sorted({item.licence for item in zoo.items})
    if len(said) == 1 and said[0].lower() in _LICENCES:
        return {"license": said[0].lower()}
    return {"license": "other", "license_name": "-and-".join(said).replace(" ", "-").lower()[:80] or "none-stated"}


def zoo_card(zoo: "Zoo") -> str:
    """The card of a zoo as a data set repository."""
    count, splits = len(zoo.items), [item.split for item in zoo.items]
    limits = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
    ranks = sorted({m.rank for m in zoo.layout.modules})
    encoder = zoo.recipe.get("encoder")
    fields = front_matter(
        pretty_name=f"LoRAs of {zoo.layout.base}", **licence_fields(zoo), tags=["lora", "weights", "lorasynth"],
        size_categories=[next((name for limit, name in limits if count < limit), "n>1M")],
        configs=[{"config_name": "default", "data_files": "manifest.jsonl"}],
    )  # fmt: skip
    return f"""{fields}
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
| embeddings | {describe(encoder) if encoder else "by an encoder that nobody named"} |

**Files**: `zoo.json` (layout, recipe), `manifest.jsonl` (a line an item: person, split, shard, row, sha256, licence),
`shard-*.safetensors` ("vectors" and "embeddings", float16). An item exists only if the manifest says so and its hash agrees.

    zoo = lorasynth.Zoo.open("FOLDER")          # a local copy; or Zoo.from_hub("OWNER/NAME")
    persons, vectors, embeddings = zoo.load("train")

**A face's embedding is biometric data, and so may be a LoRA of a face.** Publish a zoo only of people who agreed to exactly
that, or of nobody (drawn people), and keep the repository private otherwise.
"""
