"""Making a drawn world's own models from nothing: two recognisers, the picture VAE, the base pipeline."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch

from lorasynth.recipes.sharp_stages import STAGES, SharpConfig, save_base, tiny_sharp
from lorasynth.storage.files import write_tensors
from lorasynth.storage.weights import large_tables, pack
from lorasynth.worlds.base import BaseConfig, build_pipeline
from lorasynth.worlds.base_training import train_base
from lorasynth.worlds.domain import Domain
from lorasynth.worlds.drawn_base import DrawnBase
from lorasynth.worlds.recogniser_training import RecogniserConfig, train_recogniser
from lorasynth.worlds.subjects import Role, everybody, persons_of
from lorasynth.worlds.twins import with_twins
from lorasynth.worlds.vae import build_vae
from lorasynth.worlds.vae_training import DecoderConfig, train_decoder
from lorasynth.worlds.world import get_world

_SIZE = 64  # pixels a side of all that the models see
_BASE_PHOTOS = 8  # of each person, that the base and the VAE learn from


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """How a world's own models are made, and on how many people scores are told."""

    encoder: RecogniserConfig = field(default_factory=lambda: RecogniserConfig(loss="arcface", steps=2_400))
    encoder_people: int = 4_000
    # NOTE: at 2e-3, the encoder's rate, the transformer collapses (all cosines 0.84).
    recogniser: RecogniserConfig = field(
        default_factory=lambda: RecogniserConfig(loss="contrastive", steps=1_200, learning_rate=5e-4)
    )
    recogniser_people: int = 20_000
    pca_people: int = 2_000
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    base: BaseConfig = field(default_factory=BaseConfig)
    sharp: SharpConfig | None = None  # in place of pca_people, decoder and base, in a world of large pictures
    evaluated_people: int = 100


def small(base_steps: int = 6_000) -> WorldConfig:
    """About half to two thirds of the steps: to see whether a world holds, in an afternoon."""
    standard = WorldConfig()
    return replace(
        standard,
        encoder=replace(standard.encoder, steps=1_600),
        decoder=replace(standard.decoder, loop=replace(standard.decoder.loop, steps=2_000)),
        base=replace(standard.base, loop=replace(standard.base.loop, steps=base_steps)),
        evaluated_people=64,
    )


def tiny() -> WorldConfig:
    """Every stage for a few steps."""
    few, standard = RecogniserConfig(steps=2, batch_size=8), WorldConfig()
    return WorldConfig(
        encoder=few, encoder_people=16, recogniser=replace(few, loss="contrastive"), recogniser_people=16, pca_people=800,
        decoder=replace(standard.decoder, batch_size=2, loop=replace(standard.decoder.loop, steps=2)),
        base=replace(standard.base, batch_size=2, loop=replace(standard.base.loop, steps=2)),
        evaluated_people=2,
    )  # fmt: skip


def sharp() -> WorldConfig:
    """A world of large pictures, with the encoder of small ones, which verifies as well on large ones (dev/LOG.md)."""
    recogniser = replace(WorldConfig().recogniser, steps=3_000, twins_after=0.4)
    return WorldConfig(sharp=SharpConfig(), recogniser=recogniser)


def sharp_gpu() -> WorldConfig:
    """A world of large pictures on one GPU, in minutes: larger steps, fewer of them. Not tried on a GPU yet."""
    standard = SharpConfig()
    crops, whole = standard.vae.phases
    phases = (
        replace(crops, batch_size=128, loop=replace(crops.loop, steps=2_000)),
        replace(whole, batch_size=32, loop=replace(whole.loop, steps=2_000)),
    )
    vae, base, loop = replace(standard.vae, phases=phases), standard.base, standard.reader.loop
    reader = replace(standard.reader, batch_size=96, loop=replace(loop, steps=1_500, validate_every=250))
    base = replace(base, batch_size=256, loop=replace(base.loop, steps=4_000))
    return replace(sharp(), sharp=replace(standard, vae=vae, reader=reader, base=base, base_people=100_000))


def sharp_tiny() -> WorldConfig:
    """The same, every stage for a few steps."""
    config = tiny()
    return replace(config, sharp=tiny_sharp(), recogniser=replace(config.recogniser, twins_after=0.0))


WORLD_CONFIGS: dict[str, Callable[[], WorldConfig]] = {
    "portraits": WorldConfig, "portraits_tiny": tiny,
    "portraits128": sharp, "portraits128_gpu": sharp_gpu, "portraits128_tiny": sharp_tiny,
    "emblems": small, "emblems_tiny": tiny,
    "brushes": partial(small, base_steps=4_000), "brushes_tiny": tiny,
}  # fmt: skip
"""How the models of a world are made, by the recipe that follows."""


def make_world(domain: Domain, folder: Path, config: WorldConfig, base_command: list[str]) -> None:
    """Make a world's own models: recognisers, picture VAE, base pipeline. Skips what is there.

    Args:
        domain: what is drawn and said.
        folder: where they go.
        config: how they are made.
        base_command: arguments of ``python`` that call `make_base` on the same, by as many processes as it is started in. Used on
            a CPU; a GPU makes the base in this process.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, role, people, training in (
        ("encoder", Role.ENCODER, config.encoder_people, config.encoder),
        ("recogniser", Role.RECOGNISER, config.recogniser_people, config.recogniser),
    ):
        if (folder / f"{name}.safetensors").exists():
            continue
        if name == "encoder" and domain.smaller:  # it knows these people already
            shutil.copyfile(get_world(domain.smaller).encoder_file, folder / f"{name}.safetensors")
        else:
            net = train_recogniser(with_twins(domain), persons_of(role, people), training)
            state = net.state_dict()
            write_tensors(folder / f"{name}.safetensors", pack(state, large_tables(state)))
    made = (folder / "base" / "model_index.json").exists()
    if config.sharp:
        for name in ("appearance", "reader") if made else ("vae", "appearance", "reader", "decoder", "report"):
            STAGES[name](domain, folder, config.sharp)
    elif not (folder / "vae" / "config.json").exists():
        make_vae(domain, folder / "vae", config)
    if made:
        return
    if torch.get_default_device().type == "cuda":
        make_base(domain, folder, config)
    else:
        # Two processes share each step; see `train_base`.
        launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
        subprocess.run([*launch, *base_command], check=True)


def _people(count: int, generator: torch.Generator) -> tuple[list[int], list[int]]:
    """Random people of the base split, a random photo of each."""
    people = everybody(Role.BASE)
    who = torch.randint(len(people), (count,), generator=generator).tolist()
    return [people[i] for i in who], torch.randint(_BASE_PHOTOS, (count,), generator=generator).tolist()


def make_vae(domain: Domain, folder: Path, config: WorldConfig) -> None:
    """The picture VAE: patch-PCA encoder, trained decoder."""
    torch.manual_seed(0)
    vae = build_vae(domain.photos(persons_of(Role.BASE, config.pca_people), [0] * config.pca_people, _SIZE))
    train_decoder(
        vae, lambda n, g: domain.photos(*_people(n, g), _SIZE), config.decoder, run_dir=folder.parent / "run-decoder"
    )
    vae.save_pretrained(folder)


def make_base(domain: Domain, folder: Path, config: WorldConfig) -> None:
    """The base pipeline around the folder's VAE."""
    from diffusers import AutoencoderKL

    if config.sharp:
        STAGES["base"](domain, folder, config.sharp)
        return
    vae = AutoencoderKL.from_pretrained(folder / "vae")
    pipe = build_pipeline(domain.vocabulary, vae, config.base)
    base = DrawnBase(pipe=pipe, name=domain.name, picture_size=_SIZE)

    def batch(count: int, generator: torch.Generator) -> tuple[torch.Tensor, list[str]]:
        who, which = _people(count, generator)
        identity, nuisance = domain.identity_factors(who), domain.nuisance_factors(who, which)
        captions = [domain.base_caption(i, n, generator) for i, n in zip(identity, nuisance, strict=True)]
        return base.encode(domain.draw(identity, nuisance, _SIZE)), captions

    if train_base(base, batch, config.base, run_dir=folder / "run-base").is_main:
        save_base(pipe, folder / "base")
