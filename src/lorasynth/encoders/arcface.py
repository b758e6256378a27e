"""Photographs -> unit vectors by any recogniser file of insightface's convention, over onnxruntime: ArcFace, SFace and their kin.

    encoder = ArcFaceEncoder("w600k_r50.onnx", detector=Scrfd("det_10g.onnx"))
    person = pool_readings(encoder.read(paths))

The files are the user's own: nothing is downloaded. Shapes: B photos, S pixels a side, D embedding.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from lorasynth.encoders.alignment import align
from lorasynth.encoders.detectors import Detector
from lorasynth.encoders.faces import Choice, find_face, judge
from lorasynth.encoders.graphs import Graph
from lorasynth.encoders.images import OpenedPhoto, Photo, photo_tensor
from lorasynth.encoders.licences import licence_of
from lorasynth.encoders.protocol import Reading, batched, opened
from lorasynth.encoders.records import Record, encoder_record
from lorasynth.encoders.remarks import Remark
from lorasynth.errors import FaceError, ModelError, UsageError
from lorasynth.storage.reading import sha256_file

PIXELS = ("auto", "scaled", "raw")
"""What a network takes: whichever its file tells, (x - 127.5) / 127.5, or x from 0 to 255."""
DEFAULT_SIZE = 112
_BATCH = 32  # photos at once; more gain nothing on a CPU

Prepared = tuple[Float[Tensor, "3 S S"], float | None, tuple[Remark, ...], tuple[Remark, ...]]
"""An aligned face, its quality, notes and warnings."""


class ArcFaceEncoder:
    """One recogniser: RGB faces of Bx3xSxS in, BxD out. With a detector, faces are found and aligned first."""

    opens_photos = True
    """`read` takes files' names, bytes, arrays and images alike."""

    def __init__(
        self,
        path: str | Path,
        *,
        detector: Detector | None = None,
        face: Choice = None,
        pixels: str = "auto",
        name: str | None = None,
        licence: str | None = None,
    ):
        """Open a recogniser.

        Args:
            path: of its ONNX file, w600k_r50.onnx or glintr100.onnx, say.
            detector: what finds the face. Without one, photos are taken for faces that are aligned already, and only the central
                square is taken.
            face: which of several faces to take; None refuses.
            pixels: the range that the network takes. "auto" goes by insightface's rule: a network that begins by a subtraction
                and a multiplication scales pixels itself. OpenCV's SFace takes "raw".
            name: what to call it in its record; by default the file's name.
            licence: of the files, for its record; by default what their sha256 and a model card beside them tell.

        Raises:
            MissingExtraError: onnxruntime is not installed.
            ModelError: the file is not a recogniser.
            UsageError: ``pixels`` is none of the three.
        """
        if pixels not in PIXELS:
            raise UsageError(f"expected pixels='auto', 'scaled' or 'raw', got {pixels!r}")
        self.graph = Graph(path)
        self.detector, self.face = detector, face
        shape, outputs = self.graph.input_shape, self.graph.output_shapes
        square = len(shape) == 4 and shape[1] in (3, None) and shape[2] == shape[3]
        if not square or len(outputs) != 1 or len(outputs[0]) != 2:
            raise ModelError(
                f"{path}: expected a recogniser (one input Bx3xSxS, one output BxD), got an input of shape {shape} and outputs "
                f"of {outputs}; give w600k_r50.onnx, glintr100.onnx or another of insightface's convention"
            )
        self._fixed_batch, self._size = shape[0], shape[2] or DEFAULT_SIZE
        scales_itself = set(self.graph.first_operations) == {"Sub", "Mul"}
        self.pixels = ("raw" if scales_itself else "scaled") if pixels == "auto" else pixels
        self._name, self._licence = name or Path(path).name, licence
        self._dim = outputs[0][1] or self._run(torch.zeros(1, 3, self._size, self._size)).shape[1]

    @cached_property
    def record(self) -> Record:
        """Which encoder this is, by its files' content, wherever they lie."""
        paths = {"recogniser": self.graph.path}
        if (found_by := getattr(self.detector, "path", None)) is not None:
            paths["detector"] = found_by
        hashes = {role: sha256_file(path) for role, path in paths.items()}
        return encoder_record(
            kind="face", name=self._name, dim=self.dim, files=hashes,
            input={"size": self.image_size, "pixels": self.pixels},
            detector=None if self.detector is None else type(self.detector).__name__,
            licence=self._licence or licence_of(hashes, self.graph.path.parent),
        )  # fmt: skip

    @property
    def dim(self) -> int:
        """D."""
        return self._dim

    @property
    def image_size(self) -> int:
        """S, pixels a side of the aligned face."""
        return self._size

    def embed(self, photos: Sequence[Photo]) -> Float[Tensor, "B D"]:
        """The embeddings of `read` alone.

        Raises:
            PhotoError: a photo that cannot be opened, is without a face, with several, or with a small one, by its name.
            ModelError: a network's output is not what it should be.
        """
        readings = self.read(photos)
        return torch.stack([r.embedding for r in readings]) if readings else torch.zeros(0, self.dim)

    def read(self, photos: Sequence[Photo], faces: Sequence[Choice] | None = None) -> list[Reading]:
        """Unit embeddings of photos with their quality, what was done to them, and warnings.

        Args:
            photos: files' names, bytes, arrays or images.
            faces: which face to take in each photo; by default what the encoder was made with.

        Raises:
            PhotoError: a photo that cannot be opened, is without a face, with several, or with a small one, by its name.
            UsageError: ``faces`` are not as many as photos, or there is no such face.
            ModelError: a network's output is not what it should be.
        """
        choices = [self.face] * len(photos) if faces is None else list(faces)
        if len(choices) != len(photos):
            raise UsageError(f"expected a choice of face for each of {len(photos)} photos, got {len(choices)}")
        readings: list[Reading] = []
        prepared = (self._prepare(*photo, choice) for photo, choice in zip(opened(photos), choices, strict=True))
        for batch in batched(prepared, _BATCH):
            embeddings = self.embed_crops(torch.stack([crop for crop, *_ in batch]))
            readings += [
                Reading(embedding=embedding, quality=quality, notes=notes, warnings=warnings)
                for embedding, (_, quality, notes, warnings) in zip(embeddings, batch, strict=True)
            ]
        return readings

    def _prepare(self, name: str, photo: OpenedPhoto, choice: Choice) -> Prepared:
        """`prepare` of an opened photo, whose name stands before what is wrong with it."""
        try:
            crop, quality, notes, warnings = self.prepare(photo.image, choice)
        except (FaceError, UsageError) as error:
            raise type(error)(f"{name}: {error}") from None
        return crop, quality, (*photo.notes, *notes), warnings

    def prepare(self, image: Image.Image, choice: Choice = None) -> Prepared:
        """The aligned face in [0, 1] of an upright RGB picture, its quality, notes and warnings.

        Raises:
            FaceError: there is no face, several, or a small one.
            UsageError: there is no such face.
        """
        if self.detector is None:
            return photo_tensor(image, self._size), None, (), ()
        face, notes = find_face(image, self.detector, choice)
        crop = align(image, face.landmarks, self._size)
        quality, warnings = judge(face, crop)
        return crop, quality, notes, warnings

    def embed_crops(self, crops: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B D"]:
        """Unit embeddings of aligned faces in [0, 1].

        Raises:
            ModelError: the output has a wrong length, is not finite, or has no direction.
        """
        size = self._fixed_batch or _BATCH
        output = torch.cat([self._run(part) for part in crops.split(size)])
        if output.shape != (len(crops), self.dim):
            raise ModelError(
                f"{self.graph.path}: expected an output of shape {(len(crops), self.dim)}, got {tuple(output.shape)}"
            )
        norms = output.norm(dim=1)
        bad = ~(norms.isfinite() & (norms > 1e-6))
        if bool(bad.any()):
            index = int(bad.nonzero()[0])
            raise ModelError(
                f"{self.graph.path}: the embedding of photo {index + 1} of {len(crops)} has norm {float(norms[index]):.1e}; "
                "the file is damaged, or takes another range of pixels"
            )
        return F.normalize(output, dim=1)

    def _run(self, crops: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B D"]:
        """The network's own output, for as many faces as it takes at once or fewer."""
        values = crops.numpy() * 255
        if self.pixels == "scaled":
            values = (values - 127.5) / 127.5
        missing = (self._fixed_batch or 0) - len(crops)
        if missing > 0:
            values = np.concatenate([values, np.zeros((missing, *values.shape[1:]), np.float32)])
        return torch.from_numpy(self.graph(values)[0][: len(crops)])
