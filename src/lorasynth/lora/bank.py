"""N adapters over one frozen base in one forward pass: the primitive behind everything that handles many LoRAs."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lorasynth.errors import UsageError
from lorasynth.lora.batched import Hooked, adapted_layers
from lorasynth.lora.layout import Layout


class AdapterBank(nn.Module):
    """N LoRAs of one layout, attached to one base model whose batch they share.

    The batch is adapter-major: with N adapters and N·b rows, rows ``n·b … (n+1)·b`` go through adapter n. Each adapted layer
    costs one more pair of batched matrix products, whatever N is. Only the bank's own parameters ever get gradients from it.
    The base is not copied and not changed (forward hooks, removed on leaving `attached`).

    Training a bank on the sum of per-adapter losses is training N LoRAs apart: no term couples two adapters.
    """

    _layers: list[nn.Linear | nn.Conv2d]

    def __init__(
        self,
        model: nn.Module,
        layout: Layout,
        num_adapters: int,
        init: Float[Tensor, "P"] | Float[Tensor, "N P"],
        lora_A: Literal["each", "shared", "frozen"] = "each",
    ):
        """Put ``num_adapters`` LoRAs beside ``model``.

        Args:
            model: the base; must hold every module of the layout.
            layout: names and shapes of the adapters.
            num_adapters: N.
            init: one flat vector to start every adapter from, or one each.
            lora_A: "each" trains one lora_A an adapter, "shared" trains a single one for all of them, "frozen" keeps it. The
                last two hold one lora_A of shape (1, R, I), which must then be the same in every row of ``init``.

        Raises:
            UsageError: N < 1, an ``init`` for another N, or a lora_A to be shared that differs between rows of ``init``.
            LayoutError: the model lacks a module, or has it in another shape.
        """
        super().__init__()
        if num_adapters < 1:
            raise UsageError(f"expected at least 1 adapter, got {num_adapters}")
        if init.dim() == 2 and len(init) != num_adapters:
            raise UsageError(f"expected one init vector, or {num_adapters} of them, got {len(init)}")
        if lora_A not in ("each", "shared", "frozen"):
            raise UsageError(f"expected lora_A 'each', 'shared' or 'frozen', got {lora_A!r}")
        self.layout, self.num_adapters = layout, num_adapters
        object.__setattr__(
            self, "_layers", adapted_layers(model, layout)
        )  # not our submodules: they belong to the base
        factors = layout.split(init.expand(num_adapters, -1) if init.dim() == 1 else init)
        rows = slice(None) if lora_A == "each" else slice(1)
        self.lora_A, self.lora_B = nn.ParameterList(), nn.ParameterList()
        for m in layout.modules:
            A_NRI, B_NOR = factors[m.name]
            if lora_A != "each":
                _require_one(m.name, A_NRI)
            A_NRI = A_NRI[rows].clone(memory_format=torch.contiguous_format)
            self.lora_A.append(nn.Parameter(A_NRI, requires_grad=lora_A != "frozen"))
            self.lora_B.append(nn.Parameter(B_NOR.clone(memory_format=torch.contiguous_format)))

    @contextmanager
    def attached(self, rows: slice = slice(None)) -> Iterator[None]:
        """Within this context every forward pass of the base goes through the bank, or through those of its adapters."""
        A = [A_NRI if len(A_NRI) < self.num_adapters else A_NRI[rows] for A_NRI in self.lora_A.parameters()]
        B = [B_NOR[rows] for B_NOR in self.lora_B.parameters()]
        with Hooked(self._layers, zip(A, B, strict=True), len(B[0])):
            yield

    def vectors(self) -> Float[Tensor, "N P"]:
        """The adapters as flat vectors (a copy)."""
        names = [m.name for m in self.layout.modules]
        A = [A_NRI.expand(self.num_adapters, -1, -1) for A_NRI in self.lora_A.parameters()]
        return self.layout.join(dict(zip(names, zip(A, self.lora_B.parameters(), strict=True), strict=True))).detach()

    @torch.no_grad()
    def load_vectors(self, vectors: Float[Tensor, "N P"]) -> None:
        """Overwrite the adapters.

        Raises:
            UsageError: another number of vectors, or different lora_A for a bank that shares one.
        """
        if len(vectors) != self.num_adapters:
            raise UsageError(f"expected {self.num_adapters} vectors, one an adapter, got {len(vectors)}")
        factors = self.layout.split(vectors)
        for m, A_NRI, B_NOR in zip(self.layout.modules, self.lora_A, self.lora_B, strict=True):
            if len(A_NRI) < self.num_adapters:
                _require_one(m.name, factors[m.name][0])
            A_NRI.copy_(factors[m.name][0][: len(A_NRI)])
            B_NOR.copy_(factors[m.name][1])


@contextmanager
def attached(model: nn.Module, layout: Layout, vectors: Float[Tensor, "N P"]) -> Iterator[None]:
    """Within this context every forward pass of the base goes through N LoRAs, whose vectors get gradients.

    What `AdapterBank.attached` does, for LoRAs that something else makes: a bank owns its weights, here they stay a function of
    whatever they were computed from.

    Raises:
        LayoutError: the model lacks a module of the layout, or has it in another shape.
    """
    with Hooked(adapted_layers(model, layout), layout.split(vectors).values(), len(vectors)):
        yield


def _require_one(name: str, A_NRI: Tensor) -> None:
    if not torch.equal(A_NRI, A_NRI[:1].expand_as(A_NRI)):
        raise UsageError(f"{name}: expected one lora_A for all adapters, got different ones; use lora_A='each'")
