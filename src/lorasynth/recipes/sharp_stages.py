"""The models of a world of large pictures, stage by stage: picture VAE, appearance net, reader, decoder, base, and a report."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lorasynth.base import render
from lorasynth.errors import UsageError
from lorasynth.evaluate.grid import sheet
from lorasynth.evaluate.picture_vae import measure_vae, people_with_details, through_vae
from lorasynth.storage.files import write_json, write_png, write_tensors
from lorasynth.storage.reading import read_json
from lorasynth.storage.weights import large_tables, pack
from lorasynth.training import LoopConfig
from lorasynth.worlds.appearance_training import AppearanceConfig, train_appearance
from lorasynth.worlds.base import BaseConfig, build_pipeline
from lorasynth.worlds.base_training import train_base
from lorasynth.worlds.domain import Domain
from lorasynth.worlds.drawn_base import DrawnBase
from lorasynth.worlds.latent_store import LatentStore
from lorasynth.worlds.pool import Pool, draw_pool
from lorasynth.worlds.reader import Reader
from lorasynth.worlds.reader_training import ReaderConfig, train_reader
from lorasynth.worlds.sharp_vae import Phase, SharpVAEConfig, build_sharp_vae, train_sharp_decoder
from lorasynth.worlds.subjects import REAL_FROM, Role, persons_of
from lorasynth.worlds.warm_start import warm_start
from lorasynth.worlds.world import World, get_world

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, StableDiffusionPipeline

_PHOTOS = 8  # of each person of the base split


def _base() -> BaseConfig:
    loop = LoopConfig(
        steps=10_000, learning_rate=1.5e-3, warmup_steps=300, hold=0.4, ema_decay=0.999, checkpoint_every_s=300.0
    )
    return BaseConfig(bf16=True, loop=loop)


@dataclass(frozen=True, kw_only=True)
class SharpConfig:
    """How the models of a world of large pictures are made, but for its recognisers."""

    vae: SharpVAEConfig = field(default_factory=SharpVAEConfig)
    appearance: AppearanceConfig = field(default_factory=AppearanceConfig)
    reader: ReaderConfig = field(default_factory=ReaderConfig)
    base: BaseConfig = field(default_factory=_base)
    base_people: int = 32_000  # one photo each
    reported_people: int = 500


def tiny_sharp() -> SharpConfig:
    """Every stage for a few steps."""
    standard = SharpConfig()
    loop = LoopConfig(steps=2, warmup_steps=1, validate_every=1)
    phase = Phase(crop=32, batch_size=1, loop=loop)
    return SharpConfig(
        vae=replace(standard.vae, pool_people=40, bf16=False, phases=(phase,)),
        appearance=replace(standard.appearance, people=8, strangers=2, batch_size=2, steps=2),
        reader=replace(standard.reader, people=8, validation_people=2, batch_size=2, bf16=False, loop=loop),
        base=replace(standard.base, batch_size=2, bf16=False, loop=replace(standard.base.loop, steps=2)),
        base_people=8,
        reported_people=8,
    )


def make_vae(domain: Domain, folder: Path, config: SharpConfig) -> None:
    """The picture VAE with its final encoder and an untrained decoder, in ``folder/vae``."""
    if not (folder / "vae" / "config.json").exists():
        build_sharp_vae(_pool(domain, folder, config.vae), config.vae).save_pretrained(folder / "vae")


def make_decoder(domain: Domain, folder: Path, config: SharpConfig) -> None:
    """The same VAE with a trained decoder, in ``folder/vae-final``.

    Raises:
        UsageError: there is no VAE yet.
    """
    if not (folder / "vae-final" / "config.json").exists():
        vae = _vae(folder / "vae", "vae")
        train_sharp_decoder(vae, _pool(domain, folder, config.vae), config.vae, run_dir=folder / "run-decoder")
        vae.save_pretrained(folder / "vae-final")


def make_appearance(domain: Domain, folder: Path, config: SharpConfig) -> None:
    """The appearance net, in ``folder/appearance.safetensors``, by the picture VAE of ``folder/vae`` or of the base.

    Raises:
        UsageError: there is neither.
    """
    path = folder / "appearance.safetensors"
    if not path.exists():
        of_base = (folder / "base" / "vae" / "config.json").exists()
        vae = _vae(folder / "base" / "vae" if of_base else folder / "vae", "vae").requires_grad_(False)
        state = train_appearance(domain, vae, config.appearance, run_dir=folder / "run-appearance").state_dict()
        write_tensors(path, pack(state, large_tables(state)))


def make_reader(domain: Domain, folder: Path, config: SharpConfig) -> None:
    """The reader of features, in ``folder/reader.safetensors``."""
    if not (folder / "reader.safetensors").exists():
        train_reader(domain, config.reader, run_dir=folder / "run-reader").save(folder / "reader.safetensors")


def make_base(domain: Domain, folder: Path, config: SharpConfig) -> None:
    """The base pipeline, in ``folder/base``: trained on latents of ``folder/vae``, saved with ``folder/vae-final``.

    Raises:
        UsageError: there is no VAE yet, or the training is done and the decoder's is not.
    """
    vae = _vae(folder / "vae", "vae").requires_grad_(False)
    persons = persons_of(Role.BASE, config.base_people)
    photos = [p % _PHOTOS for p in persons]
    store = LatentStore.open(domain, vae, domain.picture_size, persons, photos, folder / "latents")
    identity, nuisance = domain.identity_factors(persons).cpu(), domain.nuisance_factors(persons, photos).cpu()

    def batch(count: int, generator: torch.Generator) -> tuple[Tensor, list[str]]:
        rows = torch.randint(len(persons), (count,), generator=generator)
        # Words are drawn on the CPU: a phrase at a time would stall a GPU.
        words = torch.Generator("cpu").manual_seed(generator.initial_seed())
        chosen = rows.cpu()
        pairs = zip(identity[chosen], nuisance[chosen], strict=True)
        return store.latents(rows), [domain.base_caption(who, how, words) for who, how in pairs]

    pipe = build_pipeline(domain.vocabulary, vae, config.base).to(torch.get_default_device())
    if domain.smaller:
        few = persons[: config.vae.pca_people]
        pictures = domain.photos(few, photos[: len(few)], domain.picture_size)
        warm_start(pipe, get_world(domain.smaller).base.pipe, pictures)
    base = DrawnBase(pipe=pipe, name=domain.name, picture_size=domain.picture_size)
    if train_base(base, batch, config.base, run_dir=folder / "run-base").is_main:
        pipe.register_modules(vae=_vae(folder / "vae-final", "decoder"))
        save_base(pipe, folder / "base")


def report_vae(domain: Domain, folder: Path, config: SharpConfig) -> None:
    """What the trained picture VAE keeps of held-out people: ``folder/vae.json``, and pictures to look at, ``folder/vae.png``.

    Raises:
        UsageError: there is no trained decoder, or no reader.
    """
    if not (folder / "reader.safetensors").exists():
        raise UsageError(
            f"{folder}: expected reader.safetensors, got none; run the stage 'reader', then this one again"
        )
    vae = _vae(folder / "vae-final", "decoder").requires_grad_(False)
    reader = Reader.load(domain, folder / "reader.safetensors")
    persons = persons_of(Role.EVALUATED, config.reported_people)
    record = measure_vae(vae, reader, persons, domain.picture_size)
    write_json(folder / "vae.json", record)
    chosen = people_with_details(reader, persons_of(Role.EVALUATED, 400), each=2)
    pictures = domain.photos(chosen, [REAL_FROM] * len(chosen), domain.picture_size)
    write_png(folder / "vae.png", sheet([pictures, through_vae(vae, pictures)], ["real", "through the\npicture VAE"]))
    print(f"{record['psnr']:.2f} dB, {record['kept']:.3f} of real photos' features; {folder / 'vae.png'}")


def draw_people(domain: Domain, folder: Path, config: SharpConfig) -> None:
    """Eight held-out people in ``folder/base.png``: real, through the picture VAE, by the base from their captions, by prompts.

    Raises:
        UsageError: there is no base.
    """
    if not (folder / "base" / "model_index.json").exists():
        raise UsageError(f"{folder / 'base'}: expected a base, got none; run the stage 'base', then this one again")
    people = persons_of(Role.EVALUATED, 8)
    photos = [REAL_FROM] * len(people)
    real = domain.photos(people, photos, domain.picture_size)
    # Prompts that say what is seen of each, and those of evaluation, for nobody in particular.
    words = torch.Generator("cpu").manual_seed(0)
    factors = zip(domain.identity_factors(people).cpu(), domain.nuisance_factors(people, photos).cpu(), strict=True)
    described = [domain.base_caption(who, how, words) for who, how in factors]
    asked = [prompt.replace(domain.subject, domain.anyone) for prompt in domain.prompts] * len(people)
    # The base alone: a LoRA of zeros.
    base = World(domain=domain, folder=folder).base
    layout = base.layout(1)
    drawn = render(base, described + asked[: len(people)], layout, torch.zeros(1, layout.num_parameters))[0]
    pictures = [real, through_vae(base.pipe.vae, real), *drawn.chunk(2)]
    write_png(folder / "base.png", sheet(pictures, ["real", "through the\npicture VAE", "from\ncaptions", "prompts"]))


def save_base(pipe: "StableDiffusionPipeline", folder: Path) -> None:
    """A pipeline in fp16, in the one form that diffusers and transformers both load as fp32."""
    pipe.to(torch.float16).save_pretrained(folder)
    # NOTE: transformers loads a text encoder in the dtype its config names, diffusers a UNet in fp32: name fp32 for both.
    file = folder / "text_encoder" / "config.json"
    write_json(file, read_json(file) | {"dtype": "float32"})
    # Where parts were loaded from is nobody's business.
    for file in folder.glob("*/config.json"):
        write_json(file, {key: value for key, value in read_json(file).items() if key != "_name_or_path"})


def _vae(folder: Path, stage: str) -> "AutoencoderKL":
    """The picture VAE of a folder, on the default device, or a refusal that names the stage that makes it."""
    from diffusers import AutoencoderKL

    if not (folder / "config.json").exists():
        raise UsageError(f"{folder}: expected a picture VAE, got none; run the stage {stage!r}, then this one again")
    vae: AutoencoderKL = AutoencoderKL.from_pretrained(folder, local_files_only=True)
    return vae.to(torch.get_default_device())


def _pool(domain: Domain, folder: Path, config: SharpVAEConfig) -> Pool:
    """Pictures of the base split's first people, drawn once."""
    persons = persons_of(Role.BASE, config.pool_people)
    return draw_pool(domain, persons, [p % _PHOTOS for p in persons], domain.picture_size, folder / "pool.npy")


STAGES: dict[str, Callable[[Domain, Path, SharpConfig], None]] = {
    "vae": make_vae,
    "appearance": make_appearance,
    "reader": make_reader,
    "decoder": make_decoder,
    "base": make_base,
    "report": report_vae,
    "look": draw_people,
}
"""In an order in which they can run one after the other."""
