"""Ways to run Stable Diffusion 1.5's UNet with a LoRA of its own for each row: time, memory, and that all give one gradient.

    python benchmarks/gpu_ways.py --people 8 30    # on a GPU, under ten minutes
    python benchmarks/gpu_ways.py --tiny           # on a CPU, in seconds: a tiny UNet in float32

A step is the loss of one noisy picture a person, its gradient by the person's LoRA, and AdamW on float32 LoRAs. Each way adds
one thing to the one before:

autocast       the UNet in bfloat16, LoRAs in float32 by hooks, under torch.autocast: as zoos are trained
bfloat16       no autocast: LoRAs are rounded to bfloat16 once a step, and float32 is in the optimiser alone
channels_last  the UNet's convolutions in that order of memory
arguments      no hooks: the layers take their factors from a list that each call fills
fused          to_q, to_k and to_v are one product, with the LoRAs of its parts as one
compiled       the same by torch.compile
compiled-only  arguments, compiled, without fused products

Of the sampler, which has no gradient, a forward pass is timed as it is, compiled, and as a CUDA graph. The memory plan divides
what a step adds by its people: how many fit into 80 GB. Random weights, weights2weights' layout at rank 1.
"""

import argparse
import time
from collections.abc import Callable
from contextlib import nullcontext
from statistics import median

import torch
import torch.nn.functional as F
from _bare import BareBase, text
from diffusers import UNet2DConditionModel
from diffusers.utils import logging
from torch import Tensor, nn

from lorasynth.base import denoising_loss
from lorasynth.lora.batched import Hooked, adapted_layers
from lorasynth.lora.layout import Layout
from lorasynth.zoo.initialisation import random_init

TARGETS = ("to_q", "to_v")
WAYS = ("autocast", "bfloat16", "channels_last", "arguments", "fused", "compiled", "compiled-only")
TINY = {
    "sample_size": 8, "block_out_channels": (32, 32), "layers_per_block": 1, "cross_attention_dim": 32,
    "attention_head_dim": 2, "norm_num_groups": 8, "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
}  # fmt: skip
Pair = tuple[Tensor, Tensor]
BUDGET_GB = 80


class Adapted(nn.Module):
    """A linear layer with the updates of N people, whose factors stand in a list that is filled before each call."""

    def __init__(self, layer: nn.Linear, factors: list[Pair], place: int):
        super().__init__()
        self.layer, self.place = layer, place
        self.factors = factors

    def forward(self, x: Tensor) -> Tensor:
        """The layer's answer, and each person's update on their own rows."""
        A_NRI, B_NOR = self.factors[self.place]
        out, n = self.layer(x), len(A_NRI)
        h = torch.bmm(x.reshape(n, -1, x.shape[-1]), A_NRI.transpose(1, 2))
        return torch.baddbmm(out.reshape(n, -1, out.shape[-1]), h, B_NOR.transpose(1, 2)).view_as(out)


class Ways:
    """One UNet, and how each way calls it with a LoRA a row."""

    def __init__(self, settings: dict, dtype: torch.dtype, backend: str):
        self.settings, self.dtype, self.backend = settings, dtype, backend
        first = self._unet()
        self.layout = Layout.from_model(first, TARGETS, 1, base="sd15")
        self.size, self.width = first.config.sample_size, first.config.cross_attention_dim

    def _unet(self) -> UNet2DConditionModel:
        torch.manual_seed(0)
        return UNet2DConditionModel(**self.settings).to(self.dtype).requires_grad_(False).eval()

    def attached(self, way: str) -> tuple[nn.Module, Callable[[Tensor], object]]:
        """A UNet, and what to enter with some LoRAs (N, P) so that they are in its answer."""
        model = self._unet()
        if way != "autocast" and way != "bfloat16":
            model = model.to(memory_format=torch.channels_last)
        if way in ("autocast", "bfloat16", "channels_last"):
            layers, names = adapted_layers(model, self.layout), [m.name for m in self.layout.modules]

            def hooked(vectors: Tensor) -> object:
                factors = self.layout.split(vectors if way == "autocast" else vectors.to(self.dtype))
                return Hooked(layers, [factors[name] for name in names], len(vectors))

            return model, hooked
        if way in ("fused", "compiled"):
            model.fuse_qkv_projections()
        places, factors = self._with_arguments(model, fused=way in ("fused", "compiled")), self._factors

        def filled(vectors: Tensor) -> object:
            parts = self.layout.split(vectors.to(self.dtype))
            factors[:] = [_joined([(width, parts.get(name)) for width, name in place]) for place in places]
            return nullcontext()

        if way.startswith("compiled"):
            model = torch.compile(model, backend=self.backend, dynamic=False)
        return model, filled

    def _with_arguments(self, model: nn.Module, *, fused: bool) -> list[list[tuple[int, str]]]:
        """Put `Adapted` in place of each layer that gets updates. Of each: the parts of its output, by width and module."""
        self._factors: list[Pair] = []
        adapted, places = {m.name for m in self.layout.modules}, []
        for name, layer in list(model.named_modules()):
            parent, _, own = name.rpartition(".")
            parts = {"to_qkv": ("to_q", "to_k", "to_v"), "to_kv": ("to_k", "to_v")}.get(own) if fused else None
            names = [f"{parent}.{part}" for part in parts or (own,)]
            # NOTE: a fused attention keeps its own layers, which nothing calls any more, but for to_q beside to_kv.
            unused = fused and parts is None and self._is_fused_away(model, parent, own)
            if isinstance(layer, nn.Linear) and not unused and adapted & set(names):
                places.append([(layer.out_features // len(names), one) for one in names])
                setattr(model.get_submodule(parent), own, Adapted(layer, self._factors, len(places) - 1))
        return places

    @staticmethod
    def _is_fused_away(model: nn.Module, parent: str, own: str) -> bool:
        attention = model.get_submodule(parent)
        return hasattr(attention, "to_qkv") or (hasattr(attention, "to_kv") and own != "to_q")


def _joined(parts: list[tuple[int, Pair | None]]) -> Pair:
    """Factors of a fused layer: those of its parts, each on its own rows of the output."""
    there = [pair for _, pair in parts if pair is not None]
    if len(parts) == 1:
        return there[0]
    before, rows = 0, []
    total = sum(pair[0].shape[1] for pair in there)
    for width, pair in parts:
        if pair is None:
            rows.append(there[0][1].new_zeros(len(there[0][1]), width, total))
            continue
        rank = pair[0].shape[1]
        rows.append(F.pad(pair[1], (before, total - before - rank)))
        before += rank
    return torch.cat([A for A, _ in there], 1), torch.cat(rows, 1)


class Step:
    """One training step of N people by one way."""

    def __init__(self, ways: Ways, way: str, people: int):
        self.way, self.model, self.attach = way, *ways.attached(way)
        self.base, self.dtype = BareBase(self.model), ways.dtype
        g = torch.Generator("cpu").manual_seed(1)

        def noise(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=g, device="cpu").to(torch.get_default_device(), self.dtype)

        x, eps = noise(people, 4, ways.size, ways.size), noise(people, 4, ways.size, ways.size)
        states = noise(people, 77, ways.width)
        time_ = torch.randint(1000, (people,), generator=g, device="cpu").to(torch.get_default_device())
        level = self.base.schedule.row(time_).map(
            lambda part: part.to(self.dtype) if part.is_floating_point() else part
        )
        self.given = (x, eps, level, text(states))
        init = random_init(ways.layout, 0).to(torch.get_default_device())
        self.vectors = (init + 0.02 * noise(people, len(init)).float()).requires_grad_()
        self.optimizer = torch.optim.AdamW([self.vectors], lr=1e-4, fused=self.vectors.is_cuda or None)

    def gradient(self) -> Tensor:
        """Of the people's losses, by their LoRAs."""
        device = self.vectors.device.type
        with torch.autocast(device, torch.bfloat16, enabled=self._autocasts()), self.attach(self.vectors):
            loss = denoising_loss(self.base, *self.given)
        self.optimizer.zero_grad()
        loss.float().sum().backward()
        assert self.vectors.grad is not None
        return self.vectors.grad

    def _autocasts(self) -> bool:
        return self.way == "autocast" and self.dtype == torch.bfloat16

    def __call__(self) -> None:
        """The whole step."""
        self.gradient()
        self.optimizer.step()

    @torch.no_grad()
    def forward(self) -> Tensor:
        """A pass of the sampler: the UNet's answer."""
        x, _, level, prompts = self.given
        with self.attach(self.vectors):
            return self.base.predict(x, level, prompts)


def as_graph(function: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """A call without gradients as a CUDA graph, which launches all its kernels at once."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = function()

    def replay() -> Tensor:
        graph.replay()
        return out

    return replay


def seconds(call: Callable[[], object], runs: int) -> float:
    """Median wall time, the GPU's work included, after two calls that are not counted."""
    times = []
    for run in range(runs + 2):
        _wait()
        start = time.perf_counter()
        call()
        _wait()
        times += [time.perf_counter() - start] if run >= 2 else []
    return median(times)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def main() -> None:
    """Print a row for each way and number of people, then the sampler's and the memory plan."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, nargs="+", default=[8, 30], help="rows, each with a LoRA of its own")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--runs", type=int, default=5, help="counted calls")
    parser.add_argument("--tiny", action="store_true", help="a tiny UNet in float32, on a CPU too")
    asked = parser.parse_args()
    logging.set_verbosity_error()
    on_gpu = torch.cuda.is_available()
    if not on_gpu and not asked.tiny:
        print("skipped: expected a CUDA device, got none; --tiny runs on a CPU")
        return
    torch.set_default_device("cuda" if on_gpu else "cpu")
    settings = TINY if asked.tiny else {"sample_size": 64, "cross_attention_dim": 768}
    dtype = torch.float32 if asked.tiny else torch.bfloat16
    ways = Ways(settings, dtype, "inductor" if on_gpu else "eager")  # on a CPU it is shown that a graph can be had
    per_person: list[float] = []
    for people in asked.people:
        first: Tensor | None = None
        for way in asked.ways:
            step = Step(ways, way, people)
            gradient = step.gradient().detach().clone()
            first = gradient if first is None else first
            error = float((gradient - first).norm() / first.norm())
            if error > (1e-4 if dtype == torch.float32 else 0.1):
                raise SystemExit(
                    f"{way}: expected the gradient of {asked.ways[0]}, got a relative error of {error:.1e}"
                )
            said = ""
            if on_gpu:
                before = torch.cuda.memory_allocated()
                torch.cuda.reset_peak_memory_stats()
                step()
                extra = (torch.cuda.max_memory_allocated() - before) / 1e9
                per_person.append(extra / people)
                said = f", {extra:.1f} GB more in a step"
            took = seconds(step, asked.runs)
            print(f"{way:14s} {people:3d} people: {people / took:8.2f} a second{said}, error {error:.0e}", flush=True)
    calls = {"as it is": Step(ways, "arguments", asked.people[0]).forward}
    calls["compiled"] = Step(ways, "compiled", asked.people[0]).forward
    if on_gpu:
        calls["CUDA graph"] = as_graph(Step(ways, "arguments", asked.people[0]).forward)
    else:
        print("sampler: no CUDA graph without a CUDA device")
    for name, call in calls.items():
        print(f"sampler, {name}: {asked.people[0] / seconds(call, asked.runs):.2f} rows a second", flush=True)
    if per_person:
        weights = 1.8 if not asked.tiny else 0.0
        fit = int((BUDGET_GB - weights) / max(per_person))
        print(f"memory: {max(per_person):.2f} GB a person at most; about {fit} people in {BUDGET_GB} GB")


if __name__ == "__main__":
    main()
