"""Verbs for LoRA files, anybody's: inspect, convert, import-legacy."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from lorasynth.cli.common import (
    Device,
    Force,
    ForceBase,
    Format,
    Json,
    UnetOnly,
    check_json,
    check_lora,
    emit,
    say,
    setup,
    setup_without_torch,
)
from lorasynth.errors import UsageError


class Dtype(StrEnum):
    """Types of the numbers in a LoRA file."""

    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


def inspect(
    file: Annotated[Path, typer.Argument(help="A LoRA file or PEFT folder.")],
    unet_only: UnetOnly = False,
    force_base: ForceBase = None,
    json: Json = None,
    force: Force = False,
) -> None:
    """Read any LoRA through the strict gate: format, rank, modules, norm, metadata, and all faults, of a bad file too.

    Example: lorasynth inspect me.safetensors
    """
    check_json(json, file, force=force)
    setup_without_torch()
    from lorasynth.lora.gate import inspect_file

    seen = inspect_file(file, unet_only=unet_only, base=force_base)
    emit(seen.to_dict(), json)
    seen.require_ok()


def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A LoRA file or PEFT folder.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="The file to write; for peft, the folder.")],
    format: Annotated[Format, typer.Option(help="The format to write; kohya is read by every tool.")] = Format.kohya,
    dtype: Annotated[
        Dtype, typer.Option(help="Of the numbers in the new file; float32 loses nothing.")
    ] = Dtype.float32,
    unet_only: UnetOnly = False,
    force_base: ForceBase = None,
    allow_zero: Annotated[bool, typer.Option("--allow-zero", help="Convert a LoRA that does nothing, too.")] = False,
    device: Device = "cpu",
    json: Json = None,
    force: Force = False,
) -> None:
    """Convert a LoRA between formats, the scaling folded in, and say what it cost.

    squared_relative_error is ``‖ΔW - ΔW'‖² / ‖ΔW‖²`` of the update ΔW' read back from what is written. 0 is exact, float16
    costs about 1e-7, bfloat16 about 6e-6, and 1 means that nothing is left. proved_by names the reader, of
    diffusers or PEFT, that took every module for the base's model. not_proved says why none could be asked.

    Example: lorasynth convert adapter me.safetensors --format kohya
    """
    check_json(json, source, target, force=force)
    check_lora(target, format, force=force)
    setup(device)
    import torch

    from lorasynth.lora.conversion import read_back
    from lorasynth.lora.writing import FileLoRA

    lora, seen = FileLoRA.read(source, unet_only=unet_only, base=force_base)
    numbers = getattr(torch, dtype.value)
    if (norm := lora.norm()) == 0 and not allow_zero:
        raise UsageError(f"{source}: expected an update, got zero everywhere; check its training, or give --allow-zero")
    try:
        error, proof = read_back(lora, format.value, numbers)
    except UsageError as reason:
        raise UsageError(f"{source}: {reason}") from None
    lora.save(target, format.value, numbers, force=force)
    taken = f"proved by {proof.by}" if proof.by else f"not proved: {proof.why_not}"
    say(f"{target}: {len(lora.layout.modules)} modules, from {seen.format} to {format.value}; {taken}")
    record = {
        "in": str(source), "out": str(target), "format": {"from": seen.format, "to": format.value}, "base": lora.layout.base,
        "modules": len(lora.layout.modules), "rank": seen.rank, "norm": norm, "dtype": dtype.value,
        "squared_relative_error": error, "proved_by": proof.by or None, "not_proved": proof.why_not or None,
        "faults": [fault.to_dict() for fault in seen.faults],
    }  # fmt: skip
    emit(record, json)


def import_legacy(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A PyTorch file of tensors: .pt, .bin or .ckpt.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="The .safetensors file to write.")],
    json: Json = None,
    force: Force = False,
) -> None:
    """Write a pickled LoRA, or other tensors, as safetensors: read once, in a process with little memory and time.

    No other verb opens a pickle. Tensors keep their names and types. A LoRA has to pass the gate. PEFT's adapter_model.bin goes
    to adapter_model.safetensors in its own folder, where its configuration is.

    Example: lorasynth import-legacy old.pt new.safetensors
    """
    check_json(json, source, target, force=force)
    setup()
    from lorasynth.lora.legacy import import_legacy as run

    record = run(source, target, force=force)
    say(f"{target}: {record['num_tensors']} tensors, {'a LoRA' if record['lora'] else 'no LoRA'}")
    emit({"in": str(source), "out": str(target), **record}, json)
