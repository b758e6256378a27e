"""Items of a zoo as ordinary LoRA files, which every tool of the field reads."""

import re
from collections.abc import Sequence
from pathlib import Path

import torch

from lorasynth.errors import OutputExistsError, UsageError, ZooError
from lorasynth.lora.factors import LoRA
from lorasynth.storage.outputs import require_new_output
from lorasynth.zoo.importing.candidates import MARKS
from lorasynth.zoo.manifest import Item
from lorasynth.zoo.shards import read_shard, row_hash
from lorasynth.zoo.store import Zoo


def export_items(
    zoo: Zoo, ids: Sequence[str], folder: str | Path, format: str = "kohya", *, force: bool = False
) -> list[Path]:
    """Write items as LoRA files: ``ID.safetensors``, or the PEFT folder ``ID``.

    In float16, as they are stored, so that nothing is lost. A header says the item's licence and source, and whether its LoRA was
    said to be synthetic and by whose consent. It holds nothing else of the person.

    Args:
        zoo: where they are.
        ids: of the items.
        folder: where to; made where there is none.
        format: "kohya", "diffusers" or "peft".
        force: replace files that are there.

    Returns:
        The files, or folders, in the order of the ids.

    Raises:
        ZooError: there is no such item, or it is damaged; nothing was written.
        UsageError: two ids are one file's name, a format cannot say such a LoRA, or the folder cannot be written.
        OutputExistsError: a file is there and ``force`` is not given; nothing was written.
    """
    by_id, folder = {item.id: item for item in zoo.items}, Path(folder)
    if missing := [id for id in ids if id not in by_id]:
        raise ZooError(f"{zoo.folder}: expected ids of its {len(zoo)} items, got {missing[0]!r}; see manifest.jsonl")
    ending = "" if format == "peft" else ".safetensors"
    targets = [folder / (re.sub(r"[^A-Za-z0-9_.-]|^[.]", "-", id) + ending) for id in ids]
    if len(set(targets)) < len(targets):
        raise UsageError(f"expected ids that are different file names, got {', '.join(ids)}; export them one by one")
    for target in targets if folder.is_dir() else ():
        if not target.is_dir() or format != "peft":
            require_new_output(target, force=force)
        elif any(target.iterdir()) and not force:
            raise OutputExistsError(f"{target}: is not empty; choose another folder or give --force")
    loras = [item_lora(zoo, by_id[id]) for id in ids]
    if not folder.is_dir():
        require_new_output(folder).mkdir()
    return [lora.save(target, format, torch.float16, force=force) for lora, target in zip(loras, targets, strict=True)]


def item_lora(zoo: Zoo, item: Item) -> LoRA:
    """One item as a LoRA, its bytes held against its sha256.

    Raises:
        ZooError: they are not as the manifest says.
    """
    try:
        shard = read_shard(zoo.folder, item.shard, zoo.layout.num_parameters)
    except ZooError as error:
        raise ZooError(f"{zoo.folder} {item.shard}: {error}; run `lorasynth zoo repair`") from None
    if item.row >= shard.num_rows or row_hash(shard.vector_bytes(item.row)) != item.sha256:
        raise ZooError(f"{item.id}: expected the LoRA that the manifest says, got another; run `lorasynth zoo repair`")
    metadata = {"lorasynth.item": item.id, "lorasynth.source": item.source, "lorasynth.licence": item.licence}
    metadata |= {f"lorasynth.{mark}": said for mark in MARKS if (said := getattr(item, mark))}
    return LoRA(zoo.layout, shard.take([item.row])[0][0].float(), metadata)
