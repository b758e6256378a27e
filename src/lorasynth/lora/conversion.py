"""A LoRA in another format: what a reader of the new file will find, before anything is written."""

from collections.abc import Iterator

import torch
from torch import Tensor

from lorasynth.errors import LayoutError, LoRAFileError, UsageError
from lorasynth.lora import formats
from lorasynth.lora.adapter import Adapter
from lorasynth.lora.configuration import CONFIG_KEY
from lorasynth.lora.gate import read_stored
from lorasynth.lora.layout import Layout
from lorasynth.lora.proof import Proof, prove, squared_relative_error
from lorasynth.lora.scaling import Stored
from lorasynth.storage.arrays import as_array, as_tensor


def read_back(lora: Adapter, format: str, dtype: torch.dtype) -> tuple[float, Proof]:
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
        stored = read_stored(
            {key: as_array(tensor) for key, tensor in tensors.items()}, {**lora.header(), **fields}, extra
        )
        found = Layout.from_factors({name: (A, B) for name, (A, B, _) in stored.items()}, base=lora.layout.base)
        if differences := lora.layout.diff(found):
            raise LayoutError("; ".join(differences[:3]))
    except (LayoutError, LoRAFileError) as error:
        others = " or ".join(f"--format {name}" for name in formats.WRITERS if name != format)
        fix = f"Choose another: {others}"
        if isinstance(error, LoRAFileError) and error.code == "base":
            fix = "Name the base model that has these modules with --force-base"
        reason = str(error).removeprefix("file: ").partition(". Fix")[0]
        raise UsageError(f"cannot be said in format {format!r}: {reason}. {fix}") from None
    return max(squared_relative_error(lora, _read(stored)), proof.error or 0.0), proof


def _read(stored: Stored) -> Iterator[tuple[str, Tensor, Tensor]]:
    """What our reader makes of each module, one at a time."""
    for name, (A, B, scaling) in stored.items():
        yield name, as_tensor(A), as_tensor(B).float() * scaling
