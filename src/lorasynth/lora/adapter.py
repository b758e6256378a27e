"""A LoRA as its writers see it: modules with factors, be they in one vector or as a file had them."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from lorasynth.errors import UsageError
from lorasynth.lora.effect import update_norm2
from lorasynth.lora.layout import Layout
from lorasynth.lora.statements import still_true
from lorasynth.version import __version__


class Adapter(ABC):
    """Modules, and the factors of each in float32, one module at a time."""

    layout: Layout
    metadata: Mapping[str, str]
    own_format: str
    """The format of the file whose own names its modules have, as no known base model has them; "" for any other LoRA."""

    def __repr__(self) -> str:
        """In a line, without its numbers."""
        return f"{type(self).__name__}({self.layout!r})"

    @abstractmethod
    def factors(self, name: str) -> tuple[Float[Tensor, "R I"], Float[Tensor, "O R"]]:
        """lora_A and lora_B of one module, the scaling in lora_B."""

    def norm(self) -> float:
        """Frobenius norm of all updates together."""
        pairs = (self.factors(m.name) for m in self.layout.modules)
        return sum(update_norm2(A.detach().cpu().numpy(), B.detach().cpu().numpy()) for A, B in pairs) ** 0.5

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
        # Rounding keeps the order: if the extremes fit, all do. And NaN passes through them. One check of all is what is quick.
        extremes = [x for m in self.layout.modules for factor in self.factors(m.name) for x in factor.aminmax()]
        if torch.stack(extremes).to(dtype).isfinite().all():
            return
        for m in self.layout.modules:
            for factor in self.factors(m.name):
                misfits = factor[~torch.isfinite(factor.to(dtype))]
                if len(misfits):
                    raise UsageError(
                        f"{m.name}: expected weights of at most {torch.finfo(dtype).max:.6g} for {dtype}, got "
                        f"{misfits[0].item():.6g}; save as float32"
                    )
