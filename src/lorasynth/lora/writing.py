"""What is written as a LoRA file."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from lorasynth.errors import UsageError
from lorasynth.lora import formats
from lorasynth.lora.adapter import Adapter
from lorasynth.lora.gate import read_file
from lorasynth.lora.inspection import Inspection
from lorasynth.lora.layout import Layout
from lorasynth.lora.scaling import Stored
from lorasynth.storage.arrays import as_tensor
from lorasynth.storage.files import write_large_tensors
from lorasynth.storage.outputs import require_new_lora


class Writable(Adapter):
    """An adapter that is saved in any format of the field."""

    def save(
        self,
        path: str | Path,
        format: str = "kohya",
        dtype: torch.dtype = torch.float32,
        metadata: Mapping[str, str] | None = None,
        *,
        force: bool = False,
    ) -> Path:
        """Write the adapter as one file (kohya, diffusers) or a folder (peft). alpha is the rank: the scaling is in lora_B.

        The header gets what of the LoRA's own metadata still holds, base and layout hash, and ``metadata``.

        Args:
            path: where to; ``.safetensors`` for a file.
            format: "kohya", "diffusers" or "peft"; "kohya" is read by diffusers, ComfyUI, A1111/Forge and kohya alike, and is
                there for UNets and FLUX.
            dtype: of the numbers in the file: float32, float16 or bfloat16.
            metadata: more for the header; stands above the LoRA's own.
            force: replace what is there.

        Returns:
            The path.

        Raises:
            UsageError: unknown format, a value too large for ``dtype``, or a place that cannot be written.
            OutputExistsError: something is there already.
        """
        path = Path(path)
        if format not in formats.WRITERS:
            raise UsageError(f"expected a format among {sorted(formats.WRITERS)}, got {format!r}")
        self.require_nameable(format)
        self.require_fits(dtype)
        header = self.header(metadata or {})
        if format == "peft":
            return formats.peft.save_folder(self, path, dtype, header, force=force)
        require_new_lora(path, format, force=force)
        tensors, fields = formats.WRITERS[format](self, dtype)
        write_large_tensors(path, tensors, {**header, **fields, "format": "pt"})
        return path


@dataclass(frozen=True, repr=False)
class FileLoRA(Writable):
    """A LoRA as its file has it, each factor in the file's own type: what is converted is never in one vector."""

    layout: Layout
    stored: Stored
    metadata: Mapping[str, str] = field(default_factory=dict)
    own_format: str = ""

    @classmethod
    def read(
        cls, path: str | Path, *, unet_only: bool = False, base: str | None = None
    ) -> tuple["FileLoRA", Inspection]:
        """`lorasynth.lora.gate.read_file` as a LoRA, and what was seen of it."""
        layout, stored, seen = read_file(path, unet_only=unet_only, base=base)
        return cls(layout, stored, seen.metadata, seen.own_format), seen

    def factors(self, name: str) -> tuple[Float[Tensor, "R I"], Float[Tensor, "O R"]]:
        """lora_A and lora_B of one module, the scaling in lora_B."""
        A, B, scaling = self.stored[name]
        A_RI, B_OR = as_tensor(A).flatten(1).float(), as_tensor(B).flatten(1).float()
        return A_RI, B_OR if scaling == 1 else B_OR * scaling
