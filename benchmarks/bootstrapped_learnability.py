"""Can a bootstrapped zoo be learned from as well as one made from the mean? The same people's LoRAs from several starts.

    python benchmarks/bootstrapped_learnability.py --zoo runs/zoo --people 256

"zoo" is the LoRAs as they stand in the zoo; the others are made anew for the same people with its lora_A. On each the same simple
synthesizer is fitted: principal components of lora_B, ridge regression from the embedding. What is printed: likeness of the zoo's
own LoRAs (32 of its people), squared error of the components on its people left out (the mean alone is 1), and zero-shot
similarity on unseen people from one photo, at the best of four scales.
"""

import argparse
import time
from dataclasses import replace

import torch
import torch.nn.functional as F

from lorasynth.base import render
from lorasynth.evaluate.identity import embed_pictures, interval, similarity
from lorasynth.subjects.drawn import DrawnSubjects
from lorasynth.worlds.subjects import GIVEN_PHOTO, SESSION, Role, persons_of
from lorasynth.worlds.world import get_world
from lorasynth.zoo.adapt import FINE_TUNING, AdaptConfig, train_people
from lorasynth.zoo.initial_vectors import predictor, with_lora_A
from lorasynth.zoo.store import Zoo

LEFT_OUT, COMPONENTS = 40, 64


def main() -> None:
    """Print a row for each start."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--zoo", required=True)
    arguments.add_argument("--people", type=int, default=256)
    arguments.add_argument("--unseen", type=int, default=24)
    arguments.add_argument("--steps", type=int, default=9)
    arguments.add_argument("--learning-rate", type=float, default=AdaptConfig().learning_rate)
    arguments.add_argument("--batch-size", type=int, default=4)
    arguments.add_argument("--starts", nargs="+", default=["mean", "ridge", "adalora"])
    arguments.add_argument(
        "--ways", nargs="+", choices=["zoo", "usual"], default=["zoo"], help="its optimizer, or plain Adam"
    )
    asked = arguments.parse_args()

    world, zoo = get_world("portraits"), Zoo.open(asked.zoo)
    layout, init = zoo.layout, zoo.init()
    persons, stored, embeddings = (part[: asked.people] for part in zoo.load("train"))
    unseen = persons_of(Role.BENCHMARKED, asked.unseen)
    given = world.embeddings(unseen, 1, first=GIVEN_PHOTO)[:, 0]

    def drawn(vectors: torch.Tensor, people: list[int]) -> torch.Tensor:
        pictures = render(
            world.base, list(world.prompts[:2]), layout, vectors, guidance_scale=1.0, num_inference_steps=10
        )
        centroids = DrawnSubjects(world).centroids(people)
        return similarity(embed_pictures(world.encoder, pictures), centroids)

    def row(name: str, vectors: torch.Tensor, seconds: float) -> None:
        likeness = drawn(vectors[:32], persons[:32]).mean().item()
        left = slice(len(persons) - LEFT_OUT, None)
        right = slice(0, len(persons) - LEFT_OUT)
        mean = vectors[right].mean(0)
        _, _, basis = torch.linalg.svd(vectors[right] - mean, full_matrices=False)
        basis = basis[:COMPONENTS]
        rest = vectors[left] - mean
        error = ((rest - rest @ basis.T @ basis).square().sum() / rest.square().sum()).item()
        x = F.normalize(embeddings.mean(1), dim=1)
        coefficients = (vectors[right] - mean) @ basis.T
        centre = x[right].mean(0)
        gram = (x[right] - centre) @ (x[right] - centre).T
        ridge = 0.1 * gram.diagonal().mean() * torch.eye(len(gram))
        weights = (x[right] - centre).T @ torch.linalg.solve(gram + ridge, coefficients)
        guess = (given - centre) @ weights @ basis
        scores = {scale: drawn(mean + scale * guess, unseen) for scale in (1.0, 1.4, 1.8, 2.2)}
        best = max(scores, key=lambda scale: scores[scale].mean().item())
        low_high = interval(scores[best])
        print(
            f"{name:14s} seconds a LoRA {seconds:.3f}  likeness {likeness:.3f}  component error {error:.3f}  zero-shot "
            f"{low_high['mean']:.3f} ({low_high['low']:.3f} to {low_high['high']:.3f}) at scale {best}",
            flush=True,
        )

    row("zoo", with_lora_A(layout, stored, init), float("nan"))
    short = AdaptConfig(
        steps=asked.steps, batch_size=asked.batch_size, average_from=0.3, learning_rate=asked.learning_rate
    )
    usual = replace(FINE_TUNING, steps=asked.steps, batch_size=asked.batch_size, average_from=0.3, lora_A="frozen")
    for name in asked.starts:
        predict = predictor(name, "", layout)
        starts = predict(init, embeddings)
        if name != "mean":
            row(f"{name} itself", starts, 0.0)
        for way in asked.ways:
            config = short if way == "zoo" else usual
            begun = time.process_time()
            vectors = train_people(world, layout, predict(init, embeddings), persons, 16, config, first_photo=SESSION)
            row(f"{name} {way}", vectors, (time.process_time() - begun) / len(persons))


if __name__ == "__main__":
    main()
