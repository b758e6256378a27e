"""The models of the sharp portraits world: pictures of 128 pixels, latents of 16 x 16 x 16.

    python -m lorasynth.recipes.portraits128 vae --run-dir out/portraits128
    python -m lorasynth.recipes.portraits128 decoder --run-dir out/portraits128
    python -m lorasynth.recipes.portraits128 reader --run-dir out/portraits128

Hardware and hours: see dev/LOG.md. Each stage is skipped where its result is there, and goes on from its checkpoints.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch

from lorasynth.worlds.domain import Domain
from lorasynth.worlds.pool import Pool, draw_pool
from lorasynth.worlds.reader_training import ReaderConfig, train_reader
from lorasynth.worlds.sharp_vae import SharpVAEConfig, build_sharp_vae, train_sharp_decoder, train_sharp_vae
from lorasynth.worlds.subjects import Role, persons_of
from lorasynth.worlds.world import get_domain

SIZE = 128  # pixels a side
_PHOTOS = 8  # of each person of the base split


def make_sharp_vae(domain: Domain, run_dir: Path, config: SharpVAEConfig, size: int = SIZE) -> None:
    """The picture VAE, in ``run_dir/vae``."""
    if not (run_dir / "vae" / "config.json").exists():
        vae = build_sharp_vae(config, size)
        train_sharp_vae(vae, _pool(domain, run_dir, config, size), config, run_dir=run_dir / "run-vae")
        vae.save_pretrained(run_dir / "vae")


def make_sharp_decoder(domain: Domain, run_dir: Path, config: SharpVAEConfig, size: int = SIZE) -> None:
    """The same VAE with a decoder that was trained longer, in ``run_dir/vae-final``."""
    from diffusers import AutoencoderKL

    if not (run_dir / "vae-final" / "config.json").exists():
        vae = AutoencoderKL.from_pretrained(run_dir / "vae")
        train_sharp_decoder(vae, _pool(domain, run_dir, config, size), config, run_dir=run_dir / "run-decoder")
        vae.save_pretrained(run_dir / "vae-final")


def _pool(domain: Domain, run_dir: Path, config: SharpVAEConfig, size: int) -> Pool:
    """Pictures of the base split's first people, drawn once."""
    persons = persons_of(Role.BASE, config.pool_people)
    return draw_pool(domain, persons, [p % _PHOTOS for p in persons], size, run_dir / "pool.npy")


def make_reader(domain: Domain, run_dir: Path, config: ReaderConfig) -> None:
    """The reader of features, in ``run_dir/reader.safetensors``."""
    if not (run_dir / "reader.safetensors").exists():
        train_reader(domain, config, run_dir=run_dir / "run-reader").save(run_dir / "reader.safetensors")


STAGES: dict[str, Callable[[Domain, Path], None]] = {
    "vae": lambda domain, run_dir: make_sharp_vae(domain, run_dir, SharpVAEConfig()),
    "decoder": lambda domain, run_dir: make_sharp_decoder(domain, run_dir, SharpVAEConfig()),
    "reader": lambda domain, run_dir: make_reader(domain, run_dir, ReaderConfig()),
}


def main() -> None:
    """One stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=sorted(STAGES))
    parser.add_argument("--run-dir", type=Path, default=Path("out/portraits128"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    domain = get_domain("portraits")
    STAGES[arguments.stage](domain, arguments.run_dir)


if __name__ == "__main__":
    main()
