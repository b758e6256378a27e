"""Any encoder of photos as a recogniser of drawn pictures."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from lorasynth.encoders.images import to_image
from lorasynth.encoders.protocol import Encoder, read_each
from lorasynth.errors import PhotoError


@dataclass(frozen=True, eq=False)
class PictureRecogniser:
    """Any encoder of photos as a recogniser of drawn pictures: one in which it finds nothing has the embedding zero."""

    encoder: Encoder

    def __call__(self, pictures: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B D"]:
        """Pictures in [0, 1] -> unit embeddings, or zero."""
        return self.images([to_image(picture) for picture in pictures]).to(pictures.device)

    def images(self, images: Sequence[Image.Image]) -> Float[Tensor, "B D"]:
        """The same of Pillow images."""
        readings = read_each(self.encoder, images)
        nothing = torch.zeros(self.encoder.dim)
        return torch.stack([nothing if isinstance(r, PhotoError) else r.embedding.to(nothing) for r in readings])
