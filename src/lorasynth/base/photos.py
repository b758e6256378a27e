"""Photos of subjects as a base sees them: what fine-tuning reads, encoded once."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lorasynth.base.base import Base, Prompts


@dataclass(frozen=True, kw_only=True, eq=False)
class Photos:
    """Latents and captions of J photos of each of N subjects. Each different caption is held once."""

    latents: Float[Tensor, "N J C h w"]
    prompts: Prompts  # of the different captions
    caption: Int[Tensor, "N J"]  # which of them each photo has
    masks: Float[Tensor, "N J 1 h w"] | None = None  # 1 where the loss looks
    class_photos: "Photos | None" = None  # of one "subject": others of its class, whose loss is added to everybody's
    loss_weight: float = 1.0  # of class photos: what their loss is multiplied with

    def __len__(self) -> int:
        return len(self.latents)

    @property
    def count(self) -> int:
        """J, photos of each subject."""
        return self.latents.shape[1]

    def subjects(self, rows: Sequence[int] | Int[Tensor, " n"]) -> "Photos":
        """The photos of some subjects."""
        masks = None if self.masks is None else self.masks[rows]
        return replace(self, latents=self.latents[rows], caption=self.caption[rows], masks=masks)

    def batch(
        self, subject: Int[Tensor, "n 1"], photo: Int[Tensor, "n B"]
    ) -> tuple[Float[Tensor, "nB C h w"], Prompts, Float[Tensor, "nB 1 h w"] | None]:
        """Latents, prompts and masks of B photos of each of some subjects, one subject after the other."""
        masks = None if self.masks is None else self.masks[subject, photo].flatten(0, 1)
        return self.latents[subject, photo].flatten(0, 1), self.prompts[self.caption[subject, photo].flatten()], masks

    def states(self, photo: int) -> Prompts:
        """The prompts of one photo of each subject."""
        return self.prompts[self.caption[:, photo]]


def encode_photos(
    base: Base,
    pictures: Float[Tensor, "NJ 3 H W"],
    captions: Sequence[str],
    count: int,
    masks: Float[Tensor, "NJ 1 H W"] | None = None,
) -> Photos:
    """Photos of N subjects, ``count`` of each, one subject after the other.

    Args:
        base: that they are encoded for.
        pictures: in [0, 1], of the base's size.
        captions: of each.
        count: J.
        masks: 1 where the loss looks, 0 where it does not. A latent is looked at by as much as its pixels are.
    """
    prompts, caption = encode_captions(base, captions)
    latents = base.encode(pictures).unflatten(0, (-1, count))
    if masks is not None:
        masks = torch.nn.functional.adaptive_avg_pool2d(masks, latents.shape[-2:]).unflatten(0, (-1, count))
    return Photos(latents=latents, prompts=prompts, caption=caption.unflatten(0, (-1, count)), masks=masks)


def encode_captions(base: Base, captions: Sequence[str]) -> tuple[Prompts, Int[Tensor, " B"]]:
    """The different captions, encoded, and which of them each is: of many captions few are different."""
    place = {caption: i for i, caption in enumerate(dict.fromkeys(captions))}
    return base.prompts(list(place)), torch.tensor([place[caption] for caption in captions])
