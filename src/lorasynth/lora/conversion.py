"""A LoRA in another format: what a reader of the new file will find, before anything is written."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lorasynth.errors import LayoutError, LoRAFileError, UsageError
from lorasynth.lora import formats
from lorasynth.lora.configuration import CONFIG_KEY
from lorasynth.lora.gate import read_stored
from lorasynth.lora.layout import Layout
from lorasynth.lora.products import update_inner
from lorasynth.lora.proof import Proof, prove
from lorasynth.lora.scaling import Stored
from lorasynth.storage.arrays import BFLOAT16, Array, float32

if TYPE_CHECKING:
    from lorasynth.lora.factors import LoRA


def read_back(lora: "LoRA", format: str, dtype: torch.dtype) -> tuple[float, Proof]:
    """What a file of this format and type will give its readers, ours and the program's that it is for.

    The tensors to be written go through both from memory, and are compared module by module: neither a file nor a second vector
    is made.

    Returns:
        ``‖ΔW - ΔW'‖² / ‖ΔW‖²`` of the update ΔW' that they take, the larger of the two; 0 of no update. And the proof.

    Raises:
        UsageError: a number too large for the type, or the format cannot say this LoRA, or says another one.
    """
    lora.require_nameable(format)
    lora.require_fits(dtype)
    tensors, fields = formats.WRITERS[format](lora, dtype)
    proof = prove(lora, tensors, format)
    extra = {CONFIG_KEY: fields.pop(CONFIG_KEY)} if format == "peft" else {}
    try:
        stored = read_stored(_arrays(tensors), {**lora.header(), **fields}, extra)
        found = Layout.from_factors({name: (A, B) for name, (A, B, _) in stored.items()}, base=lora.layout.base)
        if differences := lora.layout.diff(found):
            raise LayoutError("; ".join(differences[:3]))
    except (LayoutError, LoRAFileError) as error:
        others = " or ".join(f"--format {name}" for name in formats.WRITERS if name != format)
        reason = str(error).removeprefix("file: ").partition(". Fix")[0]
        raise UsageError(f"cannot be said in format {format!r}: {reason}. Choose another: {others}") from None
    return max(_error(lora, stored), proof.error or 0.0), proof


def _arrays(tensors: dict[str, Tensor]) -> dict[str, Array]:
    """The same numbers in numpy, in their own memory."""
    return {
        key: t.view(torch.uint16).numpy().view(BFLOAT16) if t.dtype == torch.bfloat16 else t.numpy()
        for key, t in tensors.items()
    }


def _error(lora: "LoRA", stored: Stored) -> float:
    """The squared relative error of all modules together, in float64."""
    norm2 = cross = other = 0.0
    for name, (A_1RI, B_1OR) in lora.layout.split(lora.vector[None]).items():
        A, B, scaling = stored[name]
        back_A, back_B = (torch.from_numpy(float32(part)).flatten(1)[None] for part in (A, B))
        back = back_A, back_B * scaling
        norm2 += float(update_inner(A_1RI, B_1OR, A_1RI, B_1OR))
        cross += float(update_inner(A_1RI, B_1OR, *back))
        other += float(update_inner(*back, *back))
    return max(norm2 - 2 * cross + other, 0.0) / max(norm2, 1e-300)
