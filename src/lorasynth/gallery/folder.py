"""Photographs of subjects in a folder, a ZIP archive or a data set, as a gallery."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from lorasynth.encoders.decoding import decode
from lorasynth.encoders.images import photo_tensor, read_photo
from lorasynth.encoders.orientation import upright
from lorasynth.errors import PhotoError, UsageError
from lorasynth.gallery.forms import TRIGGER, LeftOut, PhotoFile, list_photos
from lorasynth.gallery.gallery import PhotoRef, Split, Use
from lorasynth.gallery.splits import FEWEST_PHOTOS, split_photos, split_subjects
from lorasynth.gallery.trees import Tree

INSTANCE_PROMPT = "a photo of sks person"
_HEAD = re.compile(
    r"(?:an?\s+)?(?:photo(?:graph)?|picture|portrait|image|painting|drawing)\s+of\s+(?:an?\s+)?(.+)", re.I
)
_PROMPTS = tuple(
    head.format(TRIGGER)
    for head in ("a photo of {}", "a photo of {} on a beach", "a painting of {}", "a pencil drawing of {}")
)
_SAME_SHAPE = 0.02  # that a mask's and its photo's proportions may differ by


def subject_of(instance_prompt: str) -> str:
    """What an instance prompt calls the subject: "sks person" of "a photo of sks person"."""
    match = _HEAD.fullmatch(instance_prompt)
    return match.group(1) if match else instance_prompt


@dataclass(frozen=True, kw_only=True, eq=False)
class PhotoGallery:
    """Photos of subjects, as `list_photos` found them."""

    tree: Tree
    files: tuple[PhotoFile, ...]
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()
    instance_prompt: str = INSTANCE_PROMPT
    asked: tuple[str, ...] = ()  # prompts of evaluation, with TRIGGER for the subject; () for the usual ones
    use_masks: bool = True
    keep_alike: bool = (
        False  # whether subjects that look like one are taken for the different ones that they are called
    )
    hidden: tuple[str, ...] = ()  # subjects whose photos are not looked at; nobody else changes split for it
    contents: Mapping[str, str] = field(default_factory=dict)  # the sha256 of each file, where they are known

    def __repr__(self) -> str:
        """In a line: thousands of files would fill a notebook."""
        return f"PhotoGallery({self.name!r}, {len(self.files):,} photos)"

    @classmethod
    def open(
        cls, tree: Tree, *, instance_prompt: str = INSTANCE_PROMPT, masks: bool = True, keep_alike: bool = False
    ) -> "PhotoGallery":
        """List the photos of a folder, archive or data set. None is opened.

        Args:
            tree: its files.
            instance_prompt: the caption of photos that have none, such as "a photo of sks person" (DreamBooth's).
            masks: whether mask files and transparent parts say where the loss looks.
            keep_alike: whether subjects that look like one stay, as typefaces or products do that differ in little.

        Raises:
            UsageError: there is no photo, a table cannot be read, or the prompt names nobody.
        """
        found = list_photos(tree, masks=masks)
        gallery = cls(
            tree=tree, files=found.photos, left_out=found.left_out, notes=found.notes,
            instance_prompt=" ".join(instance_prompt.split()), use_masks=masks,
            keep_alike=keep_alike,
        )  # fmt: skip
        if not gallery.subject:
            raise UsageError(f"expected an instance prompt such as {INSTANCE_PROMPT!r}, got {instance_prompt!r:.80}")
        return gallery

    @property
    def name(self) -> str:
        """Of the folder, archive or data set."""
        return self.tree.name

    @cached_property
    def record(self) -> dict[str, Any]:
        """How many subjects and photos there are, a hash of names, sizes, captions and masks, and whether alike subjects stay."""
        lines = [[p.name, p.subject, p.size, p.caption, p.mask] for p in self.files]
        digest = hashlib.sha256(json.dumps([self.instance_prompt, self.use_masks, *lines]).encode()).hexdigest()
        return {
            "kind": "photos", "name": self.name, "subjects": len(self.by_subject), "photos": len(self.files),
            "instance_prompt": self.instance_prompt, "hash": digest, **({"alike": "keep"} if self.keep_alike else {}),
        }  # fmt: skip

    @property
    def subject(self) -> str:
        """What the instance prompt calls the subject."""
        return subject_of(self.instance_prompt)

    @property
    def prompts(self) -> tuple[str, ...]:
        """What was asked for, or the subject as a photo, elsewhere, and in other styles."""
        return tuple(prompt.replace(TRIGGER, self.subject) for prompt in self.asked or _PROMPTS)

    @cached_property
    def by_subject(self) -> dict[str, tuple[PhotoFile, ...]]:
        """The photos of each subject, in the order of names."""
        found: dict[str, list[PhotoFile]] = {}
        for file in self.files:
            found.setdefault(file.subject, []).append(file)
        return {subject: tuple(found[subject]) for subject in sorted(found)}

    def hide(self, subjects: Collection[str]) -> "PhotoGallery":
        """The same gallery without the photos of some subjects."""
        files = tuple(file for file in self.files if file.subject not in subjects)
        return replace(self, files=files, hidden=(*self.hidden, *sorted(subjects)))

    @cached_property
    def _splits(self) -> dict[Split, list[str]]:
        enough = [s for s, files in self.by_subject.items() if len(files) >= FEWEST_PHOTOS]
        splits = split_subjects([*enough, *self.hidden])
        return {split: [s for s in part if s not in self.hidden] for split, part in splits.items()}

    def subjects(self, split: Split) -> Sequence[str]:
        """The subjects of a split that have at least `FEWEST_PHOTOS` photos.

        Raises:
            UsageError: there are too few subjects to split.
        """
        return self._splits[split]

    @cached_property
    def _uses(self) -> dict[str, dict[Use, list[str]]]:
        return {
            subject: split_photos(subject, {f.name: self.contents.get(f.name, f.name) for f in files})
            for subject, files in self.by_subject.items()
        }

    def photos(self, subject: str, use: Use, count: int) -> list[PhotoRef]:
        """The first photos of a subject that serve a purpose. Fewer than ``count`` where there are not so many.

        Raises:
            UsageError: the gallery has no such subject.
        """
        if subject not in self._uses:
            raise UsageError(f"{self.name}: expected one of its {len(self.by_subject)} subjects, got {subject!a:.80}")
        return [PhotoRef(subject, name, use) for name in self._uses[subject][use][:count]]

    def content(self, name: str) -> bytes:
        """A photo's file.

        Raises:
            PhotoError: it cannot be read.
        """
        return self.tree.read(name)

    def images(self, photos: Sequence[PhotoRef]) -> list[Image.Image]:
        """Whole photos, upright and RGB.

        Raises:
            PhotoError: a photo cannot be read.
        """
        return [read_photo(self.content(photo.name), photo.name).image for photo in photos]

    def pictures(self, photos: Sequence[PhotoRef], size: int) -> Float[Tensor, "B 3 S S"]:
        """RGB in [0, 1]: the central squares, ``size`` pixels a side.

        Raises:
            PhotoError: a photo cannot be read.
        """
        found = [photo_tensor(image, size) for image in self.images(photos)]
        return torch.stack(found) if found else torch.zeros(0, 3, size, size)

    @cached_property
    def _files(self) -> dict[str, PhotoFile]:
        return {file.name: file for file in self.files}

    def masks(self, photos: Sequence[PhotoRef], size: int) -> Float[Tensor, "B 1 S S"] | None:
        """1 where the loss looks, by a mask file or else by what is not transparent. None where no photo has a mask.

        Raises:
            PhotoError: a mask cannot be read, or is of another shape than its photo.
        """
        found = [self._mask(self._files[photo.name], size) for photo in photos] if self.use_masks else []
        if all(mask is None for mask in found):
            return None
        return torch.stack([torch.ones(1, size, size) if mask is None else mask for mask in found])

    def _mask(self, file: PhotoFile, size: int) -> Float[Tensor, "1 S S"] | None:
        content = self.content(file.name)
        photo = read_photo(content, file.name).image
        if file.mask is None:
            return _alpha(content, size)
        mask = read_photo(self.content(file.mask), file.mask).image
        if abs(mask.width / mask.height * photo.height / photo.width - 1) > _SAME_SHAPE:
            raise PhotoError(
                f"{file.mask}: expected a mask of the shape of {file.name}, {photo.width} x {photo.height}, got "
                f"{mask.width} x {mask.height}; make it anew, or give --masks ignore"
            )
        return photo_tensor(mask, size).mean(0, keepdim=True)

    def captions(self, photos: Sequence[PhotoRef]) -> list[str]:
        """Each photo's caption with `subject` in place of "[trigger]", or the instance prompt."""
        found = (self._files[photo.name].caption for photo in photos)
        return [self.instance_prompt if c is None else c.replace(TRIGGER, self.subject) for c in found]

    def unnamed(self) -> int:
        """How many captions do not name the subject: a LoRA learns less from such photos."""
        words = Counter(self.subject.lower() in self.captions([_ref(f)])[0].lower() for f in self.files)
        return words[False]


def _ref(file: PhotoFile) -> PhotoRef:
    return PhotoRef(file.subject, file.name, Use.FIT)


def _alpha(content: bytes, size: int) -> Float[Tensor, "1 S S"] | None:
    """What is not transparent in a photo that `read_photo` opens. None where everything is seen."""
    decoded = decode(content)
    if not decoded.picture.has_transparency_data:
        return None
    alpha = upright(decoded.picture.convert("RGBA").getchannel("A"), decoded.orientation)
    return photo_tensor(alpha.convert("RGB"), size)[:1] if np.asarray(alpha).min() < 255 else None
