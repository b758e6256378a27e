"""What is written as a LoRA file: anything with modules' factors, be they in one vector or as a file had them."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from lorasynth.errors import UsageError
from lorasynth.lora.effect import update_norm2
from lorasynth.lora.layout import Layout
from lorasynth.lora.scaling import Stored
from lorasynth.storage.arrays import as_tensor
from lorasynth.storage.files import write_large_tensors
from lorasynth.storage.outputs import require_new_lora
from lorasynth.version import __version__

if TYPE_CHECKING:
    from lorasynth.lora.inspection import Inspection


class Writable(ABC):
    """A LoRA as its writers see it: modules, and the factors of each in float32, one module at a time."""

    layout: Layout
    metadata: Mapping[str, str]
    own_format: str
    """The format of the file whose own names its modules have, as no known base model has them; "" for any other LoRA."""

    @abstractmethod
    def factors(self, name: str) -> tuple[Float[Tensor, "R I"], Float[Tensor, "O R"]]:
        """lora_A and lora_B of one module, the scaling in lora_B."""

    def norm(self) -> float:
        """Frobenius norm of all updates together."""
        pairs = (self.factors(m.name) for m in self.layout.modules)
        return sum(update_norm2(A.detach().cpu().numpy(), B.detach().cpu().numpy()) for A, B in pairs) ** 0.5

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
        from lorasynth.lora import formats

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

    def require_nameable(self, format: str) -> None:
        """Check that a format can name the modules: those of no known base stay in PEFT's, if they are from it.

        Raises:
            UsageError: it would be a guess.
        """
        if self.own_format and (format, self.own_format) != ("peft", "peft"):
            or_keep = ", or choose format 'peft', which keeps names" if self.own_format == "peft" else ""
            raise UsageError(
                f"expected modules of a known base model for format {format!r}, got {self.layout.modules[0].name}; name the base "
                f"with --force-base, if you know it{or_keep}"
            )

    def header(self, metadata: Mapping[str, str] | None = None) -> dict[str, str]:
        """What a file of this LoRA says of itself, whatever its format. ``metadata`` stands above the LoRA's own.

        Raises:
            UsageError: a value that is no text, or a field that is diffusers' own.
        """
        from lorasynth.lora.statements import still_true

        header = {
            "lorasynth.version": __version__, **still_true(self.metadata, self.layout.base), **(metadata or {}),
            "lorasynth.base": self.layout.base, "lorasynth.layout": self.layout.hash,
        }  # fmt: skip
        for key, value in header.items():
            if not isinstance(value, str):
                raise UsageError(f"metadata {key}: expected text, as a header holds nothing else, got {value!r}")
            if key == "lora_adapter_metadata":
                raise UsageError(
                    f"metadata {key}: is diffusers' own field; with kohya's alphas it makes a file unreadable"
                )
        return header

    def require_fits(self, dtype: torch.dtype) -> None:
        """Check that a type of a file holds all numbers.

        Raises:
            UsageError: it does not, or is no type of a file.
        """
        if dtype not in (torch.float32, torch.float16, torch.bfloat16):
            raise UsageError(f"expected dtype float32, float16 or bfloat16, got {dtype}")
        for m in self.layout.modules:
            for factor in self.factors(m.name):
                # Rounding keeps the order: if the largest fits, all do. And NaN passes through extremes.
                if not torch.isfinite(torch.stack(factor.aminmax()).to(dtype)).all():
                    got = factor[~torch.isfinite(factor.to(dtype))][0].item()
                    raise UsageError(
                        f"{m.name}: expected weights of at most {torch.finfo(dtype).max:.6g} for {dtype}, got {got:.6g}; save as "
                        "float32"
                    )


@dataclass(frozen=True)
class FileLoRA(Writable):
    """A LoRA as its file has it, each factor in the file's own type: what is converted is never in one vector."""

    layout: Layout
    stored: Stored
    metadata: Mapping[str, str] = field(default_factory=dict)
    own_format: str = ""

    @classmethod
    def read(
        cls, path: str | Path, *, unet_only: bool = False, base: str | None = None
    ) -> "tuple[FileLoRA, Inspection]":
        """`lorasynth.lora.gate.read_file` as a LoRA, and what was seen of it."""
        from lorasynth.lora.gate import read_file

        layout, stored, seen = read_file(path, unet_only=unet_only, base=base)
        return cls(layout, stored, seen.metadata, seen.own_format), seen

    def factors(self, name: str) -> tuple[Float[Tensor, "R I"], Float[Tensor, "O R"]]:
        """lora_A and lora_B of one module, the scaling in lora_B."""
        A, B, scaling = self.stored[name]
        A_RI, B_OR = as_tensor(A).flatten(1).float(), as_tensor(B).flatten(1).float()
        return A_RI, B_OR if scaling == 1 else B_OR * scaling
