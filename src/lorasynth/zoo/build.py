"""Making a zoo: a shared initialisation learned from a few people, then banks of people from it, resumable."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from lorasynth.devices import use_device
from lorasynth.lora.bank import AdapterBank
from lorasynth.lora.layout import Layout
from lorasynth.worlds.subjects import SESSION, Split, persons_of, split_of
from lorasynth.worlds.world import World, get_world
from lorasynth.zoo.adapt import AdaptConfig, adapt
from lorasynth.zoo.calibration import calibrate
from lorasynth.zoo.filling import fill, helpers
from lorasynth.zoo.leases import FOLDER_NAME as LEASES_NAME
from lorasynth.zoo.leases import Leases
from lorasynth.zoo.relay import Stopping, held_out_loss, relay
from lorasynth.zoo.sharing import require_shareable
from lorasynth.zoo.starts import MEAN, predictor
from lorasynth.zoo.store import Zoo

MEASURED = 0
"""Instead of a bank's size: to be measured, once, by who begins the zoo. The zoo's recipe then says the number."""
_BUDGET = {"cpu": 256, "cuda": 4_096}  # samples in a step, at most, of what is measured
_HELD_OUT_PHOTOS = 8


@dataclass(frozen=True, kw_only=True)
class ZooConfig:
    """A zoo of a world."""

    world: str = "portraits"
    people: int = 2_000
    validation_people: int = 128
    photos: int = 16
    # NOTE: the same settings (pose, light, background, clothes) for everybody. What a LoRA keeps of its very photos is then
    # common to all of the zoo and falls into its mean; with photos of their own it is much of what tells two LoRAs apart.
    first_photo: int = SESSION
    rank: int = 4
    embedding_photos: int = 12
    bank: int = 16  # people trained at once; MEASURED: what is fastest where the zoo is begun
    pilot_people: int = 48
    pilot_rounds: int = 2
    pilot: AdaptConfig = field(default_factory=lambda: AdaptConfig(steps=60, learning_rate=4e-2, lora_A="shared"))
    adapt: AdaptConfig = field(default_factory=lambda: AdaptConfig(strength=1.4))
    seed: int = 0
    start: str = MEAN  # where each LoRA starts: "zero", "mean", or what this prior of a synthesizer predicts
    start_model: str = ""  # the synthesizer's folder; the shipped one if empty
    stopping: Stopping | None = None  # by the loss on photos behind those trained on; then `adapt.steps` is the most
    places: int = 16  # with `stopping`: people of a bank who are trained at once; others wait for a place


def random_init(layout: Layout, seed: int) -> Float[Tensor, " P"]:
    """lora_A normal with variance 1 / in_features, lora_B zero: an update of zero."""
    generator = torch.Generator("cpu").manual_seed(seed)
    init = torch.zeros(layout.num_parameters, device="cpu")
    for m in layout.modules:
        place, _ = layout.slices[m.name]
        init[place] = torch.randn(m.rank * m.in_features, generator=generator, device="cpu") / m.in_features**0.5
    return init.to(torch.get_default_device())


def learn_init(
    world: World, layout: Layout, config: ZooConfig, *, report: Callable[[str], None] = print
) -> Float[Tensor, " P"]:
    """The zoo's shared initialisation: one lora_A learned for everybody, and the mean lora_B.

    A pilot bank trains many people with *one* lora_A between them, which so comes to span what people differ in. Every LoRA of
    the zoo then starts from it and from the pilot's mean, and trains lora_B only: all LoRAs share one row space, the gauge is
    fixed from the start, and canonical vectors are linear in the update.

    Several rounds with fresh people, each from the last one's lora_A, with lora_B starting from zero.
    """
    init = random_init(layout, config.seed)
    people = persons_of(Split.ZOO, config.pilot_people * config.pilot_rounds, offset=50_000)
    for r in range(config.pilot_rounds):
        persons = people[r * config.pilot_people : (r + 1) * config.pilot_people]
        bank = AdapterBank(world.pipe.unet, layout, len(persons), init, lora_A=config.pilot.lora_A)
        photos = world.photos(persons, config.photos)
        settings = replace(config.pilot, seed=config.seed + 1 + r)
        losses: list[float] = []
        trained = adapt(
            world.pipe.unet,
            world.pipe.scheduler,
            bank,
            photos,
            settings,
            on_step=lambda _, v: losses.append(v),  # noqa: B023
        )
        init = trained.mean(0)
        report(f"pilot round {r + 1}: loss {sum(losses[:8]) / 8:.4f} -> {sum(losses[-8:]) / 8:.4f}")
    return init


def train_people(
    world: World,
    layout: Layout,
    init: Float[Tensor, " P"] | Float[Tensor, "N P"],
    persons: list[int],
    num_photos: int,
    config: AdaptConfig,
    *,
    first_photo: int = 0,
    bank_size: int = 16,
    on_step: Callable[[], None] | None = None,
) -> Float[Tensor, "N P"]:
    """Fine-tuned LoRAs of some people, ``bank_size`` at once, from a shared initialisation or from one each."""
    trained, starts = [], init.expand(len(persons), -1)
    for i in range(0, len(persons), bank_size):
        part = persons[i : i + bank_size]
        bank = AdapterBank(world.pipe.unet, layout, len(part), starts[i : i + bank_size], lora_A=config.lora_A)
        photos = world.photos(part, num_photos, first_photo)
        step = (lambda _, __: on_step()) if on_step else None
        trained.append(adapt(world.pipe.unet, world.pipe.scheduler, bank, photos, config, on_step=step))
    return torch.cat(trained)


def _relay(
    world: World,
    layout: Layout,
    starts: Float[Tensor, "N P"],
    persons: list[int],
    config: ZooConfig,
    stopping: Stopping,
) -> Float[Tensor, "N P"]:
    """Fine-tuned LoRAs of some people, each until its held-out photos gain no more."""
    unet, scheduler = world.pipe.unet, world.pipe.scheduler
    photos = world.photos(persons, config.photos, config.first_photo)
    held_out = world.photos(persons, _HELD_OUT_PHOTOS, config.first_photo + config.photos)
    score = held_out_loss(unet, scheduler, layout, held_out, seed=config.seed)
    return relay(
        unet, scheduler, layout, starts, photos, config.adapt, stopping, score, places=config.places
    ).vectors  # fmt: skip


def build_zoo(config: ZooConfig, folder: str, *, report: Callable[[str], None] | None = print) -> Zoo:
    """Build a zoo, or go on with one, together with all other processes that are called to do the same, on whatever machine.

    A bank of people is a shard, stored whole; nobody is trained twice, but for banks of processes that were killed.

    Args:
        config: what to build.
        folder: where.
        report: gets a line now and then; None for a process that is not to be heard, and draws no bar.

    Returns:
        The zoo with all that was asked for.
    """
    say = report or (lambda _: None)
    world = get_world(config.world)
    layout = world.layout(config.rank)
    zoo = _begin(config, folder, world, layout, say)
    config, init = replace(config, bank=zoo.recipe["bank"]), zoo.init()
    predict = predictor(config.start, config.start_model, layout)
    persons = persons_of(Split.ZOO, config.people) + persons_of(Split.VALIDATION, config.validation_people)
    banks = [persons[i : i + config.bank] for i in range(0, len(persons), config.bank)]
    # Validation people first: they are few, and everything later is chosen by them.
    order = sorted(range(len(banks)), key=lambda k: split_of(banks[k][0]) != Split.VALIDATION)
    if kept_out := zoo.forgotten_persons & set(persons):
        say(f"{len(kept_out)} people were forgotten and stay out")
    bar = tqdm(total=len(persons), desc="zoo", unit=" people", mininterval=5.0, disable=report is None)

    def show(missing: int) -> None:
        bar.update(len(persons) - missing - bar.n)

    def make(people: list[int]) -> tuple[Float[Tensor, "n P"], Float[Tensor, "n J D"]]:
        # Embeddings are of photos that the LoRA was not trained on, as the user's photo will not be.
        embeddings = world.embeddings(people, config.embedding_photos, first=config.photos)
        starts = predict(init, embeddings)
        if config.stopping is not None:
            return _relay(world, layout, starts, people, config, config.stopping), embeddings
        vectors = train_people(
            world, layout, starts, people, config.photos, config.adapt,
            first_photo=config.first_photo, bank_size=config.bank,
        )  # fmt: skip
        return vectors, embeddings

    with bar:
        return fill(
            zoo, {f"shard-{k:05d}": banks[k] for k in order}, make, on_look=show,
            split=lambda person: "validation" if split_of(person) == Split.VALIDATION else "train",
            source=f"world {config.world}", licence="Apache-2.0",
        )  # fmt: skip


def build_zoo_with_workers(
    config: ZooConfig, folder: str, workers: int, *, report: Callable[[str], None] = print
) -> Zoo:
    """`build_zoo` by ``workers`` processes of one thread each, this one among them.

    Raises:
        ZooError: the folder is not fit for several processes.
    """
    if workers > 1:
        require_shareable(Path(folder) / LEASES_NAME)
    with helpers(workers - 1, _work, config, folder, str(torch.get_default_device())) as others:
        zoo = build_zoo(config, folder, report=report)
    for process in others:
        if process.exitcode != 0:
            report(f"a worker ended with code {process.exitcode}; the others did its part")
    return zoo


def _work(config: ZooConfig, folder: str, device: str) -> None:
    torch.set_num_threads(1)
    use_device(device)
    build_zoo(config, folder, report=None)


def _begin(config: ZooConfig, folder: str, world: World, layout: Layout, say: Callable[[str], None]) -> Zoo:
    """Open the zoo; one process makes it, the others wait for that."""
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    leases = Leases(path)
    while not (path / "zoo.json").exists():
        if lease := leases.claim(["init"]):
            with lease:
                if not (path / "zoo.json").exists():
                    if config.bank == MEASURED:
                        config = replace(config, bank=measured_bank(world, layout, config, report=say))
                    init = learn_init(world, layout, config, report=say)
                    return Zoo.create(path, layout, _recipe(config), init)
        time.sleep(1)
    if config.bank == MEASURED:
        config = replace(config, bank=Zoo.open(path).recipe["bank"])
    return Zoo.create(path, layout, _recipe(config), torch.zeros(0))


def _recipe(config: ZooConfig) -> dict[str, Any]:
    """What decides each LoRA, as the zoo's folder says it."""
    recipe = {k: v for k, v in asdict(config).items() if k not in ("people", "validation_people")}
    # Zoos made before there was a choice say nothing of it.
    for choice in fields(config):
        if choice.name in ("start", "start_model", "stopping", "places") and recipe[choice.name] == choice.default:
            del recipe[choice.name]
    return recipe


def measured_bank(world: World, layout: Layout, config: ZooConfig, *, report: Callable[[str], None] = print) -> int:
    """How many people at once take the fewest seconds each, on the default device; see `calibrate`."""
    photos = world.photos(persons_of(Split.ZOO, 1), config.photos, config.first_photo)
    found = calibrate(
        world.pipe.unet, world.pipe.scheduler, layout, random_init(layout, config.seed), photos, config.adapt,
        sample_budget=_BUDGET[torch.get_default_device().type],
    )  # fmt: skip
    seconds = {n: time_ for (threads, n), time_ in found.seconds.items() if threads == torch.get_num_threads()}
    tried = ", ".join(f"{n}: {1e3 * time_:.1f}" for n, time_ in seconds.items())
    report(f"people at once: {found.places} (milliseconds of a LoRA's step by people at once: {tried})")
    return found.places
