"""What N LoRAs add to one layer's output, for a batch that they share, adapter after adapter."""

from collections.abc import Callable, Iterable
from contextlib import ExitStack, nullcontext
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.hooks import RemovableHandle

from lorasynth.errors import LayoutError, UsageError
from lorasynth.lora.compiled import require_uncompiled
from lorasynth.lora.layout import Layout, Module

Layer = nn.Linear | nn.Conv2d


def adapted_layers(model: nn.Module, layout: Layout) -> list[Layer]:
    """The model's layers that a layout names.

    Raises:
        LayoutError: the model lacks one, has it in another shape, or is wrapped by torch.compile.
    """
    require_uncompiled(model)
    found = dict(model.named_modules())
    layers: list[Layer] = []
    for m in layout.modules:
        layer = found.get(m.name)
        if not isinstance(layer, Layer) or Module.of(m.name, layer, m.rank) != m:
            raise LayoutError(
                f"{m.name}: expected {m}, got {layer}; the layout {layout.base!r} is of another base model"
            )
        layers.append(layer)
    return layers


class Hooked:
    """A context in which each layer has the updates of its (lora_A, lora_B) added.

    A lora_A of shape (1, R, I) is one for all adapters.
    """

    attached: ClassVar[list["Hooked"]] = []

    def __init__(self, layers: Iterable[Layer], factors: Iterable[tuple[Tensor, Tensor]], num_adapters: int):
        self._hooks = [
            (layer, _hook(A_NRI, B_NOR, num_adapters)) for layer, (A_NRI, B_NOR) in zip(layers, factors, strict=True)
        ]
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> None:
        """Add the updates."""
        self._handles = [layer.register_forward_hook(hook) for layer, hook in self._hooks]
        self.attached.append(self)

    def __exit__(self, *_: object) -> None:
        """Leave the layers as they were."""
        self.attached.remove(self)
        for handle in self._handles:
            handle.remove()


class AsBefore:
    """A context with the updates that were added when it was made, whatever is added when it is entered."""

    def __init__(self) -> None:
        self._then = tuple(Hooked.attached)
        self._again = ExitStack()

    def __enter__(self) -> None:
        """Add those that are not there any more."""
        for hooked in self._then:
            if hooked not in Hooked.attached:
                self._again.enter_context(hooked)

    def __exit__(self, *_: object) -> None:
        """Take them away again."""
        self._again.close()


def checkpointed(function: Callable[..., Any], *arguments: Any) -> Any:
    """A part of a network whose activations are computed again for the gradient, with the LoRAs that it had before.

    NOTE: torch's checkpoint runs the part again in ``backward``, when the context of a bank may have been left. Without its
    hooks, the gradient would be that of the bare base.
    """
    return checkpoint(function, *arguments, use_reentrant=False, context_fn=lambda: (nullcontext(), AsBefore()))


def _hook(A_NRI: Tensor, B_NOR: Tensor, n: int) -> Callable[[Layer, tuple[Tensor, ...], Tensor], Tensor]:
    def hook(layer: Layer, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
        x = args[0]
        if x.shape[0] % n:
            raise UsageError(f"expected a batch that {n} adapters can share equally, got {x.shape[0]} rows")
        if isinstance(layer, nn.Linear):
            return _add_linear(x, out, A_NRI, B_NOR, n)
        return _add_convolution(layer, x, out, A_NRI, B_NOR, n)

    return hook


def _add_linear(
    x: Float[Tensor, "NB ... I"],
    out: Float[Tensor, "NB ... O"],
    A_NRI: Float[Tensor, "_ R I"],
    B_NOR: Float[Tensor, "N O R"],
    n: int,
) -> Float[Tensor, "NB ... O"]:
    """Adds x @ A.T @ B.T, each adapter on its own rows."""
    # 1. Rows by adapter.
    x_NTI = x.reshape(n, -1, x.shape[-1])
    # 2. Down to rank R: one product for a shared lora_A, else one an adapter.
    h_NTR = x_NTI @ A_NRI[0].T if len(A_NRI) == 1 else torch.bmm(x_NTI, A_NRI.transpose(1, 2))
    # 3. Up again, added to the layer's own output.
    return torch.baddbmm(out.reshape(n, -1, out.shape[-1]), h_NTR, B_NOR.transpose(1, 2)).view_as(out)


def _add_convolution(
    layer: nn.Conv2d,
    x: Float[Tensor, "NB C H W"],
    out: Float[Tensor, "NB O h w"],
    A_NRI: Float[Tensor, "_ R I"],
    B_NOR: Float[Tensor, "N O R"],
    n: int,
) -> Float[Tensor, "NB O h w"]:
    """Adds B (A * x): PEFT's pair of convolutions, of the layer's kernel to R channels and of 1 x 1 from there."""
    weight = A_NRI.reshape(-1, layer.in_channels, *layer.kernel_size)
    if len(A_NRI) == 1:
        h = F.conv2d(x, weight, None, layer.stride, layer.padding)
        h_NBRL = h.reshape(n, -1, *h.shape[1:]).flatten(3)
    else:  # adapters as groups of channels
        x_side_by_side = x.unflatten(0, (n, -1)).transpose(0, 1).flatten(1, 2)
        h = F.conv2d(x_side_by_side, weight, None, layer.stride, layer.padding, groups=n)
        h_NBRL = h.unflatten(1, (n, -1)).transpose(0, 1).flatten(3)
    return out + (B_NOR[:, None] @ h_NBRL).reshape(out.shape)
