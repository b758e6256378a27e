"""CLIP and DINOv2 image towers over transformers: photos of anything -> unit vectors. For what is not a face.

The folder is the user's own, or the hub's: config.json, preprocessor_config.json and safetensors, as transformers writes them.
Neither code nor pickle in it is run. Shapes: B photos, S pixels a side, D embedding.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from lorasynth.encoders.images import OpenedPhoto, Photo
from lorasynth.encoders.licences import licence_of
from lorasynth.encoders.protocol import Reading, batched, opened
from lorasynth.encoders.records import Record, encoder_record
from lorasynth.encoders.remarks import Remark
from lorasynth.errors import ModelError
from lorasynth.storage.reading import read_json, sha256_file

MODEL_TYPES = {"clip": ("clip", "clip_vision_model"), "dinov2": ("dinov2", "dinov2_with_registers")}
"""What config.json calls each kind."""
_CLASSES = {
    "clip": "CLIPModel",
    "clip_vision_model": "CLIPVisionModelWithProjection",
    "dinov2": "Dinov2Model",
    "dinov2_with_registers": "Dinov2WithRegistersModel",
}
_PROCESSORS = {"clip": "CLIP", "dinov2": "Bit"}
"""How the name of each kind's image processor begins in preprocessor_config.json."""
_CONFIG, _PROCESSOR = "config.json", "preprocessor_config.json"
_BATCH = 16  # photos at once


class ImageTower:
    """One image tower: CLIP's embedding (Radford et al., ICML 2021), or DINOv2's normed class token (Oquab et al., TMLR 2024)."""

    opens_photos = True
    """`read` takes files' names, bytes, arrays and images alike."""

    def __init__(self, folder: Path, *, kind: str, name: str):
        """Open a folder.

        Args:
            folder: with config.json, preprocessor_config.json and safetensors.
            kind: "clip" or "dinov2".
            name: what to call it.

        Raises:
            ModelError: it is not such a folder, or weights are missing in it.
        """
        self.folder, self.kind, self._name = folder, kind, name
        self._files = _files_of(folder, kind)
        self._model, self._processor = _load(folder)
        trial = self._pixels(Image.new("RGB", (64, 64)))
        self._image_size, self._dim = trial.shape[-1], self._run(trial).shape[1]

    @cached_property
    def record(self) -> Record:
        """Which encoder this is, by its files' content, wherever they lie."""
        hashes = {name: sha256_file(path) for name, path in self._files.items()}
        return encoder_record(
            kind=self.kind, name=self._name, dim=self.dim, files=hashes, input={"size": self.image_size},
            licence=licence_of(hashes, self.folder),
        )  # fmt: skip

    @property
    def dim(self) -> int:
        """D."""
        return self._dim

    @property
    def image_size(self) -> int:
        """S, pixels a side of the square that it looks at."""
        return self._image_size

    def read(self, photos: Sequence[Photo]) -> list[Reading]:
        """Unit embeddings of photos, as their folder's processor prepares them.

        Raises:
            PhotoError: a photo cannot be opened, by its name.
            ModelError: an embedding is not finite or has no direction.
        """
        readings: list[Reading] = []
        for batch in batched((self._prepare(*photo) for photo in opened(photos)), _BATCH):
            output = self._run(torch.cat([pixels for _, pixels, _ in batch]))
            for embedding, (name, _, notes) in zip(output, batch, strict=True):
                norm = float(embedding.norm())
                if not 1e-6 < norm < float("inf"):
                    raise ModelError(
                        f"{self.folder}: the embedding of {name} has norm {norm:.1e}; the weights are damaged, get them again"
                    )
                readings.append(Reading(embedding=F.normalize(embedding, dim=0), quality=None, notes=notes))
        return readings

    def embed(self, photos: Sequence[Photo]) -> Float[Tensor, "B D"]:
        """The embeddings of `read` alone.

        Raises:
            PhotoError: a photo cannot be opened, by its name.
            ModelError: an embedding is not finite or has no direction.
        """
        readings = self.read(photos)
        return torch.stack([reading.embedding for reading in readings]) if readings else torch.zeros(0, self._dim)

    def pictures(self, images: Sequence[Image.Image]) -> Float[Tensor, "B D"]:
        """Unit embeddings of pictures of any size, as this program draws them: nothing about them is refused."""
        parts = [torch.cat([self._pixels(image) for image in batch]) for batch in batched(images, _BATCH)]
        return F.normalize(torch.cat([self._run(part) for part in parts]), dim=1)

    def _prepare(self, name: str, photo: OpenedPhoto) -> tuple[str, Float[Tensor, "1 3 S S"], tuple[Remark, ...]]:
        """A photo's name, what the network takes, and what was done to the photo."""
        image, notes = photo.image, photo.notes
        if getattr(self._processor, "do_center_crop", False) and image.width != image.height:
            words = f"of {image.width} x {image.height} pixels only the central square was looked at"
            notes = (*notes, Remark("cropped", words))
        return name, self._pixels(image), notes

    def _pixels(self, image: Image.Image) -> Float[Tensor, "1 3 S S"]:
        """What the network takes."""
        return self._processor(images=[image], return_tensors="pt")["pixel_values"].float()

    @torch.no_grad()
    def _run(self, pixels: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B D"]:
        """The network's own output."""
        if self.kind == "clip":
            return self._model.visual_projection(self._model.vision_model(pixel_values=pixels).pooler_output)
        return self._model(pixel_values=pixels).pooler_output


def _files_of(folder: Path, kind: str) -> dict[str, Path]:
    """The files that make up a tower, by name."""
    if not folder.is_dir():
        raise ModelError(f"{folder}: expected a folder of a {kind} model, got a file; give the folder that it lies in")
    weights = sorted(folder.glob("*.safetensors"))
    files = {path.name: path for path in [folder / _CONFIG, folder / _PROCESSOR, *weights]}
    missing = [name for name, path in files.items() if not path.is_file()] + ([] if weights else ["safetensors"])
    if missing:
        found = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
        raise ModelError(
            f"{folder}: expected {_CONFIG}, {_PROCESSOR} and safetensors of a {kind} model, got {found} (no {missing[0]}); give "
            "a folder as transformers saves it. Pickled weights (.bin) are not read: convert them"
        )
    config, preparation = (read_json(folder / name) for name in (_CONFIG, _PROCESSOR))
    found_type = config.get("model_type") if isinstance(config, dict) else None
    if found_type not in MODEL_TYPES[kind]:
        raise ModelError(
            f"{folder}: expected a model of type {' or '.join(MODEL_TYPES[kind])}, got {found_type!r}; "
            f"{', '.join(f'{k}:FOLDER' for k in MODEL_TYPES)} are what can be opened"
        )
    allowed = tuple(_PROCESSORS[kind] + ending for ending in ("ImageProcessor", "FeatureExtractor"))
    keys = ("image_processor_type", "feature_extractor_type")
    by = (
        next((preparation[k] for k in keys if k in preparation), allowed[0])
        if isinstance(preparation, dict)
        else "nothing"
    )
    if not str(by).startswith(allowed):
        raise ModelError(
            f"{folder / _PROCESSOR}: expected photos prepared by {allowed[0]}, as {kind} is trained, got {by!r}; give another"
        )
    return files


def _load(folder: Path) -> tuple[Any, Any]:
    """The network, frozen, in fp32, and what prepares photos for it: by PIL, for torchvision is not to be had everywhere."""
    model_type = read_json(folder / _CONFIG)["model_type"]
    preparer = "CLIPImageProcessorPil" if model_type.startswith("clip") else "BitImageProcessorPil"
    model, processor = open_parts(folder, _CLASSES[model_type], preparer)
    if hasattr(model, "text_model"):
        del model.text_model
    return model, processor


def open_parts(folder: Path, network: str, preparer: str) -> tuple[Any, Any]:
    """A network of a folder, frozen, in fp32, with all of its weights; and what prepares its input.

    NOTE: by classes of transformers' own, not by its Auto ones, which ask on the terminal whether to run a folder's code.

    Raises:
        ModelError: one of them cannot be opened, or weights are missing.
    """
    import transformers

    try:
        with _quiet():
            model, info = getattr(transformers, network).from_pretrained(
                folder, use_safetensors=True, local_files_only=True, dtype=torch.float32, output_loading_info=True
            )
            prepare = getattr(transformers, preparer).from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers' errors have no class in common
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{folder}: transformers cannot open it ({reason}); get the files again") from None
    # NOTE: transformers fills what a file lacks with random numbers, and says so in its log only.
    if missing := sorted(info["missing_keys"]):
        raise ModelError(
            f"{folder}: expected all weights of {type(model).__name__}, got none for {missing[0]} (and {len(missing) - 1} more); "
            "get the files again"
        )
    return model.eval().requires_grad_(False), prepare


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' own log and progress bars, which say much about what is of no concern here."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
