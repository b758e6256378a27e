"""What a LoRA's header says of it: whether its tensors agree, and what of it still holds in a new file."""

import re
from collections.abc import Mapping
from typing import Any

from lorasynth.lora.identity import stated_bases
from lorasynth.lora.layout import Layout
from lorasynth.storage.faults import Fault, note, refuse

# Of kohya's fields these describe the old file's tensors. Hashes are of its bytes; those of base models (ss_sd_model_hash) stay.
_OF_THE_OLD_FILE = re.compile(r"sshs_.*|modelspec\.(.*_)?(hash|sha)_?.*|ss_network_(module|dim|alpha|args)")
_KEPT = ("lorasynth.", "modelspec.", "ss_")


def still_true(metadata: Mapping[str, str], base: str) -> dict[str, str]:
    """What a new file of the same LoRA can say, too: provenance, training, trigger words, licence.

    Args:
        metadata: of the file that it was read from.
        base: the base model that the new file is for, "" if unknown; statements of another are left out.
    """
    return {
        key: value
        for key, value in metadata.items()
        if key.startswith(_KEPT)
        and not _OF_THE_OLD_FILE.fullmatch(key)
        and (not base or all(said in ("", base) for *_, said in stated_bases({key: value})))
    }


def check_statements(layout: Layout, seen: Mapping[str, Any]) -> list[Fault]:
    """Where the header says otherwise than the tensors, which are what counts.

    Args:
        layout: as read.
        seen: ``metadata``, and ``rank`` and ``alphas`` of the file's own tensors.
    """
    notes, fix = [], "none is needed for the tensors, which count; the header is of other ones"
    metadata, rank = seen["metadata"], seen["rank"]
    ranks = rank if isinstance(rank, list) else [rank]
    # NOTE: kohya's options give blocks and convolutions ranks of their own, and write the general one all the same; LyCORIS has
    # other kinds of adapter (algo).
    if not re.search(r"dim|alpha|algo", metadata.get("ss_network_args", "")):
        for key, found in (("ss_network_dim", ranks), ("ss_network_alpha", seen["alphas"] or ranks)):
            stated = metadata.get(key, "")
            if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", stated) and not _fits(float(stated), set(map(float, found))):
                notes.append(note("stated", key, f"{sorted(found)}, as the tensors are", stated, fix))
    stated = metadata.get("lorasynth.layout")
    if stated and stated != layout.of_base(metadata.get("lorasynth.base", layout.base)).hash:
        notes.append(note("layout", "lorasynth.layout", "its layout", f"modules of another than {stated}", fix))
    return notes


def _fits(stated: float, found: set[float]) -> bool:
    """Whether a number can be the general one of those found: one of them, or that of the three or four parts of fused layers."""
    return bool({stated, 3 * stated, 4 * stated} & found)


def check_base_name(metadata: dict[str, str]) -> None:
    """The name of the base goes into messages and layouts."""
    base = metadata.get("lorasynth.base", "")
    if not base.isprintable() or len(base) > 200:
        raise refuse(
            "bad-metadata",
            "lorasynth.base",
            "a name of at most 200 characters",
            base,
            "save it again, with the program that made it",
        )
