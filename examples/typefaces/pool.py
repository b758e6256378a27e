"""Pictures of all faces that models learn from, drawn once and kept as bytes on disk."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from drawing import LETTERS, SIZE, caption, draw, draw_letters, draw_look
from faces import Face
from folder import rng_of

_LABEL = np.dtype([("letters", "U3"), ("ground", "U16")])


@dataclass(frozen=True, kw_only=True)
class Pool:
    """``each`` pictures of every face, one face after the other."""

    rows: np.ndarray  # (faces * each, SIZE, SIZE), bytes, memory-mapped
    labels: np.ndarray  # letters and ground of each
    each: int

    @property
    def faces(self) -> int:
        """How many."""
        return len(self.rows) // self.each

    def pictures(self, rows: Int[Tensor, " B"]) -> Float[Tensor, "B 3 S S"]:
        """RGB in [0, 1]."""
        grey = torch.from_numpy(self.rows[rows.numpy()]).float() / 255
        return grey[:, None].expand(-1, 3, -1, -1)

    def captions(self, rows: Int[Tensor, " B"], subject: str) -> list[str]:
        """What each shows, the face called ``subject``."""
        return [caption(str(letters), str(ground), subject) for letters, ground in self.labels[rows.numpy()]]

    def some(self, count: int, generator: torch.Generator) -> Int[Tensor, " B"]:
        """Random rows."""
        return torch.randint(len(self.rows), (count,), generator=generator)

    def of_faces(self, faces: Int[Tensor, " B"], generator: torch.Generator) -> Int[Tensor, " B"]:
        """A random row of each face."""
        return faces * self.each + torch.randint(self.each, (len(faces),), generator=generator)

    @property
    def single(self) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
        """Rows that show one letter, and the letter's place in `LETTERS`."""
        letters = self.labels["letters"]
        rows = np.flatnonzero(np.char.str_len(letters) == 1)
        return torch.from_numpy(rows), torch.tensor([LETTERS.index(str(letter)) for letter in letters[rows]])


def open_pool(faces: Sequence[Face], each: int, folder: Path) -> Pool:
    """Draw pictures of faces into a folder, or open them where they are there. All letters come equally often."""
    path, labels_path = folder / "pool.npy", folder / "labels.npy"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / "pool.part"
        rows = np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=(len(faces) * each, SIZE, SIZE))
        labels = np.zeros(len(rows), _LABEL)
        for i, face in enumerate(faces):
            rng = rng_of("pool", face.name)
            for j in range(each):
                letters, look = draw_letters(rng, LETTERS[(i + j) % len(LETTERS) :]), draw_look(rng)
                rows[i * each + j] = draw(face.font, face.metrics, letters, look)
                labels[i * each + j] = letters, look.ground
        rows.flush()
        np.save(labels_path, labels)
        part.rename(path)
    return Pool(rows=np.load(path, mmap_mode="r"), labels=np.load(labels_path), each=each)
