"""Latents of drawn photos, kept on disk from the first time that they are asked for."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lorasynth.errors import UsageError
from lorasynth.worlds.domain import Domain
from lorasynth.worlds.vae import affine_encoder, encode_affine, patch_of

if TYPE_CHECKING:
    from diffusers import AutoencoderKL


@dataclass(frozen=True, kw_only=True)
class LatentStore:
    """Scaled latents of a list of photos, in fp16, one row a photo.

    Drawing a photo of 128 pixels takes a third of the time of a training step on it. A row is made when it is first asked for,
    and read from then on. So training begins at once, and a second process may fill rows beside it: both write the same.
    """

    domain: Domain
    encoder: tuple[Float[Tensor, "C d"], Float[Tensor, " C"]]  # of `affine_encoder`
    size: int  # pixels a side
    persons: list[int]
    photos: list[int]
    rows: np.ndarray  # (N, C, h, w) float16, memory-mapped
    made: np.ndarray  # (N,) uint8, memory-mapped: 1 where the row is there

    @classmethod
    def open(
        cls, domain: Domain, vae: "AutoencoderKL", size: int, persons: list[int], photos: list[int], folder: Path
    ) -> "LatentStore":
        """Open the store of a folder, or begin it.

        Raises:
            UsageError: the folder's store is of other photos' number or of another latent shape.
        """
        side = size // patch_of(vae)
        shape = (len(persons), vae.config.latent_channels, side, side)
        folder.mkdir(parents=True, exist_ok=True)
        rows = _memmap(folder / "latents.npy", np.dtype(np.float16), shape)
        made = _memmap(folder / "made.npy", np.dtype(np.uint8), (len(persons),))
        return cls(
            domain=domain, encoder=affine_encoder(vae), size=size, persons=persons, photos=photos, rows=rows, made=made
        )

    def latents(self, rows: Int[Tensor, " B"]) -> Float[Tensor, "B C h w"]:
        """Scaled latents of some photos. Those that are missing are drawn and encoded first.

        On a CPU that is done one by one, so that a row is the same whichever others are missing.
        """
        device = torch.get_default_device()
        missing = [row for row in rows.unique().tolist() if not self.made[row]]
        step = 1 if device.type == "cpu" else 256
        for i in range(0, len(missing), step):
            chosen = missing[i : i + step]
            persons, photos = [self.persons[row] for row in chosen], [self.photos[row] for row in chosen]
            latents = encode_affine(*self.encoder, self.domain.photos(persons, photos, self.size))
            self.rows[chosen] = latents.half().cpu().numpy()
            self.made[chosen] = 1
        return torch.from_numpy(self.rows[rows.cpu().numpy()]).to(device).float()


def _memmap(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """An array of zeros on disk, or the one that is there."""
    if not path.exists():
        part = path.with_suffix(".part")
        np.lib.format.open_memmap(part, mode="w+", dtype=dtype, shape=shape).flush()
        part.rename(path)
    found: np.ndarray = np.load(path, mmap_mode="r+")
    if found.shape != shape or found.dtype != dtype:
        raise UsageError(f"{path}: expected {dtype} of shape {shape}, got {found.dtype} of {found.shape}; remove it")
    return found
