"""What a synthesizer consists of, written as a folder and published on the Hugging Face hub."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from lorasynth.canonical import Canonicalizer
from lorasynth.drawn.encoder import WorldEncoder
from lorasynth.encoders.protocol import Encoder
from lorasynth.encoders.records import Record
from lorasynth.errors import OutputExistsError, UsageError
from lorasynth.model_folder import FILES, FORMAT_VERSION, prior_file
from lorasynth.prior import DiffusionPrior, Predictor, holds_people
from lorasynth.storage.cards import CARD, PICTURES, with_gallery
from lorasynth.storage.files import png, write_bytes, write_json, write_tensors
from lorasynth.storage.hub import publish
from lorasynth.storage.outputs import make_folder
from lorasynth.storage.schema import NAME, Misfit, fit, rows
from lorasynth.storage.weights import pack
from lorasynth.vae import LoRAVAE
from lorasynth.version import __version__

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from PIL.Image import Image


@dataclass(kw_only=True)
class Pretrained:
    """The parts of a synthesizer, which its folder holds."""

    base: str  # a world's name; else the base model, a hub id or folder
    encoder: Encoder | None = None  # of a drawn world a `WorldEncoder`
    encoder_record: Record | None = None  # of a real base: what its zoo was embedded by, `UNKNOWN` where nobody said
    canonicalizer: Canonicalizer
    vae: LoRAVAE
    priors: dict[str, Predictor]  # by name; "adalora" is the paper's
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)  # sampler settings of each prior
    default_prior: str = "adalora"
    picture_size: int = 64  # pixels a side of what the base draws
    card: str = ""  # Markdown
    pictures: dict[str, bytes] = field(default_factory=dict)  # PNGs that the card shows, by their names in its folder
    record: dict[str, Any] = field(default_factory=dict)  # how it was made and what was measured

    def __repr__(self) -> str:
        """In a line, without its numbers."""
        return f"{type(self).__name__}({self.base!r}, priors {', '.join(self.priors)}, default {self.default_prior!r})"

    @property
    def embedding_dim(self) -> int:
        """D."""
        if self.encoder is not None:
            return self.encoder.dim
        assert self.encoder_record is not None
        return int(self.encoder_record["dim"])

    def save_pretrained(
        self,
        folder: str | Path,
        card: str | None = None,
        *,
        record: dict[str, Any] | None = None,
        priors: Sequence[str] | None = None,
    ) -> None:
        """Write the folder that `lorasynth.Synthesizer.from_pretrained` reads.

        No encoder is in it: a world's own is named with its checksum, a user's own by its record.

        Args:
            folder: where; must not hold a synthesizer yet.
            card: the model card, Markdown; the one it was loaded with by default.
            record: more for ``config.json``: how it was made and what was measured.
            priors: which to write, the default one among them; all by default.

        Raises:
            OutputExistsError: a synthesizer is there.
            UsageError: no such prior, or not the default one.
        """
        folder, priors = Path(folder), list(self.priors) if priors is None else list(priors)
        default = self.default_prior
        if default not in priors or not set(priors) <= set(self.priors):
            raise UsageError(f"expected priors among {sorted(self.priors)}, {default!r} one of them, got {priors}")
        try:
            fit(rows(NAME, most=64), priors, "priors")
        except Misfit as error:
            raise UsageError(f"{error}; rename it") from None
        if os.path.lexists(folder / "config.json"):
            raise OutputExistsError(f"{folder}: holds a synthesizer already; choose another folder or remove it")
        make_folder(folder / "priors")
        self.canonicalizer.save(folder / "canonical.safetensors")
        self.vae.save(folder / "vae.safetensors")
        for name in priors:
            self.priors[name].save(prior_file(folder, name, default))
        if isinstance(self.encoder, WorldEncoder):
            write_tensors(folder / "guard.safetensors", pack(self.encoder.guard.__dict__))
        write_bytes(folder / CARD, (self.card if card is None else card).encode())
        if self.pictures:
            make_folder(folder / PICTURES)
        for name, content in self.pictures.items():
            write_bytes(folder / name, content)
        encoder = self.encoder_record
        if encoder is None:
            assert isinstance(self.encoder, WorldEncoder)
            files = dict(self.encoder.files)
            encoder = {"world": self.base, "sha256": files.pop("recogniser"), **files}
        config = {
            "format": FORMAT_VERSION, "lorasynth": __version__, "base": self.base, "default_prior": default, "encoder": encoder,
            "priors": {n: "diffusion" if isinstance(self.priors[n], DiffusionPrior) else "baseline" for n in priors},
            "settings": {name: values for name, values in self.settings.items() if name in priors},
            "picture_size": self.picture_size, **self.record, **(record or {}),
        }  # fmt: skip
        write_json(folder / "config.json", config)

    def show(self, pictures: "Sequence[tuple[Image, str]]") -> None:
        """Give the card a gallery: pictures with their prompts, in place of those that it had."""
        self.card = with_gallery(self.card, [prompt for _, prompt in pictures], "model")
        self.pictures = {f"{PICTURES}/{number}.png": png(image) for number, (image, _) in enumerate(pictures, 1)}

    def push_to_hub(
        self, repo_id: str, *, private: bool = True, priors: Sequence[str] | None = None, api: "HfApi | None" = None
    ) -> str:
        """Publish on the Hugging Face hub what `save_pretrained` writes.

        Args:
            repo_id: ``owner/name``; made where there is none.
            private: whether a repository that is made now is seen by its owner only.
            priors: which to publish. By default all of a drawn world; of a real base, those that hold no embeddings of the zoo's
                people, which "nearest" and "kernel" do.
            api: who talks to the hub; by default `huggingface_hub.HfApi`.

        Returns:
            The address of the repository.

        Raises:
            UsageError: it is no repository's name, or the hub refused.
        """
        if priors is None and self.encoder_record is not None:
            priors = [name for name, prior in self.priors.items() if not holds_people(prior)]
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder, priors=priors)
            return publish(Path(folder), repo_id, "model", FILES, private=private, api=api)
