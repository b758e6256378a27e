"""Where cells are run: a zoo, its people in three parts, what is fitted to it, and how a method is scored.

The zoo's training people are learned from. Its validation people are halved: the first half chooses (early stopping, ridge's
weight, a method's scale), the second is scored and has no say in anything.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from evidence.statistics import Figures
from lorasynth.base import Photos, render
from lorasynth.canonical import Canonicalizer
from lorasynth.errors import ZooError
from lorasynth.evaluate.identity import embed_pictures, likeness, similarity
from lorasynth.lora.factors import delta_W_norm2, delta_W_relative_error
from lorasynth.lora.layout import Layout
from lorasynth.pipeline.recipe import Recipe
from lorasynth.prior import DiffusionPrior, PriorConfig, fit_prior
from lorasynth.prior.baselines import Baseline, RidgePrior
from lorasynth.prior.training import best_ridge
from lorasynth.subjects import Subjects
from lorasynth.subjects.drawn import DrawnSubjects
from lorasynth.synthesizer import Synthesizer
from lorasynth.training import LoopConfig
from lorasynth.vae import LoRAVAE, VAEConfig, fit_vae
from lorasynth.worlds.world import World, get_world
from lorasynth.zoo.store import Zoo

Method = Callable[[Int[Tensor, " B"]], Float[Tensor, "B F"]]
"""Rows of the zoo -> a canonical vector for each: predicted from a photo's embedding, or made from the person's own LoRA."""

SCALES = (0.7, 1.0, 1.3, 1.6, 2.0, 2.4)  # from which the stored results were chosen
CHOOSING = 12  # people whose pictures choose a scale, with one prompt each
AT_ZERO: dict[str, Any] = {"temperature": 0.0, "num_inference_steps": 8}
"""The sampler's settings of the shipped model."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ExperimentContext:
    """A zoo in memory and what is fitted to it. Nothing here is random but what is given a seed."""

    zoo: Zoo
    recipe: Recipe
    world: World
    people: int  # of the scored ones, whose pictures are drawn
    persons: list[int]
    vectors: Float[Tensor, "N P"]
    embeddings: Float[Tensor, "N J D"]
    train: Int[Tensor, " n"]
    choosing: Int[Tensor, " m"]
    scored: Int[Tensor, " s"]

    @classmethod
    def open(cls, zoo: Zoo, recipe: Recipe, people: int = 24) -> "ExperimentContext":
        """Load a zoo of a drawn world.

        Raises:
            ZooError: it is not the recipe's, or has too few validation people.
            UsageError: its base is no drawn world.
        """
        world = get_world(zoo.layout.base)
        recipe.check_layout(zoo.layout)
        persons, vectors, embeddings = zoo.load()
        split = {item.person: item.split for item in zoo.items}
        train = torch.tensor([i for i, p in enumerate(persons) if split[p] == "train"])
        held = torch.tensor([i for i, p in enumerate(persons) if split[p] == "validation"])
        if len(held) < 8 or len(train) < 8:
            raise ZooError(
                f"{zoo.folder}: expected at least 8 training and 8 validation people, half of which choose and half of which are "
                f"scored, got {len(train)} and {len(held)}; build more of the zoo"
            )
        half = len(held) // 2
        # NOTE: what "metric" compares, all other experiments leave alone: most of their cells are older than the choice.
        recipe = replace(recipe, metric="entries")
        return cls(
            zoo=zoo, recipe=recipe, world=world, people=people, persons=persons, vectors=vectors, embeddings=embeddings,
            train=train, choosing=held[:half], scored=held[half:],
        )  # fmt: skip

    def with_training_people(self, count: int, seed: int) -> "ExperimentContext":
        """The same with fewer people to learn from, drawn by the seed.

        Raises:
            ZooError: there are not so many.
        """
        if count > len(self.train):
            raise ZooError(f"{self.zoo.folder}: expected at least {count} training people, got {len(self.train)}")
        order = torch.randperm(len(self.train), generator=torch.Generator("cpu").manual_seed(seed), device="cpu")
        return replace(self, train=self.train[order[:count]])

    @cached_property
    def subjects(self) -> DrawnSubjects:
        """The world's people, to be scored."""
        return DrawnSubjects(self.world)

    @cached_property
    def synthesizer(self) -> Synthesizer:
        """The one that lies beside the world's models. It need not be of this zoo.

        Raises:
            ModelError: there is none.
        """
        return Synthesizer.from_pretrained(self.world.synthesizer_folder)

    # What is fitted.

    @cached_property
    def canonicalizer(self) -> Canonicalizer:
        """The recipe's canonical form."""
        reference = self.zoo.init() if self.recipe.gauge == "anchored" else None
        return Canonicalizer.fit(
            self.vectors[self.train], self.zoo.layout, self.recipe.gauge, reference, self.recipe.metric
        )

    @cached_property
    def x(self) -> Float[Tensor, "N F"]:
        """Everybody's canonical vector."""
        return self.canonicalizer.apply(self.vectors)

    @cached_property
    def faces(self) -> Float[Tensor, "N D"]:
        """Everybody's mean embedding, a unit vector."""
        return F.normalize(self.embeddings.mean(1), dim=1)

    @lru_cache(maxsize=2)  # noqa: B019 (a context lives as long as its process)
    def vae(self, config: VAEConfig | None = None, seed: int = 0) -> tuple[LoRAVAE, dict[str, float]]:
        """A VAE, the recipe's by default, and `fit_vae`'s figures. The choosing people choose its weights."""
        config = config or self.recipe.vae
        return fit_vae(
            self.x, replace(config, loop=seeded(config.loop, seed)), train_rows=self.train, validation_rows=self.choosing,
            blocks=self.canonicalizer.blocks, embeddings=self.faces,
        )  # fmt: skip

    @torch.no_grad()
    def latents(self, vae: LoRAVAE) -> tuple[Float[Tensor, "N Z"], Float[Tensor, "N Z"]]:
        """Means and log-variances of everybody's latent."""
        return vae.encode(self.x)

    def prior_on(
        self, mean: Float[Tensor, "N Z"], logvar: Float[Tensor, "N Z"], config: PriorConfig, seed: int
    ) -> DiffusionPrior:
        """A diffusion prior of any targets. The choosing people choose its weights."""
        config = replace(config, loop=seeded(config.loop, seed))
        return fit_prior(mean, logvar, self.embeddings, config, train_rows=self.train, validation_rows=self.choosing)[0]

    @lru_cache(maxsize=4)  # noqa: B019
    def prior(self, config: PriorConfig, seed: int = 0) -> DiffusionPrior:
        """A diffusion prior of the recipe's VAE's latents."""
        return self.prior_on(*self.latents(self.vae()[0]), config, seed)

    def ridge(self, target: Float[Tensor, "N Z"]) -> RidgePrior:
        """Ridge regression of any targets on mean embeddings. The choosing people choose its weight."""
        faces, train, choosing = self.faces[:, None], self.train, self.choosing
        return best_ridge(faces[train], target[train], faces[choosing], target[choosing])[0]

    # What is scored.

    def photo(self, rows: Int[Tensor, " B"]) -> Float[Tensor, "B D"]:
        """The embedding of the one photo that methods are given."""
        return self.embeddings[rows, 0]

    def photo_itself(self, rows: Int[Tensor, " B"]) -> Photos:
        """That photo as the base model sees it. No LoRA of the zoo was trained on it."""
        return self.world.photos(self.persons_of(rows), 1, first=self.zoo.recipe["photos"])

    def persons_of(self, rows: Int[Tensor, " B"]) -> list[int]:
        """Whose rows they are."""
        return [self.persons[i] for i in rows.tolist()]

    def decoded(self, prior: DiffusionPrior | Baseline, vae: LoRAVAE | None = None, **settings: Any) -> Method:
        """A prior and its VAE, the recipe's by default, as a method."""
        decoder = vae or self.vae()[0]
        return torch.no_grad()(lambda rows: decoder.decode(prior.predict(self.photo(rows), **settings)))

    def score(self, method: Method, form: Canonicalizer | None = None, prefix: str = "") -> Figures:
        """A method's figures, one number a scored person: "explained" (see there), and those of `likeness`.

        Args:
            method: what is scored.
            form: the canonical form that it speaks; the recipe's by default.
            prefix: of the figures' names.
        """
        form = form or self.canonicalizer
        figures = {"explained": self.explained(form.invert(method(self.scored)))} | self.likeness(method, form)
        return {prefix + name: values for name, values in figures.items()}

    def explained(self, predicted: Float[Tensor, "s P"]) -> list[float]:
        """One minus each scored person's squared error of ΔW, in units of the mean squared deviation from the zoo's mean LoRA.

        The mean over people is the part of the variance that is explained: 0 is the mean LoRA, 1 is exact.
        """
        true, layout = self.vectors[self.scored], self.zoo.layout
        mean = self.canonicalizer.mean.expand(len(true), -1)
        size = delta_W_norm2(layout, true.double())
        error, of_mean = (delta_W_relative_error(layout, true, other) * size for other in (predicted, mean))
        return (1 - error / of_mean.mean()).tolist()

    def explained_canonical(self, predicted: Float[Tensor, "s F"]) -> list[float]:
        """The same of canonical vectors, whose mean is zero."""
        true = self.x[self.scored]
        return (1 - (predicted - true).square().sum(1) / true.square().sum(1).mean()).tolist()

    def likeness(self, method: Method, form: Canonicalizer) -> Figures:
        """Do the pictures show the person? Drawn by the base for some of the scored people, at a scale that others chose.

        Returns:
            "similarity" and "similarity2" of each person: by the conditioning encoder and by the second recogniser, to photos
            that nothing else was given; and the "scale".
        """
        scale = self.best_scale(method, form)
        rows = self.scored[: self.people]
        vectors = form.invert(scale * method(rows))
        return {"scale": scale} | resemblance(self.subjects, self.persons_of(rows), self.zoo.layout, vectors)

    def best_scale(self, method: Method, form: Canonicalizer) -> float:
        """How long a method's canonical vectors should be, by the pictures of some choosing people."""
        rows = self.choosing[:CHOOSING]
        x, centroids = method(rows), self.subjects.centroids(self.persons_of(rows))

        def value(scale: float) -> float:
            return likeness(self.subjects, self.zoo.layout, form.invert(scale * x), centroids, num_prompts=1)

        return max(SCALES, key=value)


def resemblance(subjects: Subjects, people: list[int], layout: Layout, vectors: Float[Tensor, "N P"]) -> Figures:
    """Do a LoRA's pictures show its person? Two prompts, no guidance.

    Returns:
        "similarity" and "similarity2" of each person: by the conditioning encoder and by the second recogniser, to photos that
        nothing else was given.
    """
    drawn = render(subjects.base, list(subjects.prompts[:2]), layout, vectors, guidance_scale=1.0)
    return {
        name: similarity(embed_pictures(subjects.recogniser(name), drawn), subjects.centroids(people, name)).tolist()
        for name in subjects.recognisers
    }


def seeded(loop: LoopConfig, seed: int) -> LoopConfig:
    """A training's settings with another seed."""
    return replace(loop, seed=seed)


def zoo_fingerprint(zoo: Zoo) -> str:
    """16 hex digits that change with any LoRA, embedding or split of a zoo."""
    lines = sorted(f"{i.id} {i.person} {i.split} {i.sha256} {i.embeddings_sha256}" for i in zoo.items)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
