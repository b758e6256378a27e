"""Options that all verbs share which take photographs and a base."""

from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from lorasynth.subjects.source import PhotoSource


class Masks(StrEnum):
    """What is done with masks."""

    use = "use"
    ignore = "ignore"


class Alike(StrEnum):
    """What is done with subjects that look like one."""

    leave_out = "leave-out"
    keep = "keep"


ALIKE = "What is done with subjects that look like one: leave all but one out, or keep them, where they are different."


class Precision(StrEnum):
    """Of a base's weights."""

    fp32 = "fp32"
    bf16 = "bf16"


@dataclass(frozen=True, kw_only=True)
class PhotoOptions:
    """What a user gives of photographs and the base that learns from them. Each field is an option of its name."""

    data: Annotated[
        str | None,
        typer.Option(help="Photographs: a folder, .zip or hf://datasets/OWNER/NAME; docs/your-pictures.md."),
    ] = None
    base: Annotated[
        str | None,
        typer.Option(help="With --data: the base, a diffusers folder, .safetensors checkpoint, hub id or world."),
    ] = None
    encoder: Annotated[
        str | None, typer.Option(help="With --data: what embeds photos; docs/reference/real-faces.md.")
    ] = None
    instance_prompt: Annotated[
        str | None,
        typer.Option(help="With --data: the caption of photos that have none; 'a photo of sks person' by default."),
    ] = None
    prompts: Annotated[
        Path | None,
        typer.Option(help="With --data: what pictures are asked for, a prompt a line, [trigger] for the subject."),
    ] = None
    masks: Annotated[Masks, typer.Option(help="With --data: whether masks say where the loss looks.")] = Masks.use
    alike: Annotated[Alike, typer.Option(help=f"With --data: {ALIKE[0].lower()}{ALIKE[1:]}")] = Alike.leave_out
    resolution: Annotated[
        int | None, typer.Option(min=8, max=4_096, help="With --data: pixels a side; default those of the base.")
    ] = None
    precision: Annotated[Precision, typer.Option(help="With --data: of the base's weights.")] = Precision.fp32
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="With --data: less memory, about a third slower.")
    ] = False

    def source(self, usual_base: str = "", **more: Any) -> "PhotoSource | None":
        """What is to be opened. None where there is no --data.

        Args:
            usual_base: where none is named; "" if a `Workspace` knows it.
            **more: fields of `PhotoSource` that other options say; each None or "" where it was not given.

        Raises:
            UsageError: --data without --encoder, or an option of --data without it.
        """
        from lorasynth.errors import UsageError

        if self.data is None:
            if given := next((f.name for f in fields(self) if getattr(self, f.name) != f.default), None):
                option = f"--{given.replace('_', '-')}"
                raise UsageError(f"expected {option} with --data, got it alone; leave it out, or name your photographs")
            return None
        if self.encoder is None:
            raise UsageError("expected --data with photographs and --encoder, got no --encoder; give both")
        from lorasynth.subjects.source import PhotoSource  # which imports torch

        return PhotoSource(
            data=self.data, base=self.base or usual_base, encoder=self.encoder, instance_prompt=self.instance_prompt,
            prompts=None if self.prompts is None else read_prompts(self.prompts), masks=self.masks == Masks.use,
            keep_alike=self.alike == Alike.keep,
            resolution=self.resolution, precision=self.precision.value,
            gradient_checkpointing=self.gradient_checkpointing, **more,
        )  # fmt: skip


def read_prompts(path: Path) -> tuple[str, ...]:
    """The prompts of a text file, a line each. Empty lines are none.

    Raises:
        UsageError: it holds none, or cannot be read.
    """
    from lorasynth.errors import UsageError

    try:
        lines = tuple(line.strip() for line in path.read_text().splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{path}: expected a text file of prompts ({error}); give a file of one prompt a line"
        ) from None
    if not lines:
        raise UsageError(f"{path}: expected a prompt a line, got an empty file; write some")
    return lines
