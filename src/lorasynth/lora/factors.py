"""One LoRA: a flat vector and the layout that says what its numbers are."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lorasynth.devices import noise_on_cpu
from lorasynth.errors import LayoutError, UsageError
from lorasynth.lora.attach import attach, detach
from lorasynth.lora.layout import Layout
from lorasynth.lora.products import update_inner
from lorasynth.lora.writing import Writable

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

    Computed in float64, a module at a time, as a difference of nearly equal numbers: errors below about 1e-15 read as 0. Of two
    updates that are both zero the error is 0.
    """
    left, right = layout.split(x), layout.split(y)
    norm2, cross, other = x.new_zeros(3, len(x), dtype=torch.float64)
    for m in layout.modules:
        of_x, of_y = left[m.name], right[m.name]
        norm2 += update_inner(*of_x, *of_x)
        cross += update_inner(*of_x, *of_y)
        other += update_inner(*of_y, *of_y)
    difference = (norm2 - 2 * cross + other).clamp(min=0)
    return (difference / norm2.clamp(min=1e-300)).float()


@dataclass(frozen=True, repr=False)
class LoRA(Writable):
    """One adapter. Its effect is exactly ``lora_B @ lora_A`` in each module: the scaling is folded in, always."""

    layout: Layout
    vector: Float[Tensor, " P"]
    metadata: Mapping[str, str] = field(default_factory=dict)
    own_format: str = ""
    """The format of the file whose own names its modules have, as no known base model has them; "" for any other LoRA."""

    def __post_init__(self) -> None:
        """Refuse a vector of another length or with values that are not finite."""
        if self.vector.shape != (self.layout.num_parameters,):
            raise LayoutError(
                f"expected a vector of {self.layout.num_parameters} numbers for layout {self.layout.base!r}, "
                f"got shape {tuple(self.vector.shape)}"
            )
        # NaN passes through extremes, and no copy is made of what may be large.
        if not torch.isfinite(torch.stack(self.vector.aminmax())).all():
            bad = int((~torch.isfinite(self.vector)).sum())
            raise UsageError(f"expected finite LoRA weights, got {bad} that are NaN or infinite; nothing was written")

    @classmethod
    def random(cls, layout: Layout, seed: int = 0, std: float = 0.02) -> "LoRA":
        """A LoRA of normally distributed numbers."""
        return cls(layout, std * noise_on_cpu(layout.num_parameters, seed=seed))

    def factors(self, name: str) -> tuple[Float[Tensor, "R I"], Float[Tensor, "O R"]]:
        """lora_A and lora_B of one module, as views."""
        if name not in self.layout.slices:
            raise LayoutError(f"{name}: no such module in layout {self.layout.base!r}")
        of_A, of_B = self.layout.slices[name]
        inputs, outputs, _ = self.layout.shapes[name]
        return self.vector[of_A].view(-1, inputs), self.vector[of_B].view(outputs, -1)

    def lora_A(self, name: str) -> Float[Tensor, "R I"]:
        """lora_A of one module."""
        return self.factors(name)[0]

    def lora_B(self, name: str) -> Float[Tensor, "O R"]:
        """lora_B of one module."""
        return self.factors(name)[1]

    def delta_W(self, name: str) -> Float[Tensor, "O I"]:
        """The update of one module's weight."""
        return self.lora_B(name) @ self.lora_A(name)

    def scaled(self, factor: float) -> "LoRA":
        """The LoRA with its update multiplied by ``factor``."""
        factors = self.layout.split(self.vector[None])
        vector = self.layout.join({name: (A, B * factor) for name, (A, B) in factors.items()})[0]
        return replace(self, vector=vector)

    @classmethod
    def load(
        cls,
        path: str | Path,
        layout: Layout | None = None,
        *,
        unet_only: bool = False,
        base: str | None = None,
        like: Layout | None = None,
        raw: tuple[bytes, dict[str, str]] | None = None,
    ) -> "LoRA":
        """Read an adapter of any format through the strict gate.

        Args:
            path: a kohya, diffusers or XLabs file, or a PEFT folder.
            layout: what it must be of; otherwise the file says.
            unet_only: leave out what belongs to text encoders, which is refused otherwise.
            base: the base model that it is for, whatever the file says.
            like: a layout of the base at hand, of any rank. A base of a known family may have other shapes than the table's.
                By default ``layout``.
            raw: the file's bytes, where `lorasynth.lora.gate.read_raw` has read them.

        Raises:
            LoRAFileError: the file cannot be trusted.
            LayoutError: it is not of ``layout``.
        """
        from lorasynth.lora import bases
        from lorasynth.lora.gate import read_flat
        from lorasynth.storage.faults import FaultyFileError, shown

        like = layout if like is None else like
        try:
            found, vector, metadata, inspection = read_flat(path, unet_only=unet_only, base=base, raw=raw)
        except FaultyFileError as error:
            # A small stand-in for a known base, which has none of its shapes, is for whoever calls its layout so.
            stands_in = like is not None and base is None and not bases.takes(like.base, like.shapes)
            if like is None or error.code != "base" or not stands_in:
                raise
            found, vector, metadata, inspection = read_flat(path, unet_only=unet_only, base=like.base, raw=raw)
            if metadata.get("lorasynth.base", like.base) != like.base:
                raise
        # A file that does not say what it is for is taken to be for what the caller expects; its shapes must agree all the same.
        unsaid = layout.base if layout is not None else inspection.base
        found = found.of_base(base or metadata.get("lorasynth.base", unsaid))
        if layout is not None and (differences := layout.diff(found)):
            more = f" (and {len(differences) - 3} more differences)" if len(differences) > 3 else ""
            made_for = f", perhaps {inspection.base}" if inspection.base not in ("", layout.base) else ""
            raise LayoutError(
                f"{shown(path)}: expected the {len(layout.modules)} modules of layout {layout.base!r}, got "
                f"{len(found.modules)} of another{made_for}: {'; '.join(differences[:3])}{more}. Use a LoRA made for this "
                "base model"
            )
        return cls(found, vector, metadata, "" if found.base else inspection.own_format)

    def attach(self, model: nn.Module, adapter_name: str = "lorasynth") -> None:
        """Put the adapter on a diffusers model, by the call that `load_lora_weights` makes, and check that all of it is there.

        Args:
            model: the base model: a diffusers model with ``load_lora_adapter``.
            adapter_name: to call it by, in ``set_adapters`` or `detach`.

        Raises:
            UsageError: not such a model, or the name is taken.
            LayoutError: the model lacks a module of the layout, has it in another shape, or did not take it.
        """
        attach(self, model, adapter_name)

    @staticmethod
    def detach(model: nn.Module, adapter_name: str = "lorasynth") -> None:
        """Take the adapter off again. After the last one the model is as it was.

        Raises:
            UsageError: the model has no adapter of that name.
        """
        detach(model, adapter_name)
