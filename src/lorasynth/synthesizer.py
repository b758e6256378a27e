"""Photos of a person in, a LoRA out: the whole method in one function."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from lorasynth import __version__
from lorasynth.canonical import Canonicalizer
from lorasynth.encoders.guard import WorldGuard
from lorasynth.encoders.images import open_photo, photo_tensor
from lorasynth.errors import ModelError, OutputExistsError, UsageError
from lorasynth.files import read_json, read_tensors, sha256_file, write_bytes, write_json, write_tensors
from lorasynth.lora.factors import LoRA
from lorasynth.prior import DiffusionPrior
from lorasynth.prior.baselines import Baseline
from lorasynth.vae import LoRAVAE
from lorasynth.weights import pack
from lorasynth.worlds.recogniser import ArcFaceNet
from lorasynth.worlds.world import ASSETS, get_world

FORMAT_VERSION = 1
DEFAULT_MODEL = ASSETS / "portraits" / "synthesizer"
MAX_SEED = 2**63 - 1

Predictor = DiffusionPrior | Baseline
"""Embeddings -> latents."""


@dataclass(kw_only=True)
class Synthesizer:
    """What a user downloads and calls: ``Synthesizer.from_pretrained(folder)("me.png").save("me.safetensors")``."""

    base: str
    encoder: ArcFaceNet
    guard: WorldGuard
    canonicalizer: Canonicalizer
    vae: LoRAVAE
    priors: dict[str, Predictor]  # by name; "adalora" is the paper's
    settings: dict[str, dict[str, float]] = field(default_factory=dict)  # sampler settings of each prior
    default_prior: str = "adalora"
    picture_size: int = 64
    last_seconds: float = field(default=0.0, init=False)  # what the last call took

    def __call__(
        self,
        photos: str | Path | Image.Image | Sequence[str | Path | Image.Image],
        *,
        seed: int = 0,
        prior: str | None = None,
        allow_outside: bool = False,
        **settings: float | int,
    ) -> LoRA:
        """Photos of one person -> a LoRA.

        Args:
            photos: one or several: file names or images.
            seed: equal seeds give equal LoRAs, bit for bit.
            prior: which of `priors`.
            allow_outside: use photos that do not look like this model's world.
            **settings: of the sampler: guidance_scale, num_inference_steps, temperature, scale (see `synthesize`).

        Raises:
            PhotoError: a photo cannot be used (OutsideWorldError: it is of another kind than this model knows).
            UsageError: a value out of range.
        """
        start = time.perf_counter()
        # 1. Photos -> one unit embedding.
        embedding = self.embed(photos, allow_outside=allow_outside)
        # 2. Embedding -> latent -> canonical vector -> LoRA vector.
        vector = self.synthesize(embedding[None], seed=seed, prior=prior, **settings)[0]
        metadata = {
            "lorasynth.version": __version__,
            "lorasynth.base": self.base,
            "lorasynth.prior": prior or self.default_prior,
            "lorasynth.seed": str(seed),
            "lorasynth.layout": self.canonicalizer.layout.hash,
            "lorasynth.synthetic": "true",
            "modelspec.sai_model_spec": "1.0.1",
            "modelspec.architecture": f"{self.base}/lora",
            "modelspec.implementation": "diffusers",
            "modelspec.title": "Synthesised LoRA",
            "modelspec.trigger_phrase": "sks person",
            "modelspec.resolution": f"{self.picture_size}x{self.picture_size}",
        }
        self.last_seconds = time.perf_counter() - start
        return LoRA(self.canonicalizer.layout, vector, metadata)

    @torch.no_grad()
    def embed(
        self, photos: str | Path | Image.Image | Sequence[str | Path | Image.Image], *, allow_outside: bool = False
    ) -> Float[Tensor, " D"]:
        """Photos of one person -> the unit mean of their unit embeddings."""
        several = [photos] if isinstance(photos, (str, Path, Image.Image)) else list(photos)
        if not several:
            raise UsageError("expected at least one photo, got none")
        pictures, names = [], []
        for photo in several:
            image = photo.convert("RGB") if isinstance(photo, Image.Image) else open_photo(photo)
            pictures.append(photo_tensor(image, self.picture_size))
            names.append("photo" if isinstance(photo, Image.Image) else str(photo))
        if not allow_outside:
            for name, picture in zip(names, pictures, strict=True):
                self.guard.check(name, picture, self.base)
        return F.normalize(self.encoder(torch.stack(pictures)).mean(0), dim=0)

    @torch.no_grad()
    def synthesize(
        self, embedding: Float[Tensor, "B D"], *, seed: int = 0, prior: str | None = None, **settings: float | int
    ) -> Float[Tensor, "B P"]:
        """Embeddings -> LoRA vectors, by one of the priors with its own settings unless others are given.

        The setting ``scale`` multiplies the canonical vector, which is a LoRA's deviation from the zoo's mean: what a prior finds
        plausible on average is smaller than any LoRA, and this restores the size. Other settings are the sampler's.

        Raises:
            UsageError: no such prior, or a value out of range.
        """
        name = prior or self.default_prior
        if name not in self.priors:
            raise UsageError(f"expected a prior among {sorted(self.priors)}, got {name!r}")
        if not 0 <= seed <= MAX_SEED:
            raise UsageError(f"expected a seed from 0 to 2^63 - 1, got {seed}")
        chosen: dict[str, Any] = {**self.settings.get(name, {}), **settings}
        steps = chosen.get("num_inference_steps", 20)
        if not 1 <= steps <= 1000:
            raise UsageError(f"expected 1 to 1000 steps, got {steps}")
        for key in ("guidance_scale", "temperature", "scale"):
            if not 0 <= chosen.get(key, 1.0) <= 20:
                raise UsageError(f"expected {key} from 0 to 20, got {chosen[key]}")
        scale = chosen.pop("scale", 1.0)
        # Sample a latent (Section 3.4); decode it (3.3); undo scale and gauge (3.2).
        z = self.priors[name].predict(embedding, seed=seed, **chosen)
        return self.canonicalizer.invert(scale * self.vae.decode(z))

    def save_pretrained(self, folder: str | Path, card: str, *, record: dict[str, Any] | None = None) -> None:
        """Write the folder that `from_pretrained` reads.

        The encoder is the world's own: the folder names it and its checksum, and does not hold it a second time.

        Args:
            folder: where; must not hold a synthesizer yet.
            card: the model card, Markdown.
            record: more for ``config.json``: how it was made and what was measured.
        """
        folder = Path(folder)
        if (folder / "config.json").exists():
            raise OutputExistsError(f"{folder}: holds a synthesizer already; choose another folder or remove it")
        (folder / "priors").mkdir(parents=True, exist_ok=True)
        self.canonicalizer.save(folder / "canonical.safetensors")
        self.vae.save(folder / "vae.safetensors")
        for name, prior in self.priors.items():
            prior.save(_prior_file(folder, name, self.default_prior))
        write_tensors(folder / "guard.safetensors", pack(self.guard.__dict__))
        write_bytes(folder / "README.md", card.encode())
        config = {
            "format": FORMAT_VERSION, "lorasynth": __version__, "base": self.base, "default_prior": self.default_prior,
            "encoder": {"world": self.base, "sha256": sha256_file(_encoder_file(self.base))},
            "priors": {name: "diffusion" if isinstance(p, DiffusionPrior) else "baseline" for name, p in self.priors.items()},
            "settings": self.settings, "picture_size": self.picture_size, **(record or {}),
        }  # fmt: skip
        write_json(folder / "config.json", config)

    @classmethod
    def from_pretrained(cls, folder: str | Path = DEFAULT_MODEL) -> "Synthesizer":
        """Read a synthesizer: a folder, or the id of a Hugging Face hub repository.

        Raises:
            ModelError: it is missing, damaged, or of a newer format.
        """
        path = Path(folder)
        if not path.is_dir():
            path = _from_hub(str(folder))
        config = read_json(path / "config.json")
        if config.get("format") != FORMAT_VERSION:
            raise ModelError(
                f"{path}: format {config.get('format')!r}, this version reads {FORMAT_VERSION}; upgrade lorasynth"
            )
        guard, _ = read_tensors(path / "guard.safetensors")
        try:
            files = {name: _prior_file(path, name, config["default_prior"]) for name in config["priors"]}
            priors: dict[str, Predictor] = {
                n: (DiffusionPrior if kind == "diffusion" else Baseline).load(files[n])
                for n, kind in config["priors"].items()
            }
            return cls(
                base=config["base"], encoder=_encoder(path, **config["encoder"]),
                guard=WorldGuard(**guard), canonicalizer=Canonicalizer.load(path / "canonical.safetensors"),
                vae=LoRAVAE.load(path / "vae.safetensors"), priors=priors, settings=config["settings"],
                default_prior=config["default_prior"], picture_size=config["picture_size"],
            )  # fmt: skip
        except (KeyError, TypeError) as error:
            raise ModelError(f"{path / 'config.json'}: expected a synthesizer's configuration: {error}") from None


def _prior_file(folder: Path, name: str, default: str) -> Path:
    """The default prior lies in the open, its rivals in a folder beside it."""
    return folder / "prior.safetensors" if name == default else folder / "priors" / f"{name}.safetensors"


def _encoder_file(world: str) -> Path:
    return get_world(world).folder / "encoder.safetensors"


def _encoder(folder: Path, world: str, sha256: str) -> ArcFaceNet:
    """The world's encoder, if it is the one that the synthesizer was made with: another's embeddings mean nothing to it."""
    encoder = get_world(world).encoder
    if (actual := sha256_file(_encoder_file(world))) != sha256:
        raise ModelError(
            f"{folder}: expected the encoder of world {world!r} with sha256 {sha256[:12]}, got {actual[:12]}; "
            "set LORASYNTH_ASSETS to the folder of the world that this model was made in"
        )
    return encoder


def _from_hub(repo: str) -> Path:
    """The local copy of a hub repository: safetensors, JSON and the card, nothing else."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo, allow_patterns=["*.safetensors", "*.json", "README.md"]))
    except HFValidationError:
        raise ModelError(f"{repo}: expected a folder with config.json, or a hub id; no such folder") from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"{repo}: no such folder, and the hub could not give it ({reason}); check the name") from None
