"""The real trainings, stopped at random steps, once and twice in a row, against the same that were never stopped."""

import random

import pytest
import torch
import torch.nn.functional as F

from lorasynth.prior import PriorConfig, fit_prior
from lorasynth.training import LoopConfig
from lorasynth.vae import VAEConfig, fit_vae

STEPS, STOPS = 30, 20
N, TRAIN, HELD = 200, torch.arange(160), torch.arange(160, 200)
LOOP = LoopConfig(
    steps=STEPS, learning_rate=5e-3, warmup_steps=5, ema_decay=0.9, validate_every=7, checkpoint_every_s=1e9
)


def train_vae(run_dir):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(N, 4, generator=g) @ torch.randn(4, 12, generator=g)
    config = VAEConfig(
        stem="principal", num_components=6, latent_dim=3, hidden_dim=16, dropout=0.2, batch_size=32, loop=LOOP
    )
    return fit_vae(x, config, train_rows=TRAIN, validation_rows=HELD, run_dir=run_dir)


def train_prior(run_dir, conditioning):
    g = torch.Generator().manual_seed(1)
    faces = F.normalize(torch.randn(N, 2, 8, generator=g), dim=2)
    z = faces[:, 0] @ torch.randn(8, 4, generator=g)
    config = PriorConfig(
        conditioning=conditioning, width=16, depth=1, dropout=0.2, embedding_noise=0.3, batch_size=32, loop=LOOP
    )
    return fit_prior(
        z, torch.full_like(z, -6.0), faces, config, train_rows=TRAIN, validation_rows=HELD, run_dir=run_dir
    )


TRAININGS = {
    "vae": train_vae,
    "adalora": lambda run_dir: train_prior(run_dir, "adalora"),
    "adanorm": lambda run_dir: train_prior(run_dir, "adanorm"),
}


@pytest.mark.parametrize("name", TRAININGS)
@pytest.mark.slow
def test_stopped_at_random_steps_it_ends_with_the_same_bits(name, tmp_path, stopped_in_step):
    """Half of them are stopped again before they end; the last step is among them."""
    training, chance = TRAININGS[name], random.Random(name)
    whole, whole_metrics = training(tmp_path / "whole")
    for number, stop in enumerate([STEPS, *chance.sample(range(1, STEPS), STOPS - 1)]):
        run = tmp_path / str(number)
        with stopped_in_step(stop):
            training(run)
        if number % 2 and stop < STEPS:
            with stopped_in_step(chance.randint(1, STEPS - stop)):
                training(run)
        again, metrics = training(run)
        for key, tensor in whole.state_dict().items():
            assert torch.equal(tensor, again.state_dict()[key]), (stop, key)
        assert {**metrics, "seconds": 0} == {**whole_metrics, "seconds": 0}, stop
        assert (run / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes(), stop
