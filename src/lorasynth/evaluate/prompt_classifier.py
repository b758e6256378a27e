"""Does a picture show what was asked for? A drawn world's probe knows. Elsewhere the base says by which prompt it is likeliest.

The latter is a diffusion classifier (Li et al., ICCV 2023, arXiv 2303.16203). The frozen base, without a LoRA, denoises a
picture under each of some prompts. The prompt of the least loss wins. No other model is needed, and no truth about the picture.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lorasynth.base import Base, denoising_loss, render
from lorasynth.base.render import loras_at_once
from lorasynth.devices import noise_on_cpu
from lorasynth.lora.layout import Layout
from lorasynth.subjects import Extras
from lorasynth.worlds.domain import Probe

PROMPT = "prompt"
"""What is asked for: by `PromptClassifier.obeyed` it has no finer name."""
_ASKED = 6  # prompts that `drawn_obedience` draws, at most
_GUIDANCE = 2.0  # mild: more of it is wrong for some bases, and without it pictures obey less than anybody's who draws with some


def prompt_judge(base: Base, extras: Extras | None) -> Probe:
    """Who says whether pictures show what was asked for: of a drawn world its probe, else the base."""
    return PromptClassifier(base=base) if extras is None else extras.probe


@dataclass(frozen=True, kw_only=True)
class PromptClassifier:
    """Holds each picture's own prompt against rivals.

    Differs from the paper: a few levels and one noise for all pictures and prompts, where the paper draws hundreds. A choice
    compares pictures of the same prompts with each other, so what a noise does to one of them it does to all.

    Costs ``(1 + rivals) * len(levels)`` passes of the base a picture. Drawing one takes 20, or 40 with guidance.
    """

    base: Base
    rivals: int = 3  # other prompts that each one is held against, at most
    levels: tuple[float, ...] = (0.5, 0.7, 0.9)  # places in the noise schedule, where a picture's content is decided
    seed: int = 0

    def obeyed(self, pictures: Float[Tensor, "N K 3 H W"], prompts: Sequence[str]) -> dict[str, float]:
        """Part of pictures whose own prompt wins, picture k of each person drawn for prompt k.

        Why this metric: similarity alone is highest for a LoRA that draws its person whatever is asked. Good is what the base
        alone has. By chance one in ``1 + rivals``. Nothing where there are no two prompts to choose from.
        """
        if len(set(prompts)) < 2:
            return {}
        return {PROMPT: self.wins(pictures, prompts).float().mean().item()}

    @torch.no_grad()
    def wins(self, pictures: Float[Tensor, "N K 3 H W"], prompts: Sequence[str]) -> Bool[Tensor, "N K"]:
        """Whether each picture's own prompt has the least loss.

        Args:
            pictures: of N people, for K prompts.
            prompts: K of them, at least two of which differ.
        """
        base, different = self.base, list(dict.fromkeys(prompts))
        candidates = torch.tensor([self._candidates(different.index(prompt), len(different)) for prompt in prompts])
        encoded = base.prompts(different)
        # 1. One noise a level, common to all pictures and prompts.
        noises = noise_on_cpu(len(self.levels), *base.latent_shape, seed=self.seed)
        # As many rows of a batch as in drawing with guidance.
        at_once = max(1, 2 * loras_at_once(base) * len(prompts) // candidates.shape[1])
        parts = zip(
            pictures.flatten(0, 1).split(at_once), candidates.repeat(len(pictures), 1).split(at_once), strict=True
        )
        found = []
        for part, rows in parts:
            # 2. Each picture once for each of its candidates, its own prompt first.
            x, asked = base.encode(part).repeat_interleave(rows.shape[1], 0), encoded[rows.flatten()]
            # 3. The sum of the base's own losses over the levels.
            loss = torch.zeros(len(x))
            for place, noise in zip(self.levels, noises, strict=True):
                level = base.schedule.level(torch.full((len(x),), place))
                loss += denoising_loss(base, x, noise.expand_as(x), level, asked)
            # 4. The own prompt wins where no other one has less. A picture of numbers that are none shows nothing.
            losses = loss.unflatten(0, rows.shape)
            found.append((losses.argmin(1) == 0) & losses.isfinite().all(1))
        return torch.cat(found).unflatten(0, pictures.shape[:2])

    def _candidates(self, own: int, count: int) -> list[int]:
        """The numbers of a prompt and of its rivals, which are evenly spread over the others, from the next one on."""
        return [own, *spread([(own + i) % count for i in range(1, count)], self.rivals)]


def drawn_obedience(
    judge: Probe, base: Base, prompts: Sequence[str], layout: Layout, vectors: Float[Tensor, "N P"]
) -> float:
    """Part of what LoRAs draw for a few prompts that shows what was asked for (with mild guidance).

    A probe answers for backgrounds, expressions and so on apart. The part of what is shown least often counts.

    Args:
        judge: says what pictures show.
        base: draws.
        prompts: at least two different ones; at most six are drawn.
        layout: of the LoRAs.
        vectors: N LoRAs; zeros draw with the base alone.
    """
    few = spread(list(dict.fromkeys(prompts)), _ASKED)
    drawn = render(base, few, layout, vectors, guidance_scale=_GUIDANCE)
    return min(judge.obeyed(drawn, few).values())


def spread(items: Sequence, count: int) -> list:
    """So many of some items, evenly spread over them, the first among them. All of them where there are not so many."""
    return [items[i * len(items) // count] for i in range(count)] if count < len(items) else list(items)
