"""How near drawn letters are to the true ones: pixels (L1, SSIM), legibility, and whose face recognisers see."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from recognisers import Classifier, read

_SHIFT = 3  # pixels that a letter may be out of place, either way: captions do not say where it stands
_WINDOW, _SIGMA, _C1, _C2 = 11, 1.5, 0.01**2, 0.03**2  # of SSIM

Embed = Callable[[Float[Tensor, "B 3 S S"]], Float[Tensor, "B D"]]
"""Pictures in [0, 1] -> unit vectors."""


def aligned(drawn: Float[Tensor, "B 3 S S"], true: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B 3 S S"]:
    """Drawn letters, each moved by up to `_SHIFT` pixels to where it differs least from the true one; its edge is repeated."""
    size, padded = drawn.shape[-1], F.pad(drawn, (_SHIFT,) * 4, mode="replicate")
    steps = [(y, x) for y in range(2 * _SHIFT + 1) for x in range(2 * _SHIFT + 1)]
    moved = torch.stack([padded[..., y : y + size, x : x + size] for y, x in steps])
    best = (moved - true).abs().mean((2, 3, 4)).argmin(0)
    return moved[best, torch.arange(len(drawn))]


def l1(drawn: Float[Tensor, "B 3 S S"], true: Float[Tensor, "B 3 S S"]) -> Float[Tensor, " B"]:
    """Mean absolute difference of pixels in [0, 1]; 0 is best."""
    return (drawn - true).abs().mean((1, 2, 3))


def ssim(drawn: Float[Tensor, "B 3 S S"], true: Float[Tensor, "B 3 S S"]) -> Float[Tensor, " B"]:
    """Structural similarity of grey pictures in [0, 1] (Wang et al., IEEE TIP 2004, Equation 13); 1 is best."""
    side = torch.arange(_WINDOW) - _WINDOW // 2
    weights = torch.exp(-(side**2) / (2 * _SIGMA**2))
    kernel = torch.outer(weights, weights)[None, None] / weights.sum() ** 2
    x, y = (pictures.mean(1, keepdim=True) for pictures in (drawn, true))

    def smooth(values: Float[Tensor, "B 1 S S"]) -> Float[Tensor, "B 1 s s"]:
        return F.conv2d(values, kernel)

    mean_x, mean_y = smooth(x), smooth(y)
    var_x, var_y = smooth(x * x) - mean_x**2, smooth(y * y) - mean_y**2
    shared = smooth(x * y) - mean_x * mean_y
    structure = (2 * mean_x * mean_y + _C1) * (2 * shared + _C2)
    return (structure / ((mean_x**2 + mean_y**2 + _C1) * (var_x + var_y + _C2))).mean((1, 2, 3))


def similarity(
    embed: Embed, drawn: Float[Tensor, "N K 3 S S"], true: Float[Tensor, "N K 3 S S"], own: bool = False
) -> Float[Tensor, " N"]:
    """Mean cosine of drawn letters to the mean of the face's true letters.

    Args:
        embed: a recogniser.
        drawn: K letters of each of N faces.
        true: the same letters, true.
        own: whether ``drawn`` are the true letters: each is then compared with the others alone.
    """
    letters = drawn.shape[1]
    found, whole = (embed(x.flatten(0, 1)).unflatten(0, (-1, letters)) for x in (drawn, true))
    mean = whole.sum(1, keepdim=True) - (whole if own else 0)
    return (found * F.normalize(mean, dim=2)).sum(2).mean(1)


def score(
    drawn: Float[Tensor, "N K 3 S S"],
    true: Float[Tensor, "N K 3 S S"],
    letters: str,
    recognisers: dict[str, Embed],
    reader: Classifier,
    own: bool = False,
) -> dict[str, Float[Tensor, " N"]]:
    """Every score of each face: "similarity" by each recogniser's name, "legible", "l1", "ssim".

    A letter is legible where the reader takes it for the one asked for, capital or small.
    """
    found = {name: similarity(embed, drawn, true, own) for name, embed in recognisers.items()}
    legible = [[a == b for a, b in zip(read(reader, face).lower(), letters.lower(), strict=True)] for face in drawn]
    pairs = [(aligned(one, other), other) for one, other in zip(drawn, true, strict=True)]
    return found | {
        "legible": torch.tensor(legible).float().mean(1),
        "l1": torch.stack([l1(*pair).mean() for pair in pairs]),
        "ssim": torch.stack([ssim(*pair).mean() for pair in pairs]),
    }
