"""Verbs that make a LoRA file from LoRA files: resize, merge."""

from dataclasses import dataclass
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
from lorasynth.cli.options import expanded
from lorasynth.errors import UsageError

if TYPE_CHECKING:
    from lorasynth.lora.factors import LoRA


_NOTHING = 1e-6
"""Norm of a sum, relative to its parts, that is their rounding."""


@dataclass(frozen=True, kw_only=True)
class RankOptions:
    """One of three ways to choose a rank, or none."""

    rank: Annotated[int | None, typer.Option(min=1, help="Of every module; a narrower layer keeps its width.")] = None
    keep: Annotated[float | None, typer.Option(help="Part of ‖ΔW‖² to keep, 0 to 1: the smallest rank that does.")] = (
        None
    )
    error: Annotated[
        float | None, typer.Option(help="Relative error ‖ΔW - ΔW'‖ / ‖ΔW‖ to stay below, instead of --keep.")
    ] = None

    @property
    def part_to_keep(self) -> float | None:
        """--keep, or what --error asks to keep."""
        return self.keep if self.error is None else 1 - self.error**2

    @property
    def given(self) -> bool:
        """Whether a rank is chosen at all."""
        return self.rank is not None or self.part_to_keep is not None

    def check(self) -> None:
        """Refuse what is no choice.

        Raises:
            UsageError: more than one of three ways to choose the rank, or a number out of bounds.
        """
        if sum(option is not None for option in (self.rank, self.keep, self.error)) > 1:
            raise UsageError("expected one of --rank, --keep and --error, got several; each of them decides the rank")
        if self.keep is not None and not 0 < self.keep <= 1:
            raise UsageError(f"--keep: expected a part of ‖ΔW‖² above 0 and up to 1, got {self.keep:g}")
        if self.error is not None and not 0 <= self.error < 1:
            raise UsageError(f"--error: expected a relative error from 0 to below 1, got {self.error:g}")

    def apply(self, lora: "LoRA") -> "tuple[LoRA, float]":
        """A LoRA at the rank, and the relative error of that."""
        from lorasynth.canonical.resize import resize as to_rank

        return to_rank(lora, rank=self.rank, keep=self.part_to_keep)


@dataclass(frozen=True, kw_only=True)
class NewFileOptions:
    """How LoRAs are read, and how the new one is written."""

    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write; for peft, the folder.")]
    format: Annotated[
        Format | None, typer.Option(help="The format to write. Default: that of the (first) file; kohya for any other.")
    ] = None
    dtype: Annotated[Dtype, typer.Option(help="Of the numbers in the new file.")] = Dtype.float16
    unet_only: UnetOnly = False
    force_base: ForceBase = None
    device: Device = "cpu"
    json: Json = None
    force: Force = False

    def prepare(self, *sources: Path) -> None:
        """Fail before the work if its results could not be written. Then choose the device."""
        check_json(self.json, *sources, self.output, force=self.force)
        check_lora(self.output, self.format or _kind(sources[0]), force=self.force)
        setup(self.device)

    def read(self, source: Path) -> "tuple[LoRA, Format]":
        """A LoRA, and the format to write it in: its own, or kohya's for a file of a form that is not written."""
        from lorasynth.lora.factors import LoRA
        from lorasynth.lora.gate import read_flat

        layout, vector, metadata, seen = read_flat(source, unet_only=self.unet_only, base=self.force_base)
        own = Format.diffusers if seen.format == Format.diffusers else _kind(source)
        lora = LoRA(layout, vector, metadata, seen.own_format)
        lora.require_nameable((self.format or own).value)
        return lora, self.format or own

    def write(self, lora: "LoRA", format: Format, relative_error: float, record: dict[str, Any]) -> None:
        """The new file, a line that says so, and the results."""
        import torch

        if record["norm"] == 0:
            raise UsageError(f"{self.output}: expected an update, got zero everywhere; check the file")
        lora.save(self.output, format.value, getattr(torch, self.dtype.value), force=self.force)
        modules, rank = len(lora.layout.modules), max(m.rank for m in lora.layout.modules)
        say(f"{self.output}: {modules} modules, rank {rank}, relative error {relative_error:.3g}")
        out = {
            "relative_error": relative_error, "out": str(self.output), "format": format.value, "base": lora.layout.base,
            "modules": modules, "rank": rank, "dtype": self.dtype.value,
        }  # fmt: skip
        emit(record | out, self.json)


@expanded
def resize(
    file: Annotated[Path, typer.Argument(help="A LoRA file or PEFT folder, of one rank or of several.")],
    rank: RankOptions,
    new: NewFileOptions,
) -> None:
    """Write a LoRA at another rank: for each module the nearest update of that rank. The new file has one rank.

    Example: lorasynth resize big.safetensors --keep 0.95 -o small.safetensors
    """
    rank.check()
    if not rank.given:
        raise UsageError("expected --rank R, --keep PART or --error E, got none; --keep 0.95 is a common choice")
    new.prepare(file)
    lora, format = new.read(file)
    resized, lost = rank.apply(lora)
    new.write(resized, format, lost, {"in": str(file), "norm": lora.norm()})


@expanded
def merge(
    files: Annotated[list[Path], typer.Argument(help="LoRA files or PEFT folders for one base model; two or more.")],
    *,
    weights: Annotated[str | None, typer.Option(help="One for each file, as 0.7,0.3. Default: 1 for each.")] = None,
    rank: RankOptions,
    new: NewFileOptions,
) -> None:
    """Write the weighted sum of LoRAs as one LoRA. Without a rank it is exact, and the ranks add up.

    Example: lorasynth merge face.safetensors style.safetensors --weights 1,0.6 --rank 32 -o both.safetensors
    """
    factors = _weights(weights, len(files))
    rank.check()
    new.prepare(*files)
    read = [new.read(file) for file in files]
    from lorasynth.canonical.resize import merge as add

    whole = add([lora for lora, _ in read], factors)
    if whole.norm() <= _NOTHING * sum(
        abs(factor) * lora.norm() for factor, (lora, _) in zip(factors, read, strict=True)
    ):
        raise UsageError(f"{new.output}: expected an update, got zero everywhere; check the files and the weights")
    merged, lost = rank.apply(whole) if rank.given else (whole, 0.0)
    new.write(merged, read[0][1], lost, {"in": [str(f) for f in files], "weights": factors, "norm": whole.norm()})


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
