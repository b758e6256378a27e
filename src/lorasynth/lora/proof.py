"""Whether the program that a file was written for takes all of it: told by that program's own reader, not by ours."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from lorasynth.errors import UsageError
from lorasynth.lora import bases
from lorasynth.lora.adapter import Adapter
from lorasynth.lora.effect import update_inner, update_norm2
from lorasynth.lora.formats.peft import PREFIX
from lorasynth.lora.products import Pairs


class Proof(NamedTuple):
    """What was found.

    Attributes:
        by: the reader that took every module; "" if the file is not proved.
        error: ``‖ΔW - ΔW'‖² / ‖ΔW‖²`` of what that reader takes; None if not proved.
        why_not: why nothing can be proved; "" if it is.
    """

    by: str
    error: float | None
    why_not: str


def prove(lora: Adapter, tensors: dict[str, Tensor], format: str) -> Proof:
    """Give tensors that are to be written to their program's reader, and hold what it makes of them against the base's model.

    A file goes through diffusers' reader for the base; PEFT's tensors have the names of the model itself. What comes out must be
    modules of the base's table, which is diffusers' model on the meta device: all of them, in their shapes.

    Raises:
        UsageError: that reader does not take it, or takes another LoRA.
    """
    layout = lora.layout
    models = [m for m in bases.fitting(layout.shapes) if layout.base in ("", m.base)]
    if not models:
        return Proof("", None, f"no table has the modules of {layout.base or 'this base'}")
    base = models[0].base
    try:
        by, pairs = _as_peft(tensors) if format == "peft" else _as_diffusers(base, tensors)
    except LookupError as error:
        return Proof("", None, str(error.args[0]))
    except Exception as error:  # the readers raise whatever comes
        raise UsageError(f"expected tensors that the reader for {base} takes, got {error!r}") from None
    # Parts of a fused layer that the LoRA leaves alone come back as zeros.
    pairs = {name: (A, B) for name, (A, B) in pairs.items() if name in layout.shapes or (A.any() and B.any())}
    if missing := sorted(layout.shapes.keys() ^ pairs.keys()):
        raise UsageError(
            f"{missing[0]}: expected {by} to take the {len(layout.modules)} modules, got {len(missing)} that differ; "
            "choose another format"
        )
    for name, (A, B) in pairs.items():
        found = (A[0].numel(), len(B), (A.shape[2], A.shape[3]) if A.dim() == 4 else None)
        if found != models[0].modules[name]:
            raise UsageError(
                f"{name}: expected {models[0].modules[name]} of {base}'s model, got {found}; choose another format"
            )
    return Proof(by, squared_relative_error(lora, ((name, *pair) for name, pair in pairs.items())), "")


def _as_diffusers(base: str, tensors: dict[str, Tensor]) -> tuple[str, Pairs]:
    """The reader of diffusers and what it makes of a file.

    Raises:
        LookupError: diffusers has none for this base.
    """
    from diffusers import __version__

    from lorasynth.lora import base_readers

    if (loader := base_readers.loader_of(base)) is None:
        raise LookupError(f"diffusers {__version__} has no reader for LoRAs of {base}")
    return f"diffusers {__version__}, {loader.__name__}", _pairs(base_readers.read_as_diffusers(base, tensors))


def _as_peft(tensors: dict[str, Tensor]) -> tuple[str, Pairs]:
    """What PEFT makes of an adapter: it keeps names but for its prefix (`peft.utils.set_peft_model_state_dict`)."""
    from peft import __version__

    return f"PEFT {__version__}", _pairs({key.removeprefix(PREFIX): tensor for key, tensor in tensors.items()})


def _pairs(tensors: dict[str, Tensor]) -> Pairs:
    """``<module>.lora_A.weight`` and ``….lora_B.weight`` -> module -> both. Other keys are nobody's."""
    names = [key.removesuffix(".lora_A.weight") for key in tensors if key.endswith(".lora_A.weight")]
    return {name: (tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"]) for name in names}


def squared_relative_error(lora: Adapter, found: Iterable[tuple[str, Tensor, Tensor]]) -> float:
    """``‖ΔW - ΔW'‖² / ‖ΔW‖²`` of all updates together, in float64.

    Args:
        lora: the LoRA.
        found: its modules' names with lora_A and lora_B of the other one, one at a time.
    """
    total = lost = 0.0
    for name, A_new, B_new in found:
        A, B = lora.factors(name)
        A_new, B_new = A_new.flatten(1).float(), B_new.flatten(1).float()
        ours, theirs = (A.numpy(), B.numpy()), (A_new.numpy(), B_new.numpy())
        total += (norm2 := update_norm2(*ours))
        if not (torch.equal(A, A_new) and torch.equal(B, B_new)):  # else nothing is lost, where sums would round
            lost += max(norm2 - 2 * update_inner(*ours, *theirs) + update_norm2(*theirs), 0.0)
    return lost / total if total else lost
