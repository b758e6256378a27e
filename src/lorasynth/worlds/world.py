"""A self-made domain in which the whole method runs for real: what can be drawn, said, recognised and generated in it."""

import os
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lorasynth.base.photos import Photos, encode_photos
from lorasynth.errors import ModelError, UsageError
from lorasynth.storage.files import read_tensors
from lorasynth.storage.weights import unpack
from lorasynth.worlds.domain import Domain
from lorasynth.worlds.drawn_base import DrawnBase
from lorasynth.worlds.reader import Reader
from lorasynth.worlds.recogniser import AppearanceNet, ArcFaceNet, Joined, PatchTransformer

ASSETS = Path(os.environ.get("LORASYNTH_ASSETS") or Path(__file__).parent.parent / "assets")
"""Where worlds and synthesizers lie: what is shipped, or the folder that the environment names."""

DEFAULT_WORLD = "portraits128"
"""Whose synthesizer and base are taken where none are named."""


@dataclass(frozen=True, kw_only=True)
class World:
    """One domain, and the folder with its base model and recognisers."""

    domain: Domain
    folder: Path

    def __repr__(self) -> str:
        """In a line: a domain lists every word of its captions."""
        return f"World({self.name!r}, {str(self.folder)!r})"

    @property
    def picture_size(self) -> int:
        """Pixels a side of what the base model draws."""
        return self.domain.picture_size

    @property
    def name(self) -> str:
        """The domain's."""
        return self.domain.name

    @property
    def prompts(self) -> tuple[str, ...]:
        """What evaluation asks for."""
        return self.domain.prompts

    def draw(self, persons: list[int], photos: list[int], size: int) -> Float[Tensor, "B 3 H W"]:
        """Photo ``photos[i]`` of person ``persons[i]``, RGB in [0, 1], ``size`` pixels square."""
        return self.domain.photos(persons, photos, size)

    def _file(self, name: str) -> Path:
        """A file or folder of the world's models.

        Raises:
            ModelError: there are none of this world.
        """
        if not self.folder.is_dir():
            raise ModelError(
                f"{self.folder}: expected the models of the world {self.name!r}, got no folder; make them (python -m "
                f"lorasynth.recipes.reproduce --recipe {self.name} --run-dir RUN) and set LORASYNTH_ASSETS to RUN"
            )
        return self.folder / name

    @cached_property
    def base(self) -> DrawnBase:
        """The base model, frozen, in fp32, on the default device.

        Raises:
            ModelError: its folder cannot be read.
        """
        from diffusers import StableDiffusionPipeline
        from diffusers.utils import logging
        from transformers.utils import logging as transformers_logging

        logging.disable_progress_bar()
        transformers_logging.disable_progress_bar()
        folder = self._file("base")
        try:
            pipe = StableDiffusionPipeline.from_pretrained(
                folder, dtype=torch.float32, local_files_only=True, safety_checker=None
            )
        except (OSError, ValueError) as error:
            raise ModelError(f"{folder}: expected a StableDiffusionPipeline: {error}") from None
        pipe.to(torch.get_default_device()).set_progress_bar_config(disable=True)
        return DrawnBase(pipe=pipe, name=self.name, picture_size=self.picture_size)

    @property
    def synthesizer_folder(self) -> Path:
        """The synthesizer that lies beside the world's models.

        Raises:
            ModelError: there is none.
        """
        folder = self._file("synthesizer")
        if not folder.is_dir():
            raise ModelError(
                f"{folder}: expected a synthesizer of the world {self.name!r}, got none; name the folder of one that you trained "
                f"or none for the shipped model, or make this one (python -m lorasynth.recipes.reproduce --recipe {self.name} "
                "--run-dir RUN) and set LORASYNTH_ASSETS to RUN"
            )
        return folder

    @property
    def encoder_file(self) -> Path:
        """The encoder's weights."""
        return self._recogniser_file("encoder")

    @cached_property
    def encoder(self) -> ArcFaceNet:
        """The recogniser that the synthesizer is conditioned on, by itself or joined with `appearance`."""
        return load_recogniser(ArcFaceNet(), self.encoder_file)

    @property
    def appearance_file(self) -> Path:
        """The appearance net's weights, if the world has one."""
        return self._file("appearance.safetensors")

    @cached_property
    def embedder(self) -> ArcFaceNet | Joined:
        """What photos are given to: the encoder, joined with an appearance net where the world has one."""
        path = self.appearance_file
        return Joined(self.encoder, load_recogniser(AppearanceNet(), path)) if path.exists() else self.encoder

    @cached_property
    def second_recogniser(self) -> PatchTransformer:
        """The second opinion: never used for conditioning, training or choosing."""
        return load_recogniser(PatchTransformer(), self._recogniser_file("recogniser"))

    def _recogniser_file(self, name: str) -> Path:
        """The world's own, or that of the world beside it with the same people on smaller pictures."""
        own = self._file(f"{name}.safetensors")
        if own.exists() or self.domain.smaller is None:
            return own
        return self.folder.parent / self.domain.smaller / own.name

    @cached_property
    def reader(self) -> Reader | None:
        """Reads visible features off pictures. None where the world's models hold no ``reader.safetensors``."""
        path = self._file("reader.safetensors")
        return Reader.load(self.domain, path) if path.exists() else None

    @torch.no_grad()
    def photos(self, persons: list[int], count: int, first: int = 0) -> Photos:
        """Photos ``first … first + count`` of each person, encoded for training."""
        who = [p for p in persons for _ in range(count)]
        which = list(range(first, first + count)) * len(persons)
        pictures = self.draw(who, which, self.picture_size)
        return encode_photos(self.base, pictures, self.domain.captions(who, which), count)

    @torch.no_grad()
    def embeddings(
        self, persons: list[int], count: int, first: int = 0, net: nn.Module | None = None
    ) -> Float[Tensor, "N J D"]:
        """Unit embeddings of photos ``first … first + count`` of each person, by the embedder or another network."""
        who = [p for p in persons for _ in range(count)]
        which = list(range(first, first + count)) * len(persons)
        net = net or self.embedder
        parts = [
            net(self.draw(who[i : i + 256], which[i : i + 256], self.picture_size)) for i in range(0, len(who), 256)
        ]
        return torch.cat(parts).unflatten(0, (-1, count))


Net = TypeVar("Net", bound=nn.Module)


def load_recogniser(net: Net, path: Path) -> Net:
    """A recogniser with the weights of a file, frozen.

    Raises:
        ModelError: the file is missing or of another network.
    """
    tensors, _ = read_tensors(path)
    try:
        net.load_state_dict(unpack(tensors))
    except RuntimeError as error:
        raise ModelError(f"{path}: expected the weights of {type(net).__name__}: {error}") from None
    return net.eval().requires_grad_(False)


DOMAIN_MODULES = {
    "portraits": "portraits.domain",
    "portraits128": "portraits.sharp",
    "emblems": "emblems.domain",
    "brushes": "brushes.domain",
}
"""Name of each world -> module here that holds its `Domain`. Nothing outside of a world's folder imports from it."""
WORLDS = tuple(DOMAIN_MODULES)


def get_domain(name: str) -> Domain:
    """What a world shows and says, by its name. No model of it is needed.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in WORLDS:
        raise UsageError(f"expected a world among {sorted(WORLDS)}, got {name!r}")
    domain: Domain = import_module(f"lorasynth.worlds.{DOMAIN_MODULES[name]}").DOMAIN
    return domain


def get_world(name: str) -> World:
    """A world by name. Its models are looked for when they are first needed.

    Raises:
        UsageError: there is none of that name.
    """
    return World(domain=get_domain(name), folder=ASSETS / name)
