"""One LoRA: a flat vector and the layout that says what its numbers are."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lorasynth.errors import LayoutError, UsageError
from lorasynth.files import require_new_output, write_tensors
from lorasynth.lora.layout import Layout

Format = Literal["kohya", "diffusers", "peft"]


def delta_W_inner(layout: Layout, x: Float[Tensor, "N P"], y: Float[Tensor, "M P"]) -> Float[Tensor, "N M"]:
    """Frobenius inner products of the weight updates of every pair, without forming an update.

    ``<B A, D C> = tr(Aᵀ Bᵀ D C) = sum((Bᵀ D) * (A Cᵀ))``, summed over modules.
    """
    total = x.new_zeros(len(x), len(y))
    left, right = layout.split(x), layout.split(y)
    for m in layout.modules:
        (A_NRI, B_NOR), (C_MSI, D_MOS) = left[m.name], right[m.name]
        BD_NMRS = torch.einsum("nor,mos->nmrs", B_NOR, D_MOS)
        AC_NMRS = torch.einsum("nri,msi->nmrs", A_NRI, C_MSI)
        total += (BD_NMRS * AC_NMRS).sum((2, 3))
    return total


def delta_W_norm2(layout: Layout, x: Float[Tensor, "N P"]) -> Float[Tensor, " N"]:
    """Squared Frobenius norms ``‖B A‖² = tr((BᵀB)(AAᵀ))`` of the weight updates, summed over modules."""
    return delta_W_pairs(layout, x, x)


def delta_W_pairs(layout: Layout, x: Float[Tensor, "N P"], y: Float[Tensor, "N P"]) -> Float[Tensor, " N"]:
    """Frobenius inner products of the weight updates of row n of ``x`` and row n of ``y``."""
    total = x.new_zeros(len(x))
    left, right = layout.split(x), layout.split(y)
    for m in layout.modules:
        (A_NRI, B_NOR), (C_NSI, D_NOS) = left[m.name], right[m.name]
        total += ((B_NOR.transpose(1, 2) @ D_NOS) * (A_NRI @ C_NSI.transpose(1, 2))).sum((1, 2))
    return total


def delta_W_relative_error(layout: Layout, x: Float[Tensor, "N P"], y: Float[Tensor, "N P"]) -> Float[Tensor, " N"]:
    """``‖ΔX - ΔY‖² / ‖ΔX‖²`` for each pair of rows: 0 is exact, 1 as bad as no LoRA at all.

    Computed in float64, as a difference of nearly equal numbers.
    """
    x, y = x.double(), y.double()
    norm2, cross = delta_W_pairs(layout, x, x), delta_W_pairs(layout, x, y)
    difference = (norm2 - 2 * cross + delta_W_pairs(layout, y, y)).clamp(min=0)
    return (difference / norm2.clamp(min=1e-300)).float()


@dataclass(frozen=True)
class LoRA:
    """One adapter. Its effect is exactly ``lora_B @ lora_A`` in each module: the scaling is folded in, always."""

    layout: Layout
    vector: Float[Tensor, " P"]
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a vector of another length or with values that are not finite."""
        if self.vector.shape != (self.layout.num_parameters,):
            raise LayoutError(
                f"expected a vector of {self.layout.num_parameters} numbers for layout {self.layout.base!r}, "
                f"got shape {tuple(self.vector.shape)}"
            )
        if not torch.isfinite(self.vector).all():
            bad = int((~torch.isfinite(self.vector)).sum())
            raise UsageError(f"expected finite LoRA weights, got {bad} that are NaN or infinite; nothing was written")

    @classmethod
    def random(cls, layout: Layout, seed: int = 0, std: float = 0.02) -> "LoRA":
        """A LoRA of normally distributed numbers."""
        generator = torch.Generator().manual_seed(seed)
        return cls(layout, std * torch.randn(layout.num_parameters, generator=generator))

    def lora_A(self, name: str) -> Float[Tensor, "R I"]:
        """lora_A of one module."""
        return self._part(name, 0)

    def lora_B(self, name: str) -> Float[Tensor, "O R"]:
        """lora_B of one module."""
        return self._part(name, 1)

    def _part(self, name: str, which: int) -> Tensor:
        if name not in self.layout.slices:
            raise LayoutError(f"{name}: no such module in layout {self.layout.base!r}")
        return self.layout.split(self.vector[None])[name][which][0]

    def delta_W(self, name: str) -> Float[Tensor, "O I"]:
        """The update of one module's weight."""
        return self.lora_B(name) @ self.lora_A(name)

    def norm(self) -> float:
        """Frobenius norm of all updates together."""
        return delta_W_norm2(self.layout, self.vector[None].double()).clamp(min=0).sqrt().item()

    def scaled(self, factor: float) -> "LoRA":
        """The LoRA with its update multiplied by ``factor``."""
        factors = self.layout.split(self.vector[None])
        vector = self.layout.join({name: (A, B * factor) for name, (A, B) in factors.items()})[0]
        return LoRA(self.layout, vector, self.metadata)

    def save(
        self,
        path: str | Path,
        format: Format = "kohya",
        dtype: torch.dtype = torch.float32,
        metadata: Mapping[str, str] | None = None,
        *,
        force: bool = False,
    ) -> Path:
        """Write the adapter as one file (kohya, diffusers) or a folder (peft).

        Args:
            path: where to; ``.safetensors`` for a file.
            format: "kohya" is read by diffusers, ComfyUI, A1111/Forge and kohya alike.
            dtype: of the numbers in the file.
            metadata: for the header, added to the LoRA's own.
            force: replace what is there.

        Returns:
            The path.

        Raises:
            UsageError: unknown format, a value too large for ``dtype``, or a place that cannot be written.
            OutputExistsError: something is there already.
        """
        from lorasynth.lora import formats

        if format not in formats.WRITERS:
            raise UsageError(f"expected a format among {sorted(formats.WRITERS)}, got {format!r}")
        largest = self.vector.abs().max().item()
        if dtype.is_floating_point and largest > torch.finfo(dtype).max:
            raise UsageError(f"the largest weight {largest:.3g} does not fit {dtype}; save as float32")
        together = {**self.metadata, **(metadata or {})}
        if format == "peft":
            return formats.peft.save_folder(self, Path(path), dtype, together, force=force)
        path = require_new_output(path, force=force)
        tensors, header = formats.WRITERS[format](self, dtype)
        write_tensors(path, tensors, {**together, **header})
        return path

    @classmethod
    def load(cls, path: str | Path, layout: Layout | None = None) -> "LoRA":
        """Read an adapter of any format through the strict gate.

        Args:
            path: a kohya or diffusers file, or a PEFT folder.
            layout: what it must be of; otherwise the file says.

        Raises:
            LoRAFileError: the file cannot be trusted.
            LayoutError: it is not of ``layout``.
        """
        from lorasynth.lora.gate import read_lora

        factors, metadata, _ = read_lora(path)
        found = Layout.from_factors(factors, base=metadata.get("lorasynth.base", layout.base if layout else ""))
        if layout is not None:
            ordered = {m.name: factors[m.name] for m in layout.modules if m.name in factors}
            same_base = Layout.from_factors({**ordered, **factors}, base=layout.base)
            if differences := layout.diff(same_base):
                more = f" (and {len(differences) - 3} more differences)" if len(differences) > 3 else ""
                raise LayoutError(f"{path}: not of layout {layout.base!r}: {'; '.join(differences[:3])}{more}")
            found = layout
        vector = found.join({name: (A[None].float(), B[None].float()) for name, (A, B) in factors.items()})[0]
        return cls(found, vector, metadata)

    def attach(self, model: nn.Module, adapter_name: str = "lorasynth") -> None:
        """Put the adapter on a diffusers model through PEFT, as `load_lora_weights` would.

        Raises:
            LayoutError: the model lacks a module of the layout, or has it in another shape.
        """
        from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict

        found = dict(model.named_modules())
        for m in self.layout.modules:
            layer: Any = found.get(m.name)
            if not isinstance(layer, nn.Linear) or layer.weight.shape != (m.out_features, m.in_features):
                raise LayoutError(f"{m.name}: expected Linear {m.in_features} -> {m.out_features}, got {layer}")
        ranks = {m.name: m.rank for m in self.layout.modules}
        config = LoraConfig(
            r=self.layout.modules[0].rank, lora_alpha=self.layout.modules[0].rank, target_modules=list(ranks),
            rank_pattern=ranks, alpha_pattern=ranks, init_lora_weights=False,
        )  # fmt: skip
        inject_adapter_in_model(config, model, adapter_name)
        state = {}
        for m in self.layout.modules:
            state[f"{m.name}.lora_A.weight"] = self.lora_A(m.name)
            state[f"{m.name}.lora_B.weight"] = self.lora_B(m.name)
        result = set_peft_model_state_dict(model, state, adapter_name)
        if result is not None and result.unexpected_keys:
            raise LayoutError(f"the model did not take {result.unexpected_keys[:3]}; is it the layout's base model?")
