"""A zoo at another rank: each LoRA by its leading singular directions, or with zeros, in a new folder."""

from collections.abc import Callable
from pathlib import Path

import torch

from lorasynth.errors import UsageError, ZooError
from lorasynth.zoo.importing.bringing import bring_all
from lorasynth.zoo.importing.candidates import MARKS
from lorasynth.zoo.manifest import free_shard_name
from lorasynth.zoo.store import Item, Zoo


def resize_zoo(
    zoo: Zoo, folder: str | Path, rank: int, report: Callable[[str], None] = print
) -> tuple[Zoo, dict[str, float]]:
    """Bring all LoRAs of a zoo to one rank. The same call again goes on where it was stopped.

    A lower rank keeps the leading singular directions of each update, which is the nearest update of that rank (Eckart & Young,
    1936). Embeddings, people and splits stay. The new zoo has no shared initialisation: no LoRA of it is near to one.

    Args:
        zoo: where they come from; it is not changed.
        folder: of the new zoo.
        rank: of every module.
        report: is told how far it is.

    Returns:
        The new zoo, and the "mean" and "largest" relative error ``‖ΔW - ΔW'‖ / ‖ΔW‖`` of its LoRAs since each was made: those
        of an earlier resizing or import are included.

    Raises:
        UsageError: the zoo is of that rank already.
        LayoutError: a module cannot have that rank.
        ZooError: the zoo is damaged, or another one is in the folder.
    """
    layout = zoo.layout.of_rank(rank)
    if layout == zoo.layout:
        raise UsageError(f"expected another rank than {rank}, which {zoo.folder} has already; use it as it is")
    if faults := zoo.verify():
        raise ZooError(
            f"{zoo.folder}: expected a sound zoo to resize, got {len(faults)} faults ({faults[0]}); run `lorasynth zoo repair`"
        )
    resized = {"rank": rank, "layout": zoo.layout.hash}
    new = Zoo.create(folder, layout, {**zoo.recipe, "resized": resized}, None)
    if gone := {item.person for item in new.items} & zoo.forgotten_persons:
        raise ZooError(
            f"{folder}: holds LoRAs of {min(gone)}, who was forgotten; run `lorasynth zoo forget` there, too"
        )
    have, by_id = {item.id for item in new.items}, {item.id: item for item in zoo.items}
    for shard in sorted({item.shard for item in zoo.items if item.id not in have}):
        rows = [row for row in zoo.rows(shard) if row[0] not in have]
        vectors, errors, _ = bring_all(zoo.layout, torch.stack([vector for _, vector, _ in rows]), layout)
        items = [by_id[id] for id, _, _ in rows]
        if not torch.isfinite(vectors.half()).all():
            raise ZooError(
                f"{shard}: expected weights that fit float16, got {vectors.abs().max():.3g}; leave its LoRA out"
            )
        new.append(
            free_shard_name(shard, new.shard_names), [item.person for item in items], [item.split for item in items], vectors,
            torch.stack([embeddings for _, _, embeddings in rows]), items[0].source, items[0].licence,
            ids=[item.id for item in items],
            relative_errors=[_together(item, error) for item, error in zip(items, errors, strict=True)],
            marks=[{mark: getattr(item, mark) for mark in MARKS} for item in items],
        )  # fmt: skip
        report(f"{shard}: {len(rows)} LoRAs at rank {rank}")
    new = Zoo.open(new.folder)
    all_errors = [item.relative_error for item in new.items]
    return new, {"mean": sum(all_errors) / max(len(all_errors), 1), "largest": max(all_errors, default=0.0)}


def _together(item: Item, error: float) -> float:
    """Both errors since the LoRA was made: what a second truncation takes away is orthogonal to what the first one took."""
    return (item.relative_error**2 + (1 - item.relative_error**2) * error**2) ** 0.5
