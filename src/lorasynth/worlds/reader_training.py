"""Training a reader: drawn photos of people whom nothing else sees, and the features they were drawn from."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lorasynth.devices import half_precision
from lorasynth.training import LoopConfig, config_record, train
from lorasynth.worlds.domain import Domain
from lorasynth.worlds.pool import draw_pool
from lorasynth.worlds.reader import PICTURE_SIZE, Reader, ReaderNet
from lorasynth.worlds.recogniser_training import degrade
from lorasynth.worlds.subjects import Role, persons_of


@dataclass(frozen=True, kw_only=True)
class ReaderConfig:
    """How a reader is trained."""

    width: int = 32
    people: int = 19_500  # one photo each
    validation_people: int = 500
    batch_size: int = 24
    detail_weight: float = 0.5
    bf16: bool = True
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            steps=8_000, learning_rate=2e-3, warmup_steps=200, weight_decay=0.05, validate_every=500
        )
    )


def train_reader(domain: Domain, config: ReaderConfig, *, run_dir: Path) -> Reader:
    """Train a reader, with light augmentation (exposure, noise, softness, and mirrored pictures where a world allows it).

    Args:
        domain: whose features.
        config: settings.
        run_dir: for pictures, checkpoints and metrics; the same folder again resumes.

    Returns:
        The reader with the smallest loss on people of whom no photo was learned from.
    """
    features = domain.features
    persons = persons_of(Role.READER, config.people + config.validation_people)
    pool = draw_pool(domain, persons, [p % 7 for p in persons], PICTURE_SIZE, run_dir / "pool.npy", details=False)
    values, visible = features.of(domain.identity_factors(persons))
    there, sure = features.presence(values, visible)
    mean, deviation = features.spread(len(domain.identity))
    standard = (values - mean) / deviation
    torch.manual_seed(config.loop.seed)
    net = ReaderNet(len(features.names), len(features.details), config.width)

    signs = torch.tensor([-1.0 if name in (features.mirrored or ()) else 1.0 for name in features.names])

    def loss_on(rows: Tensor, pictures: Float[Tensor, "B 3 S S"], mirrored: int = 0) -> Tensor:
        """Of pictures of whom the first ``mirrored`` are turned left to right."""
        target = standard[rows]
        if mirrored:
            pictures = torch.cat([pictures[:mirrored].flip(3), pictures[mirrored:]])
            target = torch.cat([target[:mirrored] * signs, target[mirrored:]])
        with half_precision(config.bf16, cpu=True):
            found, logits = net(pictures)
        error = ((found - target).square() * visible[rows]).sum() / visible[rows].sum()
        wrong = F.binary_cross_entropy_with_logits(logits, there[rows].float(), reduction="none")
        return error + config.detail_weight * (wrong * sure[rows]).sum() / sure[rows].sum().clamp(min=1)

    def pictures_of(rows: Tensor) -> Float[Tensor, "B 3 S S"]:
        zero = torch.zeros_like(rows)
        return pool.batch(rows, zero, zero, PICTURE_SIZE)

    def loss_of(generator: torch.Generator) -> Tensor:
        rows = torch.randint(config.people, (config.batch_size,), generator=generator)
        pictures = degrade(pictures_of(rows), generator)
        order = torch.randperm(len(rows), generator=generator)
        return loss_on(rows[order], pictures[order], 0 if features.mirrored is None else len(rows) // 2)

    @torch.no_grad()
    def validate() -> float:
        parts = (config.people + torch.arange(config.validation_people)).split(50)
        return sum(loss_on(rows, pictures_of(rows)).item() for rows in parts) / len(parts)

    record = config_record(config)
    train(net, loss_of, config.loop, validate=validate, run_dir=run_dir / "run", config_record=record, label="reader")
    return Reader(domain=domain, net=net.eval().requires_grad_(False))
