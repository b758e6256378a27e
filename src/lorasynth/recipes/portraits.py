"""The embedded default, from nothing.

    make reproduce            # or: python -m lorasynth.recipes.portraits --run-dir out/reproduce

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
from dataclasses import replace
from pathlib import Path

import torch

from lorasynth.prior.training import PriorConfig
from lorasynth.recipes.recipe import WorldRecipe
from lorasynth.refining import EndToEndConfig, RefineConfig
from lorasynth.vae.training import VAEConfig
from lorasynth.worlds.base import BaseConfig
from lorasynth.worlds.recogniser_training import RecogniserConfig
from lorasynth.worlds.vae_training import DecoderConfig
from lorasynth.zoo.adapt import AdaptConfig
from lorasynth.zoo.build import ZooConfig

ENCODER = RecogniserConfig(loss="arcface", steps=2_400)
# NOTE: at 2e-3, the encoder's rate, the transformer collapses (all cosines 0.84).
RECOGNISER = RecogniserConfig(loss="contrastive", steps=1_200, learning_rate=5e-4)
ENCODER_PEOPLE, RECOGNISER_PEOPLE, PCA_PEOPLE = 4_000, 20_000, 2_000
DECODER = DecoderConfig()
BASE = BaseConfig()


def portraits() -> WorldRecipe:
    """The shipped synthesizer of the portraits world."""
    return WorldRecipe(name="portraits")


def portraits_tiny() -> WorldRecipe:
    """The same path in a minute or two, for trying out: the LoRAs are poor and the synthesizer with them."""
    adapt = AdaptConfig(steps=6, batch_size=4)
    zoo = ZooConfig(
        people=24, validation_people=8, photos=4, rank=1, embedding_photos=2, bank=8, pilot_people=8, pilot_rounds=1,
        pilot=replace(adapt, lora_A="shared"), adapt=adapt,
    )  # fmt: skip
    vae = VAEConfig(num_components=12, latent_dim=8, hidden_dim=32, loop=replace(VAEConfig().loop, steps=40))
    loop = replace(PriorConfig().loop, steps=40)
    priors = tuple(PriorConfig(conditioning=c, width=32, depth=1, loop=loop) for c in ("adalora", "adanorm"))
    critic = RecogniserConfig(loss="arcface", steps=4, batch_size=8)
    refine = RefineConfig(
        people_a_step=4, validation_people=4, loop=replace(loop, steps=4), critic_people=16, critic=critic
    )
    redraw = replace(refine, states="drawn", drawing_steps=3)
    return WorldRecipe(
        name="portraits_tiny",
        zoo=zoo,
        vae=vae,
        priors=priors,
        regression=replace(loop, steps=20),
        refine=refine,
        redraw=redraw,
        end_to_end=EndToEndConfig(through=redraw, zoo_batch=4),
        tune_people=2,
        fine_tuning=adapt,
    )


def make_world(folder: Path) -> None:
    """Make the portraits world's own models: recognisers, picture VAE, base pipeline. Skips what is there."""
    from lorasynth.files import write_tensors
    from lorasynth.weights import large_tables, pack
    from lorasynth.worlds.portraits.draw import photos_of
    from lorasynth.worlds.portraits.factors import Split, persons_of
    from lorasynth.worlds.recogniser_training import train_recogniser

    folder.mkdir(parents=True, exist_ok=True)
    for name, split, people, config in (
        ("encoder", Split.ENCODER, ENCODER_PEOPLE, ENCODER),
        ("recogniser", Split.RECOGNISER, RECOGNISER_PEOPLE, RECOGNISER),
    ):
        if not (folder / f"{name}.safetensors").exists():
            net = train_recogniser(photos_of, persons_of(split, people), config)
            state = net.state_dict()
            write_tensors(folder / f"{name}.safetensors", pack(state, large_tables(state)))
    if not (folder / "vae" / "config.json").exists():
        make_vae(folder / "vae")
    if not (folder / "base" / "model_index.json").exists():
        # Two processes share each step; see `train_base`.
        command = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "lorasynth.recipes.portraits"]
        subprocess.run([sys.executable, *command, "--base", str(folder)], check=True)


def _people(count: int, generator: torch.Generator) -> tuple[list[int], list[int]]:
    """Random people of the base split, a random photo of each."""
    from lorasynth.worlds.portraits.factors import Split, persons_of

    first = persons_of(Split.BASE, 1)[0]
    who = torch.randint(100_000, (count,), generator=generator) + first
    return who.tolist(), torch.randint(8, (count,), generator=generator).tolist()


def make_vae(folder: Path) -> None:
    """The picture VAE: patch-PCA encoder, trained decoder."""
    from lorasynth.worlds.portraits.draw import photos_of
    from lorasynth.worlds.portraits.factors import Split, persons_of
    from lorasynth.worlds.vae import build_vae
    from lorasynth.worlds.vae_training import train_decoder

    torch.manual_seed(0)
    vae = build_vae(photos_of(persons_of(Split.BASE, PCA_PEOPLE), [0] * PCA_PEOPLE, 64))
    train_decoder(vae, lambda n, g: photos_of(*_people(n, g), 64), DECODER, run_dir=folder.parent / "run-decoder")
    vae.save_pretrained(folder)


def make_base(folder: Path) -> None:
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
    pipe = build_pipeline(vocabulary(), vae, BASE)

    def batch(count: int, generator: torch.Generator) -> tuple[torch.Tensor, list[str]]:
        who, which = _people(count, generator)
        identity, nuisance = identity_factors(who), nuisance_factors(who, which)
        captions = [base_caption(i, n, generator) for i, n in zip(identity, nuisance, strict=True)]
        return encode_affine(weight, bias, draw(identity, nuisance, 64)), captions

    train_base(pipe, batch, BASE, run_dir=folder / "run-base")
    if int(os.environ.get("RANK", "0")) == 0:
        pipe.to(torch.float16).save_pretrained(folder / "base")
        # NOTE: transformers loads a text encoder in the dtype its config names, diffusers a UNet in fp32: name fp32 for both.
        config = folder / "base" / "text_encoder" / "config.json"
        write_json(config, read_json(config) | {"dtype": "float32"})


def main() -> None:
    """Everything: world, zoo, synthesizer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-dir", type=Path, default=Path("out/reproduce"))
    parser.add_argument("--base", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.base:
        make_base(arguments.base)
        return
    run: Path = arguments.run_dir
    make_world(run / "portraits")
    environment = {**os.environ, "LORASYNTH_ASSETS": str(run.resolve())}
    lorasynth = [sys.executable, "-m", "lorasynth"]
    subprocess.run(
        [*lorasynth, "zoo", "build", "portraits", "--out", str(run / "zoo"), "--workers", "2"],
        check=True,
        env=environment,
    )
    if not (run / "fit" / "synthesizer" / "config.json").exists():
        train = ["train", "all", "portraits", "--zoo", str(run / "zoo"), "--out", str(run / "fit"), "--workers", "2"]
        subprocess.run([*lorasynth, *train], check=True, env=environment)
    evaluate = [
        "evaluate",
        str(run / "fit" / "synthesizer"),
        "--json",
        str(run / "scores.json"),
        "--grid",
        str(run / "scores.png"),
    ]
    subprocess.run([*lorasynth, *evaluate, "--force"], check=True, env=environment)


if __name__ == "__main__":
    main()
