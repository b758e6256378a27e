"""Pictures of a world drawn once, as bytes on disk, with a map of where fine details are where that is wanted."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lorasynth.worlds.domain import Domain

_CHUNK = 32  # pictures drawn at once
_FULL_DETAIL = 0.1  # change of a colour that counts as a whole detail


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Pictures as bytes, memory-mapped: three channels of colour, and perhaps a fourth that says where details are."""

    rows: np.ndarray  # (N, 3 or 4, size, size) uint8

    @property
    def size(self) -> int:
        """Pixels a side."""
        return int(self.rows.shape[-1])

    def __len__(self) -> int:
        return len(self.rows)

    def batch(
        self, rows: Int[Tensor, " B"], top: Int[Tensor, " B"], left: Int[Tensor, " B"], crop: int
    ) -> Float[Tensor, "B channels crop crop"]:
        """Squares of some pictures, and their detail maps, in [0, 1].

        Args:
            rows: which pictures.
            top: first row of each square.
            left: first column of each square.
            crop: pixels a side of the squares.
        """
        places = zip(rows.tolist(), top.tolist(), left.tolist(), strict=True)
        squares = np.stack([self.rows[i, :, y : y + crop, x : x + crop] for i, y, x in places])
        return torch.from_numpy(squares).to(torch.get_default_device()).float() / 255


def draw_pool(
    domain: Domain, persons: list[int], photos: list[int], size: int, path: Path, *, details: bool = True
) -> Pool:
    """Draw photo ``photos[i]`` of person ``persons[i]`` for all i into a file, or open the file where it is there.

    Args:
        domain: what is drawn.
        persons: person numbers.
        photos: photo numbers.
        size: pixels a side.
        path: a NumPy file. It appears when it is whole.
        details: whether each picture comes with its detail map.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        rows = np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=(len(persons), 3 + details, size, size))
        for i in range(0, len(persons), _CHUNK):
            who, which = persons[i : i + _CHUNK], photos[i : i + _CHUNK]
            pictures = domain.photos(who, which, size)
            if details:
                pictures = torch.cat([pictures, detail_map(domain, pictures, who, which)], dim=1)
            rows[i : i + _CHUNK] = (pictures * 255).round().to(torch.uint8).cpu().numpy()
        rows.flush()
        part.rename(path)
    return Pool(rows=np.load(path, mmap_mode="r"))


def detail_map(
    domain: Domain, pictures: Float[Tensor, "B 3 S S"], persons: list[int], photos: list[int]
) -> Float[Tensor, "B 1 S S"]:
    """Where ``pictures`` differ from the same photos without glasses, freckles, moles (``domain.details``): 0 to 1."""
    identity, nuisance = domain.identity_factors(persons), domain.nuisance_factors(persons, photos)
    identity[:, [domain.identity.index(name) for name in domain.details]] = 0
    plain = domain.draw(identity, nuisance, pictures.shape[-1])
    return ((pictures - plain).abs().amax(1, keepdim=True) / _FULL_DETAIL).clamp(max=1)
