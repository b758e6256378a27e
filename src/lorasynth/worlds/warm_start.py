"""A base model of large pictures that begins as one of small pictures, on the same grid of latents.

Patches of twice the size on pictures of twice the size make a grid of the same size. So the UNet of small pictures knows where a
face is and what words mean. Only its first and last layer see other channels. A linear map between the two codes mends them.
"""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lorasynth.errors import UsageError
from lorasynth.worlds.vae import encode, patch_of

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel


def warm_start(
    pipe: "StableDiffusionPipeline", small: "StableDiffusionPipeline", pictures: Float[Tensor, "B 3 H W"]
) -> None:
    """Give an untrained pipeline what a trained one of smaller pictures knows.

    Args:
        pipe: untrained. Its UNet and its text encoder are written to.
        small: trained, with a UNet and a text encoder of the same shape but for latent channels and words.
        pictures: in [0, 1], of the large size. The map between the codes is fitted to them.

    Raises:
        UsageError: layers other than the UNet's first and last, or than the table of tokens, have other shapes.
    """
    ratio = patch_of(pipe.vae) // patch_of(small.vae)
    large_code = _rows(encode(pipe.vae, pictures))
    small_code = _rows(encode(small.vae, F.avg_pool2d(pictures, ratio)))
    with torch.no_grad():
        _write_unet(
            pipe.unet, small.unet.state_dict(), _fit(large_code, small_code)[:-1], _fit(small_code, large_code)[:-1]
        )
        _write_text_encoder(pipe, small)


def _rows(latents: Float[Tensor, "B C h w"]) -> Float[Tensor, "n C"]:
    return latents.movedim(1, -1).flatten(0, -2)


def _fit(x: Float[Tensor, "n a"], y: Float[Tensor, "n b"]) -> Float[Tensor, "a+1 b"]:
    """The affine map from ``x`` to ``y`` of least squares, its offset last."""
    ones = torch.ones(len(x), 1)
    return torch.linalg.lstsq(torch.cat([x, ones], dim=1).double(), y.double()).solution.float()


def _write_unet(
    unet: "UNet2DConditionModel",
    known: dict[str, Tensor],
    to_small: Float[Tensor, "C c"],
    from_small: Float[Tensor, "c C"],
) -> None:
    _require_same(unet, known, "UNet", but=("conv_in.weight", "conv_out.weight", "conv_out.bias"))
    # What the small code holds goes the known way in. The rest goes through the untrained weights.
    rest = torch.eye(len(to_small)) - to_small @ from_small
    known = known | {
        "conv_in.weight": torch.einsum("oihw,ki->okhw", known["conv_in.weight"], to_small)
        + torch.einsum("oihw,ki->okhw", unet.conv_in.weight, rest),
        "conv_out.weight": torch.einsum("oihw,ok->kihw", known["conv_out.weight"], from_small),
        "conv_out.bias": known["conv_out.bias"] @ from_small,
    }
    unet.load_state_dict(known)


def _write_text_encoder(pipe: "StableDiffusionPipeline", small: "StableDiffusionPipeline") -> None:
    known, place = dict(small.text_encoder.state_dict()), small.tokenizer.get_vocab()
    for name, tensor in pipe.text_encoder.state_dict().items():
        if name.endswith("token_embedding.weight"):
            # Words that the small pipeline does not know keep their random vectors.
            table = tensor.clone()
            for token, row in pipe.tokenizer.get_vocab().items():
                if token in place:
                    table[row] = known[name][place[token]]
            known[name] = table
    _require_same(pipe.text_encoder, known, "text encoder")
    pipe.text_encoder.load_state_dict(known)


def _require_same(module: torch.nn.Module, known: dict[str, Tensor], what: str, but: tuple[str, ...] = ()) -> None:
    expected = {n: tuple(t.shape) for n, t in module.state_dict().items() if n not in but}
    got = {n: tuple(t.shape) for n, t in known.items() if n not in but}
    if wrong := sorted(n for n in expected.keys() | got.keys() if expected.get(n) != got.get(n)):
        n = wrong[0]
        raise UsageError(
            f"{what}: expected {n} of shape {expected.get(n)} in the base to start from, got {got.get(n)}; choose a base "
            "config of that base's shape, or none to start from"
        )
