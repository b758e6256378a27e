"""What is found in one photo: its content's hash, its face, how good it is, and why it cannot be used, if so."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from lorasynth.encoders.images import read_photo, to_square
from lorasynth.encoders.protocol import Encoder, read_each
from lorasynth.encoders.remarks import Remark
from lorasynth.errors import PhotoError
from lorasynth.gallery.folder import PhotoGallery
from lorasynth.gallery.forms import PhotoFile
from lorasynth.gallery.gallery import PhotoRef, Use

THUMB = 16
"""Pixels a side of the grey thumbnails that near duplicates are found by."""
TOO_BAD = ("blurred", "profile")
"""Warnings of an encoder for which a photo is left out; other warnings are said and the photo is used."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Finding:
    """What is found in a photo by itself, without a look at others."""

    file: PhotoFile
    sha256: str = ""  # of the file; empty where it cannot be read
    reason: str = ""  # one word why it cannot be used; empty where it can
    words: str = ""  # the same for people
    quality: float | None = None
    warnings: tuple[str, ...] = ()
    thumb: bytes = bytes(THUMB**2)
    embedding: Float[Tensor, " D"] | None = None


Recall = Callable[[PhotoFile, str], "Finding | None"]
"""What is known of a photo by the sha256 of its file."""


def look_at(
    gallery: PhotoGallery, encoder: Encoder, files: Iterable[PhotoFile], recall: Recall = lambda *_: None
) -> Iterator[Finding]:
    """Open and embed photos of a gallery, one at a time. A bad one ends nothing.

    Args:
        gallery: whose.
        encoder: embeds them.
        files: which.
        recall: what is known of a photo already; it is not embedded again.
    """
    for file in files:
        try:
            content = gallery.content(file.name)
            if file.mask is not None:
                gallery.masks([PhotoRef(file.subject, file.name, Use.FIT)], THUMB)
        except PhotoError as error:
            yield Finding(file=file, reason=error.code, words=_without(file.name, str(error)))
            continue
        sha256 = hashlib.sha256(content).hexdigest()
        yield recall(file, sha256) or _look_at(encoder, file, content, sha256)


def _look_at(encoder: Encoder, file: PhotoFile, content: bytes, sha256: str) -> Finding:
    try:
        image = read_photo(content, file.name).image
    except PhotoError as error:
        return Finding(file=file, sha256=sha256, reason=error.code, words=_without(file.name, str(error)))
    (reading,) = read_each(encoder, [image])
    thumb = _thumb(image)
    if isinstance(reading, PhotoError):
        words = _without("photo", str(reading))
        return Finding(file=file, sha256=sha256, thumb=thumb, reason=reading.code, words=words)
    bad = next((w for w in reading.warnings if _code(w) in TOO_BAD), None)
    return Finding(
        file=file, sha256=sha256, thumb=thumb, embedding=reading.embedding.cpu(), quality=reading.quality,
        reason=_code(bad) if bad else "", words=_without("photo", bad) if bad else "",
        warnings=tuple(_without("photo", w) for w in reading.warnings if w is not bad),
    )  # fmt: skip


def _code(remark: str) -> str:
    """The name of a remark of this package's encoders; others' have none."""
    return remark.code if isinstance(remark, Remark) else ""


def _thumb(image: Image.Image) -> bytes:
    return np.asarray(to_square(image, THUMB).convert("L")).tobytes()


def _without(name: str, words: str) -> str:
    return words.removeprefix(f"{name}: ")


def thumbs(findings: Iterable[Finding]) -> Float[Tensor, "B d"]:
    """Thumbnails as rows of values from 0 to 1."""
    rows = [np.frombuffer(finding.thumb, np.uint8) for finding in findings]
    return torch.from_numpy(np.stack(rows).astype(np.float32) / 255) if rows else torch.zeros(0, THUMB**2)
