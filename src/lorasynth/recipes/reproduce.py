"""The embedded default, from nothing: the world's own models, a zoo, a synthesizer, its scores.

    make reproduce            # or: python -m lorasynth.recipes.reproduce --run-dir out/reproduce
    make reproduce-tiny       # all of it in minutes: every stage for a few steps; what comes out is of no use

Two CPU cores, about five hours (added up from single stages, some of them scaled; never run in one go): encoder
10 min, second recogniser 8 min, decoder 20 min, base 75 min (on both cores), zoo of 2,128 people 45 min (on both cores), VAE and
priors 5 min, the critic 5 min, training the priors through the base 45 min on photos and 20 min on
what they draw (one on each core), end to end with the VAE 50 min (one core), choosing their settings 5 min, evaluation 20 min.
Each stage is skipped where its result is there; decoder, base, zoo, VAE and priors resume inside. What to expect:
docs/figures.md.

The shipped encoder, recogniser and base saw earlier portraits for a part or all of their training; see their cards.
"""

import argparse
import os
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from lorasynth.worlds.base import BaseConfig
from lorasynth.worlds.recogniser_training import RecogniserConfig
from lorasynth.worlds.vae_training import DecoderConfig


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """How the portraits world's own models are made, and on how many people scores are told."""

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
    evaluated_people: int = 100


def tiny() -> WorldConfig:
    """Every stage for a few steps."""
    few, standard = RecogniserConfig(steps=2, batch_size=8), WorldConfig()
    return WorldConfig(
        encoder=few, encoder_people=16, recogniser=replace(few, loss="contrastive"), recogniser_people=16, pca_people=800,
        decoder=replace(standard.decoder, batch_size=2, loop=replace(standard.decoder.loop, steps=2)),
        base=replace(standard.base, batch_size=2, loop=replace(standard.base.loop, steps=2)),
        evaluated_people=2,
    )  # fmt: skip


WORLDS = {"portraits": WorldConfig, "portraits_tiny": tiny}
"""By the recipe that follows."""


def make_world(folder: Path, config: WorldConfig, recipe: str) -> None:
    """Make the portraits world's own models: recognisers, picture VAE, base pipeline. Skips what is there."""
    from lorasynth.files import write_tensors
    from lorasynth.weights import large_tables, pack
    from lorasynth.worlds.portraits.draw import photos_of
    from lorasynth.worlds.portraits.factors import Split, persons_of
    from lorasynth.worlds.recogniser_training import train_recogniser

    folder.mkdir(parents=True, exist_ok=True)
    for name, split, people, training in (
        ("encoder", Split.ENCODER, config.encoder_people, config.encoder),
        ("recogniser", Split.RECOGNISER, config.recogniser_people, config.recogniser),
    ):
        if not (folder / f"{name}.safetensors").exists():
            net = train_recogniser(photos_of, persons_of(split, people), training)
            state = net.state_dict()
            write_tensors(folder / f"{name}.safetensors", pack(state, large_tables(state)))
    if not (folder / "vae" / "config.json").exists():
        make_vae(folder / "vae", config)
    if not (folder / "base" / "model_index.json").exists():
        # Two processes share each step; see `train_base`.
        command = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "lorasynth.recipes.reproduce"]
        subprocess.run([sys.executable, *command, "--recipe", recipe, "--base", str(folder)], check=True)


def _people(count: int, generator: torch.Generator) -> tuple[list[int], list[int]]:
    """Random people of the base split, a random photo of each."""
    from lorasynth.worlds.portraits.factors import Split, persons_of

    first = persons_of(Split.BASE, 1)[0]
    who = torch.randint(100_000, (count,), generator=generator) + first
    return who.tolist(), torch.randint(8, (count,), generator=generator).tolist()


def make_vae(folder: Path, config: WorldConfig) -> None:
    """The picture VAE: patch-PCA encoder, trained decoder."""
    from lorasynth.worlds.portraits.draw import photos_of
    from lorasynth.worlds.portraits.factors import Split, persons_of
    from lorasynth.worlds.vae import build_vae
    from lorasynth.worlds.vae_training import train_decoder

    torch.manual_seed(0)
    vae = build_vae(photos_of(persons_of(Split.BASE, config.pca_people), [0] * config.pca_people, 64))
    train_decoder(
        vae, lambda n, g: photos_of(*_people(n, g), 64), config.decoder, run_dir=folder.parent / "run-decoder"
    )
    vae.save_pretrained(folder)


def make_base(folder: Path, config: BaseConfig) -> None:
    """The base pipeline around the folder's VAE."""
    from diffusers import AutoencoderKL

    from lorasynth.files import read_json, write_json
    from lorasynth.worlds.base import build_pipeline
    from lorasynth.worlds.base_training import train_base
    from lorasynth.worlds.portraits.captions import base_caption, vocabulary
    from lorasynth.worlds.portraits.draw import draw
    from lorasynth.worlds.portraits.factors import identity_factors, nuisance_factors
    from lorasynth.worlds.vae import affine_encoder, encode_affine

    vae = AutoencoderKL.from_pretrained(folder / "vae")
    weight, bias = affine_encoder(vae)
    pipe = build_pipeline(vocabulary(), vae, config)

    def batch(count: int, generator: torch.Generator) -> tuple[torch.Tensor, list[str]]:
        who, which = _people(count, generator)
        identity, nuisance = identity_factors(who), nuisance_factors(who, which)
        captions = [base_caption(i, n, generator) for i, n in zip(identity, nuisance, strict=True)]
        return encode_affine(weight, bias, draw(identity, nuisance, 64)), captions

    train_base(pipe, batch, config, run_dir=folder / "run-base")
    if int(os.environ.get("RANK", "0")) == 0:
        pipe.to(torch.float16).save_pretrained(folder / "base")
        # NOTE: transformers loads a text encoder in the dtype its config names, diffusers a UNet in fp32: name fp32 for both.
        file = folder / "base" / "text_encoder" / "config.json"
        write_json(file, read_json(file) | {"dtype": "float32"})


def main() -> None:
    """Everything: world, zoo, synthesizer, scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-dir", type=Path, default=Path("out/reproduce"))
    parser.add_argument("--recipe", choices=sorted(WORLDS), default="portraits")
    parser.add_argument("--base", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    recipe, config = arguments.recipe, WORLDS[arguments.recipe]()
    torch.set_num_threads(1)
    if arguments.base:
        make_base(arguments.base, config.base)
        return
    run: Path = arguments.run_dir
    make_world(run / "portraits", config, recipe)
    environment = {**os.environ, "LORASYNTH_ASSETS": str(run.resolve())}

    def lorasynth(*command: str) -> None:
        subprocess.run([sys.executable, "-m", "lorasynth", *command], check=True, env=environment)

    zoo, fit, scores = str(run / "zoo"), run / "fit", run / "scores.json"
    model = str(fit / "synthesizer")
    lorasynth("zoo", "build", recipe, "--out", zoo, "--workers", "2")
    if not (fit / "synthesizer" / "config.json").exists():
        lorasynth("train", "all", recipe, "--zoo", zoo, "--out", str(fit), "--workers", "2")
    if not scores.exists():
        of_whom = ["--people", str(config.evaluated_people), "--trained-on", zoo]
        pages = ["--grid", str(run / "scores.png"), "--html", str(run / "scores.html"), "--json", str(scores)]
        lorasynth("evaluate", model, *of_whom, *pages, "--force")


if __name__ == "__main__":
    main()
