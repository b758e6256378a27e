"""Networks that look at letters: two recognisers of faces, and a reader of letters. All resume where they stopped."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from drawing import LETTERS
from lorasynth.training import LoopConfig, config_record, step_generator, train
from lorasynth.worlds.recogniser import ArcFaceNet, PatchTransformer
from lorasynth.worlds.recogniser_training import arcface_logits, contrastive_loss, degrade
from pool import Pool

_CALIBRATING = 40  # batches that batch norms take their statistics from


def _loop(steps: int, learning_rate: float) -> LoopConfig:
    return LoopConfig(steps=steps, learning_rate=learning_rate, warmup_steps=100, weight_decay=0.05)


@dataclass(frozen=True, kw_only=True)
class RecogniserConfig:
    """How the three are trained."""

    batch_size: int = 64
    margin: float = 0.3
    scale: float = 32.0
    temperature: float = 0.07
    # Without the margin first: with it from the beginning nothing is learned in the first 200 steps.
    encoder_apart: LoopConfig = field(default_factory=lambda: _loop(2_500, 2e-3))
    encoder: LoopConfig = field(default_factory=lambda: _loop(1_000, 1e-3))
    second: LoopConfig = field(default_factory=lambda: _loop(6_000, 5e-4))
    reader: LoopConfig = field(default_factory=lambda: _loop(2_000, 2e-3))


class Classifier(nn.Module):
    """A recogniser and the centre of each of its classes."""

    def __init__(self, classes: int, *, width: int = 48, embedding_dim: int = 512):
        super().__init__()
        self.net = ArcFaceNet(width, embedding_dim)
        self.centres = nn.Parameter(torch.randn(classes, embedding_dim) * 0.05)

    def forward(self, pictures: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B classes"]:
        """The cosine to each centre."""
        return self.net(pictures) @ F.normalize(self.centres, dim=1).T


def train_encoder(pool: Pool, config: RecogniserConfig, run_dir: Path) -> nn.Module:
    """A recogniser of faces by the ArcFace loss (Deng et al., CVPR 2019), first without its margin."""
    torch.manual_seed(config.encoder.seed)
    model = Classifier(pool.faces)
    for number, (margin, loop) in enumerate(((0.0, config.encoder_apart), (config.margin, config.encoder)), start=1):

        def loss_of(generator: torch.Generator, margin: float = margin) -> Tensor:
            faces = torch.randint(pool.faces, (config.batch_size,), generator=generator)
            seen = degrade(pool.pictures(pool.of_faces(faces, generator)), generator)
            return F.cross_entropy(arcface_logits(model(seen), faces, margin, config.scale), faces)

        _train(model, loss_of, config, loop, run_dir / f"phase-{number}")
    return _calibrated(model.net, pool)


def train_second(pool: Pool, config: RecogniserConfig, run_dir: Path) -> nn.Module:
    """Another recogniser: of another architecture, by another loss."""
    torch.manual_seed(config.second.seed + 1)
    net = PatchTransformer()

    def loss_of(generator: torch.Generator) -> Tensor:
        faces = torch.randperm(pool.faces, generator=generator)[: config.batch_size].repeat(2)
        seen = degrade(pool.pictures(pool.of_faces(faces, generator)), generator)
        return contrastive_loss(net(seen), config.temperature)

    _train(net, loss_of, config, config.second, run_dir)
    return net.eval()


def train_reader(pool: Pool, config: RecogniserConfig, run_dir: Path) -> Classifier:
    """A reader: which letter a picture of one letter shows."""
    torch.manual_seed(config.reader.seed + 2)
    model, (rows, letters) = Classifier(len(LETTERS), width=32, embedding_dim=128), pool.single

    def loss_of(generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(rows), (config.batch_size,), generator=generator)
        seen = degrade(pool.pictures(rows[chosen]), generator)
        return F.cross_entropy(config.scale / 2 * model(seen), letters[chosen])

    _train(model, loss_of, config, config.reader, run_dir)
    _calibrated(model.net, pool)
    return model.eval()


def read(reader: Classifier, pictures: Float[Tensor, "B 3 H W"]) -> str:
    """The letter of each picture, capital or small."""
    with torch.no_grad():
        found = torch.cat([reader(part) for part in pictures.split(64)]).argmax(1)
    return "".join(LETTERS[i] for i in found.tolist())


def right(found: str, true: str) -> float:
    """The part of letters that are what they should be."""
    return sum(a == b for a, b in zip(found, true, strict=True)) / len(true)


def _train(
    model: nn.Module,
    loss_of: Callable[[torch.Generator], Tensor],
    config: RecogniserConfig,
    loop: LoopConfig,
    run_dir: Path,
) -> None:
    shared = {name: getattr(config, name) for name in ("batch_size", "margin", "scale", "temperature")}
    record = config_record(loop) | shared  # so that the others' settings may change
    train(model, loss_of, loop, run_dir=run_dir, config_record=record, label=run_dir.name)


def _calibrated(net: nn.Module, pool: Pool) -> nn.Module:
    """With batch norms' statistics of the averaged weights, which training does not keep."""
    generator = step_generator(0, 0)
    update_bn([degrade(pool.pictures(pool.some(64, generator)), generator) for _ in range(_CALIBRATING)], net)
    return net.eval()
