"""The qualities of how a zoo is trained: likeness, repeatability, size, cost and carriers, on people it does not hold."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from lorasynth.base import Base, Photos, render
from lorasynth.base.sampling import usual_guidance
from lorasynth.encoders.protocol import Encoder
from lorasynth.encoders.records import Record, difference
from lorasynth.errors import ZooError
from lorasynth.evaluate.identity import embed_pictures, interval, similarity
from lorasynth.gallery import Role
from lorasynth.lora.factors import delta_W_norm2, delta_W_pairs
from lorasynth.lora.layout import Layout
from lorasynth.subjects import SIMILARITY, Subjects
from lorasynth.subjects.drawn import DrawnSubjects
from lorasynth.subjects.source import PhotoSource
from lorasynth.worlds.world import get_world
from lorasynth.zoo.adapt import AdaptConfig, train_people
from lorasynth.zoo.materials import preserved_photos
from lorasynth.zoo.module_sets import group_of
from lorasynth.zoo.preservation import Preservation
from lorasynth.zoo.rewrite import PREPARED_NAME
from lorasynth.zoo.store import Zoo

OTHER_SEED = 1_000
"""What is added to a training's seed for the second training: other noise, levels and order of photos."""


@dataclass(frozen=True, kw_only=True)
class TrainedTwice:
    """N subjects' LoRAs, trained twice from one initialisation, with other noise, timesteps and order of photos."""

    subjects: Subjects
    people: Sequence[int]
    layout: Layout
    init: Float[Tensor, " P"]
    first: Float[Tensor, "N P"]
    second: Float[Tensor, "N P"]
    seconds: float  # a LoRA: of the processor on a CPU, of the clock on a GPU

    @property
    def finite(self) -> bool:
        """Whether no training diverged."""
        return bool(self.first.isfinite().all() and self.second.isfinite().all())

    def similarity(self, vectors: Float[Tensor, "N P"], prompts: Sequence[str]) -> Float[Tensor, " N"]:
        """Of what LoRAs draw to other photos of their subjects, by the conditioning encoder, at the base's usual guidance."""
        return drawn_similarity(self.subjects, self.people, self.layout, vectors, prompts)

    def by_group(self, prompts: Sequence[str]) -> dict[str, float]:
        """Mean similarity where only one group of modules keeps its update ("attn1", "ff", …): which of them carry a subject."""
        groups = dict.fromkeys(group_of(name) for name in self.layout.slices)
        return {
            group: self.similarity(only_group(self.layout, self.first, group), prompts).mean().item()
            for group in groups
        }

    def norm(self) -> float:
        """Mean ``‖ΔW‖``."""
        return delta_W_norm2(self.layout, self.first).sqrt().mean().item()


def only_group(layout: Layout, vectors: Float[Tensor, "N P"], group: str) -> Float[Tensor, "N P"]:
    """LoRAs without the update of other modules than a group's."""
    kept = vectors.clone()
    for name, (_, B) in layout.slices.items():
        if group_of(name) != group:
            kept[:, B] = 0
    return kept


def train_twice(
    subjects: Subjects,
    people: Sequence[int],
    photos: Photos,
    layout: Layout,
    init: Float[Tensor, " P"],
    config: AdaptConfig,
    *,
    bank_size: int = 16,
    report: Callable[[str], None] = print,
) -> TrainedTwice:
    """Train subjects' LoRAs twice as a zoo's are trained.

    Args:
        subjects: of whom.
        people: N of them.
        photos: theirs.
        layout: of the LoRAs.
        init: the zoo's shared initialisation.
        config: how they are trained.
        bank_size: subjects trained at once.
        report: gets a line now and then.
    """
    trained, started = [], _clock()
    for seed in (config.seed, config.seed + OTHER_SEED):
        report(f"training {len(people)} subjects, seed {seed}")
        settings = replace(config, seed=seed)
        trained.append(train_people(subjects.base, layout, init, photos, settings, bank_size=bank_size))
    return TrainedTwice(
        subjects=subjects, people=people, layout=layout, init=init, first=trained[0], second=trained[1],
        seconds=(_clock() - started) / (2 * len(people)),
    )  # fmt: skip


def drawn_similarity(
    subjects: Subjects, people: Sequence[int], layout: Layout, vectors: Float[Tensor, "#N P"], prompts: Sequence[str]
) -> Float[Tensor, " N"]:
    """Similarity of what each subject's LoRA, or one for all, draws to photos of the subject that serve nothing but scores."""
    guidance = usual_guidance(subjects.base)
    drawn = render(subjects.base, prompts, layout, vectors, guidance_scale=guidance)
    embedded = embed_pictures(subjects.recogniser(SIMILARITY), drawn)
    return similarity(embedded.expand(len(people), -1, -1), subjects.centroids(people))


def zoo_quality(
    zoo: Zoo, subjects: Subjects, people: int, *, report: Callable[[str], None] = print
) -> dict[str, object]:
    """Train held-out people twice by the zoo's recipe, with other noise, timesteps and order, and look at the LoRAs.

    Args:
        zoo: that was built here.
        subjects: of its people.
        people: how many.
        report: gets a line now and then.

    Returns:
        "likeness" (similarity of what they draw to other photos of the person, with interval, by the conditioning encoder),
        "agreement" and "agreement_centred" (see `repeatability`), "norm" (mean ‖ΔW‖), "seconds" a LoRA, "groups" (mean
        similarity where only one group of modules keeps its update) and "people".
    """
    measured = subjects.people(Role.MEASURED, people)
    photos = subjects.zoo_photos(measured, zoo.recipe["photos"], zoo.recipe.get("first_photo", 0))
    if (said := zoo.recipe.get("preservation")) is not None:
        photos = replace(photos, class_photos=preserved_photos(subjects.base, Preservation(**said), zoo.folder))
    config, prompts = AdaptConfig(**zoo.recipe["adapt"]), list(subjects.prompts)
    trained = train_twice(subjects, measured, photos, zoo.layout, zoo.init(), config, report=report)
    return {
        "likeness": interval(trained.similarity(trained.first, prompts)),
        **repeatability(zoo.layout, trained.first, trained.second, trained.init),
        "norm": trained.norm(), "seconds": trained.seconds, "groups": trained.by_group(prompts[:2]),
        "people": len(measured),
    }  # fmt: skip


def open_subjects(zoo: Zoo, source: PhotoSource | None, *, report: Callable[[str], None] = print) -> Subjects:
    """The subjects that a zoo's quality is measured on.

    Args:
        zoo: that was built here.
        source: the photographs that it was built from; None for one of a drawn world's people.
        report: gets a line on the photos.

    Raises:
        ZooError: the base draws pictures of another size than the zoo's, or the encoder is another.
        LorasynthError: photographs, base or encoder cannot be opened.
    """
    if source is None:
        return DrawnSubjects(get_world(zoo.recipe["world"]))

    def check(base: Base, data: Record, encoder: Encoder) -> None:
        if wrong := difference(zoo.recipe["encoder"], encoder.record):
            raise ZooError(f"{zoo.folder}: {wrong}; give the encoder that the zoo was built with")
        if base.picture_size != zoo.recipe["picture_size"]:
            raise ZooError(
                f"{zoo.folder}: expected pictures of {zoo.recipe['picture_size']} pixels a side, got {base.picture_size}; give "
                f"--resolution {zoo.recipe['picture_size']}"
            )

    hidden = zoo.forgotten_persons.__contains__
    return replace(source, family=zoo.layout.base).open(
        zoo.folder / PREPARED_NAME, hidden=hidden, check=check, report=report
    )


def repeatability(
    layout: Layout, first: Float[Tensor, "N P"], second: Float[Tensor, "N P"], init: Float[Tensor, " P"]
) -> dict[str, float]:
    """How alike two trainings of the same people come out.

    Args:
        layout: of the LoRAs.
        first: LoRAs of N people.
        second: LoRAs of the same people trained with another order, noise and timesteps.
        init: the shared initialisation.

    Returns:
        "agreement": mean cosine of a person's two updates (1 is a repeatable training); "agreement_centred": the same after
        taking off the mean update of all people, which the cosine alone would be flattered by. It needs two people and one
        lora_A for all.
    """
    result = {"agreement": _cosines(layout, first, second).mean().item()}
    if len(first) > 1 and all(
        torch.equal(first[:, s], init[s].expand(len(first), -1)) for s, _ in layout.slices.values()
    ):
        result["agreement_centred"] = centred_agreement(layout, first, second).mean().item()
    return result


def centred_agreement(layout: Layout, first: Float[Tensor, "N P"], second: Float[Tensor, "N P"]) -> Float[Tensor, " N"]:
    """The cosine of each person's two updates without the mean update of all people.

    With one shared lora_A, which all have to have, differences of lora_B are differences of updates.
    """
    x, y = first.clone(), second.clone()
    for _, s in layout.slices.values():
        x[:, s] -= first[:, s].mean(0)
        y[:, s] -= second[:, s].mean(0)
    return _cosines(layout, x, y)


def _cosines(layout: Layout, x: Float[Tensor, "N P"], y: Float[Tensor, "N P"]) -> Float[Tensor, " N"]:
    scale = (delta_W_pairs(layout, x, x) * delta_W_pairs(layout, y, y)).clamp(min=1e-30).sqrt()
    return delta_W_pairs(layout, x, y) / scale


def _clock() -> float:
    """Seconds of the processor; on a GPU those of the clock, when all work is done."""
    if torch.get_default_device().type != "cuda":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()
