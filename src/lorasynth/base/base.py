"""A frozen diffusion model that LoRAs are attached to, whatever its architecture: what the method asks of one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lorasynth.base.schedule import Level, Schedule
from lorasynth.lora.layout import Layout


@dataclass(frozen=True, eq=False)
class Prompts:
    """Prompts as a network takes them: tensors by name, whose first dimension counts prompts."""

    tensors: dict[str, Tensor]

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def __getitem__(self, rows: Any) -> "Prompts":
        return self.map(lambda x: x[rows])

    def map(self, change: Callable[[Tensor], Tensor]) -> "Prompts":
        """The same change of every tensor."""
        return Prompts({name: change(x) for name, x in self.tensors.items()})

    @staticmethod
    def cat(parts: Sequence["Prompts"]) -> "Prompts":
        """Prompts of one base, one after the other."""
        return Prompts({name: torch.cat([part.tensors[name] for part in parts]) for name in parts[0].tensors})


@runtime_checkable
class Base(Protocol):
    """What the method asks of a base model."""

    @property
    def name(self) -> str:
        """What a synthesizer's config says: a drawn world's name, a folder or a hub id."""
        ...

    @property
    def family(self) -> str:
        """`Layout.base`: "sd15", "sdxl" and so on, or a drawn world's name."""
        ...

    @property
    def denoiser(self) -> nn.Module:
        """The frozen network, to whose layers LoRAs are attached."""
        ...

    @property
    def schedule(self) -> Schedule:
        """Its noise."""
        ...

    @property
    def picture_size(self) -> int:
        """Pixels a side of what it sees and draws."""
        ...

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a picture's latent."""
        ...

    @property
    def embeds_guidance(self) -> bool:
        """Whether the network is told the guidance scale (FLUX.1-dev), in place of being asked twice."""
        ...

    def layout(self, rank: int, target_modules: Sequence[str] | None = None) -> Layout:
        """The layout of its LoRAs. By default of the modules that are usual for the family."""
        ...

    def encode(self, pictures: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
        """Pictures in [0, 1] -> latents, scaled and shifted as the network sees them."""
        ...

    def decode(self, latents: Float[Tensor, "B C h w"]) -> Float[Tensor, "B 3 H W"]:
        """The inverse of `encode`, in [0, 1]."""
        ...

    def prompts(self, captions: Sequence[str]) -> Prompts:
        """Captions, encoded."""
        ...

    def unconditional(self, count: int) -> Prompts:
        """What classifier-free guidance leads away from, ``count`` times."""
        ...

    def predict(self, x_t: Float[Tensor, "B C h w"], level: Level, prompts: Prompts) -> Float[Tensor, "B C h w"]:
        """The network's own answer: noise, x, v or flow, as the schedule says."""
        ...
