"""Making a zoo: banks of people from a shared initialisation, by any number of processes, resumable."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from lorasynth.base import Photos
from lorasynth.devices import use_device
from lorasynth.gallery import Split
from lorasynth.lora.layout import Layout
from lorasynth.outputs import make_folder
from lorasynth.workers import require_main_guard
from lorasynth.worlds.subjects import Role, persons_of, split_of
from lorasynth.worlds.world import World, get_world
from lorasynth.zoo.calibration import measured_bank
from lorasynth.zoo.config import MEASURED, ZooConfig, zoo_recipe
from lorasynth.zoo.filling import fill, helpers
from lorasynth.zoo.initialisation import learn_init
from lorasynth.zoo.leases import FOLDER_NAME as LEASES_NAME
from lorasynth.zoo.leases import Leases
from lorasynth.zoo.people import train_people, train_until_done
from lorasynth.zoo.sharing import require_shareable
from lorasynth.zoo.starts import predictor
from lorasynth.zoo.store import Zoo

HELD_OUT_PHOTOS = 8
"""Photos of each person, behind those trained on, that tell when a LoRA gains no more."""


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
    layout = world.base.layout(config.rank)
    zoo = _begin(config, folder, world, layout, say)
    config, init = replace(config, bank=zoo.recipe["bank"]), zoo.init()
    predict = predictor(config.start, config.start_model, layout)
    persons = persons_of(Role.ZOO, config.people) + persons_of(Role.CHOOSING, config.validation_people)
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
        photos = world.photos(people, config.photos, config.first_photo)
        if config.stopping is None:
            vectors = train_people(world.base, layout, starts, photos, config.adapt, bank_size=config.bank)
        else:
            held_out = world.photos(people, HELD_OUT_PHOTOS, config.first_photo + config.photos)
            vectors = train_until_done(
                world.base, layout, starts, photos, held_out, config.adapt, config.stopping, places=config.places
            )
        return vectors, embeddings

    with bar:
        return fill(
            zoo, {f"shard-{k:05d}": banks[k] for k in order}, make, on_look=show,
            split=lambda person: (split_of(person) or Split.TRAIN).value,
            source=f"world {config.world}", licence="Apache-2.0",
        )  # fmt: skip


def pilot_photos(world: World, config: ZooConfig) -> Callable[[int], Photos]:
    """Photos of each of the pilot's rounds: fresh people, whom no zoo holds."""
    people = persons_of(Role.PILOT, config.pilot_people * config.pilot_rounds)
    return lambda number: world.photos(people[number * config.pilot_people :][: config.pilot_people], config.photos)


def build_zoo_with_workers(
    config: ZooConfig, folder: str, workers: int, *, report: Callable[[str], None] = print
) -> Zoo:
    """`build_zoo` by ``workers`` processes of one thread each, this one among them.

    Raises:
        ZooError: the folder is not fit for several processes.
        UsageError: the running script cannot be imported by workers.
    """
    if workers > 1:
        require_main_guard()
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
    make_folder(path)
    leases = Leases(path)
    while not (path / "zoo.json").exists():
        if lease := leases.claim(["init"]):
            with lease:
                if not (path / "zoo.json").exists():
                    if config.bank == MEASURED:
                        config = replace(config, bank=measured_bank(world, layout, config, report=say))
                    init = learn_init(world.base, layout, pilot_photos(world, config), config, report=say)
                    return Zoo.create(path, layout, zoo_recipe(config), init)
        time.sleep(1)
    if config.bank == MEASURED:
        config = replace(config, bank=Zoo.open(path).recipe["bank"])
    return Zoo.create(path, layout, zoo_recipe(config), torch.zeros(0))
