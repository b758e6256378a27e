"""One adapted layer of a model: its name and shape, and the rank of its update."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

# NOTE: looking at a LoRA file asks for no torch, whose import takes ten times as long.
if TYPE_CHECKING:
    from torch.nn import Module as Network
else:
    Network = Any


@dataclass(frozen=True, kw_only=True)
class Module:
    """One adapted layer: its update is ``lora_B (out, rank) @ lora_A (rank, in)``.

    A convolution's update is the same product, its kernel read row by row: "in" counts channels x height x width of the kernel.
    """

    name: str
    in_features: int
    out_features: int
    rank: int
    kernel: tuple[int, int] | None = None  # height and width; None for a linear layer

    @classmethod
    def of(cls, name: str, layer: Network | None, rank: int) -> "Module | None":
        """What PEFT adapts in a layer. None for what is no linear layer or 2-D convolution, or one in groups or dilated."""
        from torch import nn

        if isinstance(layer, nn.Linear):
            return cls(name=name, in_features=layer.in_features, out_features=layer.out_features, rank=rank)
        if isinstance(layer, nn.Conv2d) and layer.groups == 1 and layer.dilation == (1, 1):
            height, width = layer.kernel_size
            return cls(
                name=name, in_features=layer.in_channels * height * width, out_features=layer.out_channels, rank=rank,
                kernel=(height, width),
            )  # fmt: skip
        return None

    def __str__(self) -> str:
        """A few words for errors."""
        kind = "a Linear layer" if self.kernel is None else f"a Conv2d of kernel {self.kernel[0]} x {self.kernel[1]},"
        return f"{kind} {self.in_features} -> {self.out_features}"

    @property
    def num_parameters(self) -> int:
        """Numbers in lora_A and lora_B together."""
        return self.rank * (self.in_features + self.out_features)
