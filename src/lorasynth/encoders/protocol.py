"""What every encoder promises: photos in, a `Reading` of each out. Several of one person become one by `pool_readings`.

A photo is whatever `lorasynth.encoders.images.read_photo` opens: a file's name, bytes, an array, a Pillow image. Files are opened
one after the other, so that memory does not grow with their number.

Shapes: B photos, D embedding.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from lorasynth.encoders.images import OpenedPhoto, Photo, photo_name, read_photo
from lorasynth.encoders.remarks import Remark
from lorasynth.errors import PhotoError

T = TypeVar("T")
MIN_AGREEMENT = 1e-3
"""Smallest norm of a mean of unit vectors that still has a direction to speak of."""
SAME_PERSON = 0.3
"""Cosine to the other photos' mean below which a photo may show somebody else; a rule of thumb for ArcFace embeddings."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Reading:
    """What an encoder made of one photo, or of several of one person."""

    embedding: Float[Tensor, " D"]
    quality: float | None  # 0 to 1, to sort photos by; None where it was not measured
    notes: tuple[str, ...] = ()  # what was done to the photo, beyond the usual; ours are `Remark`
    warnings: tuple[str, ...] = ()  # why the embedding may be worse than others


@runtime_checkable
class Encoder(Protocol):
    """Photos -> unit embeddings. Face recognisers, CLIP, DINOv2 and a drawn world's own are interchangeable by this.

    `lorasynth.open_encoder` makes one from its name.
    """

    @property
    def dim(self) -> int:
        """D, the length of an embedding."""
        ...

    @property
    def image_size(self) -> int:
        """Pixels a side of the square that it looks at."""
        ...

    @property
    def record(self) -> dict[str, Any]:
        """What is written into zoos and models made with it, as JSON values (see `lorasynth.encoders.records`)."""
        ...

    def read(self, photos: Sequence[Image.Image]) -> list[Reading]:
        """Embed photos, each with how good it was and what was done to it.

        Args:
            photos: RGB pictures of any size, as `read_photo` gives them; `read_all` opens them first where an encoder does not.

        Raises:
            PhotoError: a photo is not one that it can embed, a face encoder's photo without a face, say. The message begins with
                the photo's path, or its number.
        """
        ...

    def embed(self, photos: Sequence[Image.Image]) -> Float[Tensor, "B D"]:
        """The embeddings of `read` alone.

        Raises:
            PhotoError: a photo is not one that it can embed.
        """
        ...


def opened(photos: Sequence[Photo]) -> Iterator[tuple[str, OpenedPhoto]]:
    """What to call each photo in messages, and the photo, opened when it is asked for.

    Raises:
        PhotoError: a photo cannot be opened, by its name.
    """
    for number, photo in enumerate(photos, start=1):
        name = photo_name(photo, number, len(photos))
        yield name, read_photo(photo, name)


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of at most ``size`` of them, each made when it is asked for (Python 3.12 has it in itertools)."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def read_all(encoder: Encoder, photos: Sequence[Photo], **options: Any) -> list[Reading]:
    """The readings of photos by any encoder, also one that takes opened pictures only.

    Args:
        encoder: reads them. This package's say by ``opens_photos`` that they open photos themselves.
        photos: whatever `read_photo` opens; one at a time is in memory.
        **options: of the encoder's ``read``.

    Raises:
        PhotoError: a photo cannot be opened or embedded, by its path or number.
    """
    if getattr(encoder, "opens_photos", False):
        return encoder.read(photos, **options)  # type: ignore[arg-type]  # what the attribute promises
    return [_read_opened(encoder, name, photo, options) for name, photo in opened(photos)]


def _read_opened(encoder: Encoder, name: str, photo: OpenedPhoto, options: dict[str, Any]) -> Reading:
    try:
        (reading,) = encoder.read([photo.image], **options)
    except PhotoError as error:
        raise type(error)(f"{name}: {str(error).removeprefix('photo: ')}") from None
    return replace(reading, notes=(*photo.notes, *reading.notes))


def read_each(encoder: Encoder, photos: Iterable[Photo]) -> Iterator[Reading | PhotoError]:
    """A reading of each photo, or the reason why there is none: one bad photo does not end the work on others.

    The reason's ``code`` names it for programs: "no-face", "several-faces", "small-face", "turned-face", "outside-world", or
    "photo" for a file that cannot be opened. So does that of each note and warning of a reading.

    Args:
        encoder: reads them.
        photos: of whomever; one at a time is in memory.
    """
    for photo in photos:
        try:
            yield read_all(encoder, [photo])[0]
        except PhotoError as error:
            yield error


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
        number = int((~finite).nonzero()[0]) + 1
        raise PhotoError(f"the embedding of photo {number} of {len(embeddings)} is not finite; leave that photo out")
    mean = embeddings.mean(dim=0)
    norm = float(mean.norm())
    if norm < MIN_AGREEMENT:
        raise PhotoError(
            f"expected photos of one person, got {len(embeddings)} embeddings whose mean has norm {norm:.1e}; "
            "give photos of the same person"
        )
    return F.normalize(mean, dim=0)


def outliers(embeddings: Float[Tensor, "B D"], least: float = SAME_PERSON) -> list[tuple[int, float]]:
    """The photos that do not look like the others: index (from 0), and cosine to the mean of the others.

    Of two photos that disagree both are named: nothing says which of them is the person.

    Args:
        embeddings: unit rows, one for each photo.
        least: smallest cosine that passes.
    """
    if len(embeddings) < 2:
        return []
    others = F.normalize(embeddings.sum(dim=0) - embeddings, dim=1)
    cosines = (embeddings * others).sum(dim=1).tolist()
    return [(index, cosine) for index, cosine in enumerate(cosines) if cosine < least]


def pool_readings(readings: Sequence[Reading], names: Sequence[str] | None = None) -> Reading:
    """One reading from several photos of one person: `pool` of the embeddings, the mean quality, and each photo's words.

    Outliers are named in the warnings and stay in the mean: to leave a photo out is the user's to decide.

    Args:
        readings: of the photos.
        names: what to call the photos; by default "photo 1 of 3" and so on, and a single one nothing.

    Raises:
        PhotoError: there is no photo, an embedding is not finite, or they cancel each other out.
    """
    if not readings:
        raise PhotoError("expected at least one photo to pool, got none")
    embeddings = torch.stack([reading.embedding for reading in readings])
    pooled, count = pool(embeddings), len(readings)
    if names is None:
        names = [f"photo {number} of {count}" for number in range(1, count + 1)] if count > 1 else [""]
    qualities = [reading.quality for reading in readings if reading.quality is not None]
    notes = [Remark.about(name, note) for name, reading in zip(names, readings, strict=True) for note in reading.notes]
    warnings = [
        Remark.about(name, word) for name, reading in zip(names, readings, strict=True) for word in reading.warnings
    ]
    for index, cosine in outliers(embeddings):
        words = f"may show somebody else: cosine {cosine:.2f} to the mean of the others"
        warnings.append(Remark.about(names[index], Remark("stranger", words)))
    quality = sum(qualities) / len(qualities) if qualities else None
    return Reading(embedding=pooled, quality=quality, notes=tuple(notes), warnings=tuple(warnings))
