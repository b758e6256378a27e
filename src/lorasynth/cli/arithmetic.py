"""Verbs that make a LoRA file from LoRA files: resize, merge."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
)
from lorasynth.cli.files import Dtype
from lorasynth.errors import UsageError

if TYPE_CHECKING:
    from lorasynth.lora.factors import LoRA

Output = Annotated[Path, typer.Option("--output", "-o", help="The file to write; for peft, the folder.")]
OutputFormat = Annotated[
    Format | None, typer.Option(help="The format to write. Default: that of the (first) file; kohya for any other.")
]
OutputDtype = Annotated[Dtype, typer.Option(help="Of the numbers in the new file.")]
Rank = Annotated[int | None, typer.Option(min=1, help="Of every module; a narrower layer keeps its width.")]
Keep = Annotated[float | None, typer.Option(help="Part of ‖ΔW‖² to keep, 0 to 1: the smallest rank that does.")]
Error = Annotated[float | None, typer.Option(help="Relative error ‖ΔW - ΔW'‖ / ‖ΔW‖ to stay below, instead of --keep.")]


def resize(
    file: Annotated[Path, typer.Argument(help="A LoRA file or PEFT folder, of one rank or of several.")],
    output: Output,
    rank: Rank = None,
    keep: Keep = None,
    error: Error = None,
    format: OutputFormat = None,
    dtype: OutputDtype = Dtype.float16,
    unet_only: UnetOnly = False,
    force_base: ForceBase = None,
    device: Device = "cpu",
    json: Json = None,
    force: Force = False,
) -> None:
    """Write a LoRA at another rank: for each module the nearest update of that rank. The new file has one rank.

    Example: lorasynth resize big.safetensors --keep 0.95 -o small.safetensors
    """
    kept = _part_to_keep(rank, keep, error)
    if rank is None and kept is None:
        raise UsageError("expected --rank R, --keep PART or --error E, got none; --keep 0.95 is a common choice")
    check_json(json, file, output, force=force)
    check_lora(output, format or _kind(file), force=force)
    setup(device)
    lora, found = _read(file, unet_only, force_base)
    from lorasynth.canonical.resize import resize as to_rank

    resized, lost = to_rank(lora, rank=rank, keep=kept)
    _write(
        resized,
        output,
        format or found,
        dtype,
        {"in": str(file), "norm": lora.norm(), "relative_error": lost},
        json,
        force,
    )


def merge(
    files: Annotated[list[Path], typer.Argument(help="LoRA files or PEFT folders for one base model; two or more.")],
    output: Output,
    weights: Annotated[str | None, typer.Option(help="One for each file, as 0.7,0.3. Default: 1 for each.")] = None,
    rank: Rank = None,
    keep: Keep = None,
    error: Error = None,
    format: OutputFormat = None,
    dtype: OutputDtype = Dtype.float16,
    unet_only: UnetOnly = False,
    force_base: ForceBase = None,
    device: Device = "cpu",
    json: Json = None,
    force: Force = False,
) -> None:
    """Write the weighted sum of LoRAs as one LoRA. Without a rank it is exact, and the ranks add up.

    Example: lorasynth merge face.safetensors style.safetensors --weights 1,0.6 --rank 32 -o both.safetensors
    """
    factors = _weights(weights, len(files))
    kept = _part_to_keep(rank, keep, error)
    check_json(json, *files, output, force=force)
    check_lora(output, format or _kind(files[0]), force=force)
    setup(device)
    read = [_read(file, unet_only, force_base) for file in files]
    from lorasynth.canonical.resize import merge as add
    from lorasynth.canonical.resize import resize as to_rank

    merged = whole = add([lora for lora, _ in read], factors)
    lost = 0.0
    if rank is not None or kept is not None:
        merged, lost = to_rank(whole, rank=rank, keep=kept)
    record = {"in": [str(f) for f in files], "weights": factors, "norm": whole.norm(), "relative_error": lost}
    _write(merged, output, format or read[0][1], dtype, record, json, force)


def _part_to_keep(rank: int | None, keep: float | None, error: float | None) -> float | None:
    """--keep, or what --error asks to keep.

    Raises:
        UsageError: more than one of three ways to choose the rank, or a number out of bounds.
    """
    if sum(option is not None for option in (rank, keep, error)) > 1:
        raise UsageError("expected one of --rank, --keep and --error, got several; each of them decides the rank")
    if keep is not None and not 0 < keep <= 1:
        raise UsageError(f"--keep: expected a part of ‖ΔW‖² above 0 and up to 1, got {keep:g}")
    if error is not None and not 0 <= error < 1:
        raise UsageError(f"--error: expected a relative error from 0 to below 1, got {error:g}")
    return keep if error is None else 1 - error**2


def _weights(said: str | None, count: int) -> list[float]:
    if count < 2:
        raise UsageError(f"expected two files or more to merge, got {count}")
    if said is None:
        return [1.0] * count
    try:
        weights = [float(part) for part in said.split(",")]
    except ValueError:
        raise UsageError(f"--weights: expected numbers with commas between, as 0.7,0.3, got {said!r}") from None
    if len(weights) != count:
        raise UsageError(f"--weights: expected {count} numbers, one for each file, got {len(weights)}")
    return weights


def _kind(source: Path) -> Format:
    """Whether the new LoRA is a file or, as its source, PEFT's folder."""
    return Format.peft if source.is_dir() else Format.kohya


def _read(source: Path, unet_only: bool, force_base: str | None) -> "tuple[LoRA, Format]":
    """A LoRA, and the format to write it in: its own, or kohya's for a file of a form that is not written."""
    from lorasynth.lora.factors import LoRA
    from lorasynth.lora.gate import read_flat

    layout, vector, metadata, seen = read_flat(source, unet_only=unet_only, base=force_base)
    lora = LoRA(layout, vector, metadata)
    return lora, Format.diffusers if seen.format == Format.diffusers else _kind(source)


def _write(
    lora: "LoRA", output: Path, format: Format, dtype: Dtype, record: dict[str, Any], json: Path | None, force: bool
) -> None:
    import torch

    lora.save(output, format.value, getattr(torch, dtype.value), force=force)
    rank = max(m.rank for m in lora.layout.modules)
    say(f"{output}: {len(lora.layout.modules)} modules, rank {rank}, relative error {record['relative_error']:.3g}")
    out = {"out": str(output), "format": format.value, "base": lora.layout.base, "modules": len(lora.layout.modules)}
    emit(record | out | {"rank": rank, "dtype": dtype.value}, json)
