"""Identity similarity over steps of fine-tuning from several starts, on unseen people, and LoRAs per hour at equal similarity.

    python benchmarks/bootstrapped_zoo.py --people 24 --batch-size 4 --zoo runs/zoo

The plain loop starts from a random lora_A and lora_B = 0 and trains one PEFT adapter at a time; its curve is measured in a bank,
which is the same training (tests/lora/test_bank.py), its seconds with PEFT, one at a time, in turns with the bank's. From each
other start LoRAs are trained in two ways: the zoo's (lora_B alone, one lora_A for all, the recipe's optimizer) and the usual one
(both, plain Adam). Seconds are process CPU time of one thread.
"""

import argparse
import time
from dataclasses import replace
from itertools import pairwise
from statistics import median

import torch
from _harness import record
from zoo_training import BASES, bank_step, inputs, peft_step

from lorasynth.base import render
from lorasynth.evaluate.identity import embed_pictures, similarity
from lorasynth.lora.bank import AdapterBank
from lorasynth.lora.layout import Layout
from lorasynth.subjects.drawn import DrawnSubjects
from lorasynth.synthesizer import Synthesizer
from lorasynth.worlds.subjects import SESSION, Role, persons_of
from lorasynth.worlds.world import World, get_world
from lorasynth.zoo.adapt import FINE_TUNING, AdaptConfig, subject_losses
from lorasynth.zoo.initial_vectors import predictor
from lorasynth.zoo.initialisation import random_init
from lorasynth.zoo.store import Zoo

PLACES = 16


def main() -> None:
    """Print a curve for each start and the ratio at each similarity that the plain loop reaches."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument(
        "--zoo",
        help="its shared initialisation is what LoRAs but the plain loop's start from; by default that of the shipped model",
    )
    arguments.add_argument("--people", type=int, default=24)
    arguments.add_argument("--batch-size", type=int, default=4)
    arguments.add_argument("--photos", type=int, default=16)
    arguments.add_argument("--plain-steps", type=int, default=120)
    arguments.add_argument("--steps", type=int, default=30)
    arguments.add_argument("--starts", nargs="+", default=["zero", "mean", "ridge", "adalora"])
    arguments.add_argument("--learning-rate", type=float, default=AdaptConfig().learning_rate)
    arguments.add_argument("--usual-learning-rate", type=float, default=FINE_TUNING.learning_rate)
    arguments.add_argument("--adam-epsilon", type=float, default=AdaptConfig().adam_epsilon)
    asked = arguments.parse_args()

    world = get_world("portraits128")
    layout = world.base.layout(4)
    init = Zoo.open(asked.zoo).init() if asked.zoo else Synthesizer.from_pretrained().canonicalizer.reference
    persons = persons_of(Role.BENCHMARKED, asked.people)
    photos = world.photos(persons, asked.photos, SESSION)
    embeddings = world.embeddings(persons, 12, first=asked.photos)
    centroids = DrawnSubjects(world).centroids(persons)
    ours = AdaptConfig(
        steps=asked.steps,
        batch_size=asked.batch_size,
        learning_rate=asked.learning_rate,
        adam_epsilon=asked.adam_epsilon,
    )
    plain = replace(FINE_TUNING, steps=asked.plain_steps, batch_size=asked.batch_size)

    def drawn_similarity(vectors: torch.Tensor) -> torch.Tensor:
        pictures = render(
            world.base, list(world.prompts[:2]), layout, vectors, guidance_scale=1.0, num_inference_steps=10
        )
        return similarity(embed_pictures(world.encoder, pictures), centroids)

    def curve(starts: torch.Tensor, config: AdaptConfig, every: int) -> list[tuple[int, float]]:
        """Mean similarity after 0, every, 2 * every, … steps.

        The learning rate stays constant, and a LoRA is the mean of its weights with weights that grow along the way
        (polynomial-decay averaging, Shamir & Zhang, ICML 2013, with eta = 3).
        """
        average, everybody = starts.clone(), torch.arange(len(persons))
        bank = AdapterBank(world.base.denoiser, layout, len(persons), starts, lora_A=config.lora_A)
        parameters = [p for p in bank.parameters() if p.requires_grad]
        betas = (config.beta1, config.beta2)
        optimizer = torch.optim.Adam(parameters, lr=config.learning_rate, betas=betas, eps=config.adam_epsilon)
        looks = [(0, drawn_similarity(average).mean().item())]
        for step in range(config.steps):
            with bank.attached():
                loss = subject_losses(world.base, photos, everybody, config, step).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            average = average.lerp(bank.vectors(), 4 / (step + 4))
            if (step + 1) % every == 0:
                looks.append((step + 1, drawn_similarity(average).mean().item()))
        return looks

    together, alone = seconds_a_step(world, asked.batch_size, layout)
    print(f"CPU seconds a LoRA and step: bank of {PLACES} {together:.4f}, PEFT one at a time {alone:.4f}", flush=True)
    reference = curve(random_init(layout, 0).expand(len(persons), -1), plain, 20)
    print("plain   ", "  ".join(f"{step}:{value:.3f}" for step, value in reference), flush=True)
    for name in asked.starts:
        predict = predictor(name, "", layout)
        start = time.process_time()
        starts = predict(init, embeddings)
        predicting = (time.process_time() - start) / len(persons)
        usual = replace(plain, steps=asked.steps, learning_rate=asked.usual_learning_rate)
        for way, config in (("zoo", ours), ("usual", usual)):
            ours_curve = curve(starts, config, 3)
            print(f"{name} {way}", "  ".join(f"{step}:{value:.3f}" for step, value in ours_curve), flush=True)
            for target in (0.5, 0.6, 0.7, 0.75, 0.8, 0.825, 0.85, 0.875, 0.9):
                theirs_steps, ours_steps = reached(reference, target), reached(ours_curve, target)
                if theirs_steps and ours_steps is not None:
                    ours_s = predicting + ours_steps * together
                    record(
                        f"bootstrapped_{name}_{way}_at_{target}", theirs_steps * alone / ours_s, ours_s,
                        theirs_steps * alone, 1, note=f"{ours_steps:.1f} steps against {theirs_steps:.1f}",
                    )  # fmt: skip


def reached(curve: list[tuple[int, float]], target: float) -> float | None:
    """Steps at which a curve first crosses a similarity, linear between looks; None if it never does."""
    if curve[0][1] >= target:
        return 0.0
    for (a, low), (b, high) in pairwise(curve):
        if high >= target:
            return a + (b - a) * (target - low) / (high - low)
    return None


def seconds_a_step(world: World, batch_size: int, layout: Layout, runs: int = 7) -> tuple[float, float]:
    """CPU seconds a LoRA and step, with inputs cached: of a bank, and of a PEFT adapter by itself; medians of turns."""
    base = replace(BASES["portraits"], latent_channels=world.base.latent_shape[0])
    sides = (
        (bank_step(world.base.denoiser, layout, PLACES, inputs(base, PLACES * batch_size)), PLACES),
        (peft_step(base.build(), base.targets, 4, inputs(base, batch_size)), 1),
    )
    times: tuple[list[float], list[float]] = ([], [])
    for run in range(runs + 1):
        for taken, (step, n) in zip(times, sides, strict=True):
            start = time.process_time()
            step()
            if run:
                taken.append((time.process_time() - start) / n)
    return median(times[0]), median(times[1])


if __name__ == "__main__":
    main()
