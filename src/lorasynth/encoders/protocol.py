"""What every encoder promises: photos of one person in, unit vectors out. Several photos become one vector by `pool`.

Shapes: B photos, D embedding.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from lorasynth.errors import PhotoError

MIN_AGREEMENT = 1e-3
"""Smallest norm of a mean of unit vectors that still has a direction to speak of."""


@runtime_checkable
class Encoder(Protocol):
    """Photos -> unit embeddings. ArcFace, CLIP and a drawn world's recogniser are interchangeable by this."""

    @property
    def name(self) -> str:
        """What is written into models made with it, to refuse another encoder later."""
        ...

    @property
    def embedding_dim(self) -> int:
        """D, the length of an embedding."""
        ...

    @property
    def image_size(self) -> int:
        """Pixels a side of the square that it looks at."""
        ...

    def embed(self, images: Sequence[Image.Image]) -> Float[Tensor, "B D"]:
        """Embed photos, RGB and of any size, as unit vectors.

        Raises:
            PhotoError: a photo is not one that it can embed, a face encoder's photo without a face, say.
        """
        ...


def pool(embeddings: Float[Tensor, "B D"]) -> Float[Tensor, " D"]:
    """One condition vector from several photos of one person: the mean of their embeddings, brought back to unit norm.

    The mean direction is the maximum-likelihood one of unit vectors spread evenly about it (von Mises-Fisher; Mardia & Jupp,
    Directional Statistics, 10.3.1). One photo is pooled to itself.

    Args:
        embeddings: one row for each photo; a row counts by its norm, so give unit rows.

    Raises:
        PhotoError: there is no row, a row is not finite, or the rows cancel each other out.
    """
    if len(embeddings) == 0:
        raise PhotoError("expected at least one photo to pool, got none")
    finite = embeddings.isfinite().all(dim=1)
    if not bool(finite.all()):
        raise PhotoError(f"the embedding of photo {int((~finite).nonzero()[0])} is not finite; leave that photo out")
    mean = embeddings.mean(dim=0)
    norm = float(mean.norm())
    if norm < MIN_AGREEMENT:
        raise PhotoError(
            f"expected photos of one person, got {len(embeddings)} embeddings whose mean has norm {norm:.1e}; "
            "give photos of the same person"
        )
    return F.normalize(mean, dim=0)
