"""Does a picture show what its prompt asked for? Background and place, read off the pixels."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lorasynth.worlds.emblems.captions import PLACE_WORDS
from lorasynth.worlds.emblems.draw import PLACE_RANGE
from lorasynth.worlds.emblems.factors import PLACES
from lorasynth.worlds.probes import Tally, background_asked, background_obeyed
from lorasynth.worlds.words import which_of

_CORNER = 6  # pixels
_NOISE = 0.08  # colours less apart than this are alike


@dataclass(frozen=True)
class EmblemProbe:
    """Reads two things that prompts ask for, without knowing the emblem: nothing of it is learned.

    The background as by `background_obeyed`. The place is the third of its range that the middle of all that differs from the
    corners lies in (by chance 1 in 3).
    """

    def place(self, pictures: Float[Tensor, "N 3 H W"]) -> Float[Tensor, " N"]:
        """Where the emblems lie between left (0) and right (1)."""
        corners = torch.cat([pictures[..., :_CORNER, :_CORNER], pictures[..., :_CORNER, -_CORNER:]], dim=3)
        ground = corners.flatten(2).median(2).values[:, :, None, None]
        there = ((pictures - ground).abs().amax(1) - _NOISE).clamp(0, 0.1)
        axis = torch.linspace(-1, 1, pictures.shape[-1])
        middle = (there * axis).sum((1, 2)) / there.sum((1, 2)).clamp(min=1e-6)
        return middle / (2 * PLACE_RANGE) + 0.5

    def obeyed(self, pictures: Float[Tensor, "N K 3 H W"], prompts: list[str]) -> dict[str, float]:
        """Part of pictures that obey, picture k of each emblem drawn for prompt k.

        Returns:
            "background", "place": as far as prompts ask for them.
        """
        tally = Tally()
        for k, prompt in enumerate(prompts):
            if colour := background_asked(prompt):
                tally.add("background", background_obeyed(pictures[:, k], colour))
            for third, name in enumerate(PLACES):
                if PLACE_WORDS[name] in prompt:
                    found = which_of(PLACES, self.place(pictures[:, k]))
                    tally.add("place", found == third)
        return tally.parts()
