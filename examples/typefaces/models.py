"""The models that learn from typefaces: picture VAE, base, two recognisers, a reader of letters.

    python examples/typefaces/models.py vae --data out/typefaces --out out/models       # a minute: the encoder, in closed form
    python examples/typefaces/models.py decoder --data out/typefaces --out out/models   # this and the next side by side
    python examples/typefaces/models.py base --data out/typefaces --out out/models      # saved when the decoder is there
    python examples/typefaces/models.py encoder --data out/typefaces --out out/models   # these three at any time
    python examples/typefaces/models.py second --data out/typefaces --out out/models
    python examples/typefaces/models.py reader --data out/typefaces --out out/models
    python examples/typefaces/models.py report --data out/typefaces --out out/models    # how good they are on held-out families

Each uses one thread, goes on from its checkpoints, and does nothing where its result is there. Only the training families'
faces are learned from.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from drawing import LETTERS, PLAIN, draw, draw_look
from faces import Face, Survey
from folder import SURVEY, rng_of
from lorasynth.encoders.arcface import ArcFaceEncoder
from lorasynth.encoders.export import export_onnx
from lorasynth.errors import LorasynthError, UsageError
from lorasynth.recipes.sharp_stages import save_base
from lorasynth.storage.files import read_tensors, write_json, write_tensors
from lorasynth.training import LoopConfig
from lorasynth.worlds.base import BaseConfig, build_pipeline
from lorasynth.worlds.base_training import train_base
from lorasynth.worlds.drawn_base import DrawnBase
from lorasynth.worlds.recogniser_training import verification
from lorasynth.worlds.vae import build_vae
from lorasynth.worlds.vae_training import DecoderConfig, train_decoder
from pool import Pool, open_pool
from recognisers import Classifier, RecogniserConfig, read, right, train_encoder, train_reader, train_second

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

SUBJECT = "sks typeface"
WORDS = (*SUBJECT.split(), "the", "capital", "small", "letter", "letters", "in", "on", "black", "white", "grey")
_PLACES = 10.0  # times the usual size of position embeddings, so that the order of letters is heard
_PCA_PICTURES = 4_000


@dataclass(frozen=True, kw_only=True)
class ModelsConfig:
    """How large the models are, and how long they learn."""

    each: int = 104  # pictures of a face
    decoder: DecoderConfig = field(
        default_factory=lambda: DecoderConfig(
            latent_noise=0.1, loop=LoopConfig(steps=3_000, learning_rate=2e-3, warmup_steps=100, weight_decay=0.0)
        )
    )
    base: BaseConfig = field(
        default_factory=lambda: BaseConfig(
            channels=(64, 128),
            loop=LoopConfig(
                steps=12_000, learning_rate=2e-3, warmup_steps=200, hold=0.4, ema_decay=0.999, checkpoint_every_s=300.0
            ),
        )
    )
    recognisers: RecogniserConfig = field(default_factory=RecogniserConfig)


def make_vae(pool: Pool, out: Path, config: ModelsConfig) -> None:
    """A picture VAE with its final encoder, in closed form, and an untrained decoder."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    build_vae(pool.pictures(pool.some(_PCA_PICTURES, generator))).save_pretrained(out / "vae")


def make_decoder(pool: Pool, out: Path, config: ModelsConfig) -> None:
    """The same VAE with a trained decoder."""
    vae = _vae(out / "vae", "vae")
    train_decoder(vae, lambda n, g: pool.pictures(pool.some(n, g)), config.decoder, run_dir=out / "run-decoder")
    vae.save_pretrained(out / "vae-final")


def make_base(pool: Pool, out: Path, config: ModelsConfig) -> None:
    """A Stable Diffusion that draws the letters of a caption, in any face; saved with the trained decoder."""
    pipe = build_pipeline(WORDS, _vae(out / "vae", "vae").requires_grad_(False), config.base)
    with torch.no_grad():
        for name, parameter in pipe.text_encoder.named_parameters():
            if name.endswith("position_embedding.weight"):
                parameter.mul_(_PLACES)
    base = DrawnBase(pipe=pipe, name="typefaces", picture_size=pool.rows.shape[-1])

    def batch(count: int, generator: torch.Generator) -> tuple[Tensor, list[str]]:
        rows = pool.some(count, generator)
        return base.encode(pool.pictures(rows)), pool.captions(rows, SUBJECT)

    train_base(base, batch, config.base, run_dir=out / "run-base")
    pipe.register_modules(vae=_vae(out / "vae-final", "decoder"))
    save_base(pipe, out / "base")


def _vae(folder: Path, stage: str) -> "AutoencoderKL":
    from diffusers import AutoencoderKL

    if not (folder / "config.json").exists():
        raise UsageError(f"{folder}: expected a picture VAE, got none; run the stage {stage!r}, then this one again")
    return AutoencoderKL.from_pretrained(folder, local_files_only=True)


def make_encoder(pool: Pool, out: Path, config: ModelsConfig) -> None:
    """The recogniser that a synthesizer is conditioned on, as a file for ``--encoder aligned:FILE``."""
    export_onnx(train_encoder(pool, config.recognisers, out / "run-encoder"), out / "encoder.onnx", 64)


def make_second(pool: Pool, out: Path, config: ModelsConfig) -> None:
    """The recogniser that only scores."""
    export_onnx(train_second(pool, config.recognisers, out / "run-second"), out / "second.onnx", 64)


def make_reader(pool: Pool, out: Path, config: ModelsConfig) -> None:
    """The reader of letters."""
    write_tensors(out / "reader.safetensors", train_reader(pool, config.recognisers, out / "run-reader").state_dict())


def open_reader(path: Path) -> Classifier:
    """The reader of `make_reader`, frozen."""
    reader = Classifier(len(LETTERS), width=32, embedding_dim=128)
    reader.load_state_dict(read_tensors(path)[0])
    return reader.eval().requires_grad_(False)


STAGES: dict[str, tuple[str, Callable[[Pool, Path, ModelsConfig], None]]] = {
    "vae": ("vae/config.json", make_vae),
    "decoder": ("vae-final/config.json", make_decoder),
    "base": ("base/model_index.json", make_base),
    "encoder": ("encoder.onnx", make_encoder),
    "second": ("second.onnx", make_second),
    "reader": ("reader.safetensors", make_reader),
}
"""The file that says that a stage is done, and the stage."""


def letters_of(face: Face, letters: str = LETTERS) -> Float[Tensor, "n 3 S S"]:
    """True letters of a face, black on white, RGB in [0, 1]."""
    grey = torch.from_numpy(np.stack([draw(face.font, face.metrics, letter, PLAIN) for letter in letters]))
    return (grey.float() / 255)[:, None].expand(-1, 3, -1, -1)


def report(faces: Sequence[Face], out: Path) -> dict[str, float]:
    """How well recognisers tell faces apart, of which one letter is seen at a time, and how many letters are read."""

    def photos(who: list[int], which: list[int], size: int) -> Float[Tensor, "B 3 S S"]:
        found = []
        for face, number in ((faces[i], j) for i, j in zip(who, which, strict=True)):
            rng = rng_of("report", face.name, str(number))
            found.append(draw(face.font, face.metrics, str(rng.choice(list(LETTERS))), draw_look(rng)))
        return (torch.from_numpy(np.stack(found)).float() / 255)[:, None].expand(-1, 3, -1, -1)

    record: dict[str, float] = {}
    for name in ("encoder", "second"):
        encoder = ArcFaceEncoder(out / f"{name}.onnx")
        found = verification(_Crops(encoder.embed_crops), photos, list(range(len(faces))))
        record |= {f"{name}.{key}": value for key, value in found.items()}
    reader = open_reader(out / "reader.safetensors")
    read_as = "".join(read(reader, letters_of(face)) for face in faces)
    true = LETTERS * len(faces)
    record["reader.right"] = right(read_as, true)
    record["reader.right_but_for_case"] = right(read_as.lower(), true.lower())
    return record


class _Crops(nn.Module):
    """A function of pictures as a network."""

    def __init__(self, function: Callable[[Tensor], Tensor]):
        super().__init__()
        self.function = function

    def forward(self, pictures: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B D"]:
        return self.function(pictures)


def main(arguments: Sequence[str] | None = None, config: ModelsConfig | None = None) -> int:
    """One stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=[*STAGES, "report"])
    parser.add_argument("--data", type=Path, required=True, help="what folder.py wrote")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    config = config or ModelsConfig()
    found = Survey.load(given.data / SURVEY)
    try:
        if given.stage == "report":
            one_a_family = list({face.family: face for face in found.held_out}.values())
            record = report(one_a_family, given.out)
            write_json(given.out / "report.json", record)
            print(json.dumps(record, indent=1))
        else:
            result, make = STAGES[given.stage]
            if not (given.out / result).exists():
                make(open_pool(found.train, config.each, given.out / "pool"), given.out, config)
            print(given.out / result)
    except LorasynthError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
