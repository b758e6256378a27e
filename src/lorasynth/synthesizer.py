"""Photos of a person in, a LoRA out: the whole method in one function."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lorasynth.devices import one_thread
from lorasynth.drawn.encoder import WorldEncoder
from lorasynth.encoders.images import Photo, is_photo
from lorasynth.encoders.protocol import Encoder, pool_readings, read_all
from lorasynth.errors import UsageError
from lorasynth.lora.factors import LoRA
from lorasynth.model_folder import SETTINGS, how_to_give, read_synthesizer
from lorasynth.pretrained import Pretrained
from lorasynth.prior.baselines import Baseline
from lorasynth.storage.schema import Misfit, fit, record
from lorasynth.teaching import shortcoming_of_model
from lorasynth.version import __version__
from lorasynth.worlds.world import ASSETS, DEFAULT_WORLD, WORLDS, get_domain

DEFAULT_MODEL = ASSETS / DEFAULT_WORLD / "synthesizer"
MAX_SEED = 2**63 - 1
_PERSON = "sks person"  # what real bases call the subject (DreamBooth's convention)
_ARCHITECTURES = {"sd15": "stable-diffusion-v1", "sdxl": "stable-diffusion-xl-v1-base"}
"""What ModelSpec calls the bases that it knows."""


@dataclass(kw_only=True, repr=False)
class Synthesizer(Pretrained):
    """What a user downloads and calls: ``Synthesizer.from_pretrained(folder)("me.png").save("me.safetensors")``.

    Of one of two kinds. A drawn world's has the world's encoder, which knows at once whether a photo is of that world. A real
    base's is conditioned on an encoder that is the user's own: it says which, and takes no other. Without it, embeddings are all
    that it takes.
    """

    last_seconds: float = field(default=0.0, init=False)  # what the last call took
    last_warnings: tuple[str, ...] = field(default=(), init=False)  # why the last photos may serve badly
    last_notes: tuple[str, ...] = field(default=(), init=False)  # what was done to them, beyond the usual

    def __call__(
        self,
        photos: Photo | Sequence[Photo],
        *,
        seed: int = 0,
        prior: str | None = None,
        allow_outside: bool = False,
        **settings: float | int,
    ) -> LoRA:
        """Photos of one person -> a LoRA.

        Args:
            photos: one or several: files' names, bytes, arrays or Pillow images.
            seed: equal seeds give equal LoRAs, bit for bit.
            prior: which of `priors`.
            allow_outside: of a drawn world's model: use photos that do not look like that world.
            **settings: of the sampler: guidance_scale, num_inference_steps, temperature, scale (see `synthesize`).

        Raises:
            PhotoError: a photo cannot be used (OutsideWorldError: it is of another kind than this model knows).
            UsageError: a value out of range, or a model that was loaded without its encoder.
        """
        start = time.perf_counter()
        # 1. Photos -> one unit embedding.
        embedding = self.embed(photos, allow_outside=allow_outside)
        # 2. Embedding -> latent -> canonical vector -> LoRA vector.
        lora = self._lora(embedding, seed, prior, settings)
        self.last_seconds = time.perf_counter() - start
        return lora

    def from_embedding(
        self, embedding: Float[Tensor, " D"], *, seed: int = 0, prior: str | None = None, **settings: float | int
    ) -> LoRA:
        """An embedding that is there already -> a LoRA.

        Args:
            embedding: by the encoder that the model was made with, of any norm.
            seed: equal seeds give equal LoRAs, bit for bit.
            prior: which of `priors`.
            **settings: of the sampler; see `synthesize`.

        Raises:
            UsageError: the embedding has another length or no direction, or a value is out of range.
        """
        start = time.perf_counter()
        norm = float(embedding.norm())
        if embedding.shape != (self.embedding_dim,) or not 0 < norm < float("inf"):
            raise UsageError(
                f"expected an embedding of {self.embedding_dim} numbers with a direction, got shape {tuple(embedding.shape)} and "
                f"norm {norm:.3g}; make it with the encoder that this model was made with"
            )
        lora = self._lora(embedding.float() / norm, seed, prior, settings)
        self.last_seconds = time.perf_counter() - start
        return lora

    def _lora(self, embedding: Float[Tensor, " D"], seed: int, prior: str | None, settings: dict[str, Any]) -> LoRA:
        """A unit embedding's LoRA, with what its file's header shall say."""
        layout = self.canonicalizer.layout
        vector = self.synthesize(embedding[None], seed=seed, prior=prior, **settings)[0].cpu()
        metadata = {
            "lorasynth.version": __version__,
            "lorasynth.base": self.base,
            "lorasynth.prior": self.default_prior if prior is None else prior,
            "lorasynth.seed": str(seed),
            "lorasynth.layout": layout.hash,
            "lorasynth.synthetic": "true",
            "modelspec.sai_model_spec": "1.0.1",
            "modelspec.architecture": f"{_ARCHITECTURES.get(layout.base, layout.base)}/lora",
            "modelspec.implementation": "diffusers",
            "modelspec.title": "Synthesised LoRA",
            "modelspec.trigger_phrase": self.subject,
            "modelspec.resolution": f"{self.picture_size}x{self.picture_size}",
        }
        if self.base != layout.base:
            metadata["lorasynth.base_model"] = self.base
        return LoRA(layout, vector, metadata)

    @property
    def subject(self) -> str:
        """What prompts call the subject: the world's, or that of the photographs' instance prompt."""
        return get_domain(self.base).subject if self.base in WORLDS else self.record.get("subject", _PERSON)

    @property
    def shortcoming(self) -> str:
        """What is to be said where its own record says that it explains nothing. Else empty."""
        return shortcoming_of_model(self.record.get("made_from"))

    @torch.no_grad()
    def embed(self, photos: Photo | Sequence[Photo], *, allow_outside: bool = False) -> Float[Tensor, " D"]:
        """Photos of one person -> the unit mean of their unit embeddings.

        Raises:
            PhotoError: a photo cannot be used.
            UsageError: there are none, or the model was loaded without its encoder.
        """
        several = _as_list(photos)
        if not several:
            raise UsageError("expected at least one photo, got none")
        if self.encoder is None:
            assert self.encoder_record is not None
            raise UsageError(f"expected an embedding, got photos and no encoder; {how_to_give(self.encoder_record)}")
        self.last_notes = self.last_warnings = ()
        outside = {"allow_outside": True} if allow_outside and isinstance(self.encoder, WorldEncoder) else {}
        with one_thread():
            readings = read_all(self.encoder, several, **outside)
        reading = pool_readings(readings)
        self.last_notes, self.last_warnings = reading.notes, reading.warnings
        return reading.embedding

    @torch.no_grad()
    def synthesize(
        self, embedding: Float[Tensor, "B D"], *, seed: int = 0, prior: str | None = None, **settings: float | int
    ) -> Float[Tensor, "B P"]:
        """Embeddings -> LoRA vectors, by one of the priors with its own settings unless others are given.

        Equal seeds and settings give equal rows, bit for bit, on any number of threads. A row of a batch is another draw than
        the same embedding by itself. At a temperature above 0 each row has noise of its own. At 0 its last digits may differ.

        The setting ``scale`` multiplies the canonical vector, which is a LoRA's deviation from the zoo's mean. What a prior
        finds plausible on average is smaller than any LoRA, and this restores the size. Other settings are the sampler's.

        Raises:
            UsageError: no such prior, a value out of range, or a sampler's setting for a prior that has none.
        """
        name = self.default_prior if prior is None else prior
        if name not in self.priors:
            raise UsageError(f"expected a prior among {sorted(self.priors)}, got {name!r}")
        if not 0 <= seed <= MAX_SEED:
            raise UsageError(f"expected a seed from 0 to 2^63 - 1, got {seed}")
        try:
            plain = {key: value.item() if hasattr(value, "item") else value for key, value in settings.items()}
            fit(record(optional=SETTINGS), plain)
        except Misfit as error:
            raise UsageError(f"{error}") from None
        if isinstance(self.priors[name], Baseline) and (idle := sorted(plain.keys() - {"scale"})):
            raise UsageError(f"expected no {', '.join(idle)} for {name!r}, which has no sampler; leave it out")
        chosen: dict[str, Any] = {**self.settings.get(name, {}), **plain}
        scale = chosen.pop("scale", 1.0)
        # Sample a latent (Section 3.4); decode it (3.3); undo scale and gauge (3.2).
        with one_thread():
            z = self.priors[name].predict(embedding, seed=seed, **chosen)
            return self.canonicalizer.invert(scale * self.vae.decode(z))

    @classmethod
    def from_pretrained(
        cls, folder: str | Path = DEFAULT_MODEL, *, encoder: str | Encoder | None = None
    ) -> "Synthesizer":
        """Read a synthesizer: a folder, the name of a drawn world, or the id of a Hugging Face hub repository.

        Args:
            folder: or name, or hub id.
            encoder: of a real base's model: what `lorasynth.open_encoder` takes, or an encoder. Without it, the model
                takes embeddings only.

        Raises:
            ModelError: it is missing, damaged, or of a newer format, or the encoder is not the one that it was made with.
            UsageError: it is of a drawn world, which has its encoder.
        """
        return cls(**read_synthesizer(folder, encoder))


def _as_list(photos: Photo | Sequence[Photo]) -> list[Photo]:
    if is_photo(photos):
        return [photos]
    if not isinstance(photos, Iterable):
        raise UsageError(
            f"expected a photo or a list of photos, got {type(photos).__name__}; give a file's name, bytes, an array or an image"
        )
    return list(photos)
