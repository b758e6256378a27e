"""Making a zoo: banks of people from a shared initialisation, by any number of processes, resumable."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from lorasynth.devices import use_device
from lorasynth.errors import LorasynthError
from lorasynth.gallery import Split
from lorasynth.lora.layout import Layout
from lorasynth.storage.outputs import make_folder
from lorasynth.subjects.source import PhotoSource
from lorasynth.workers.helpers import helpers
from lorasynth.workers.leases import FOLDER_NAME as LEASES_NAME
from lorasynth.workers.leases import Leases
from lorasynth.workers.main_guard import require_main_guard
from lorasynth.workers.sharing import require_shareable
from lorasynth.zoo.adapt import train_people
from lorasynth.zoo.calibration import measured_bank
from lorasynth.zoo.config import MEASURED, ZooConfig
from lorasynth.zoo.filling import fill
from lorasynth.zoo.initial_vectors import predictor
from lorasynth.zoo.initialisation import learn_init
from lorasynth.zoo.materials import DrawnMaterial, Material, open_photo_material
from lorasynth.zoo.store import Zoo


def build_zoo(
    config: ZooConfig,
    folder: str,
    *,
    photos: PhotoSource | None = None,
    report: Callable[[str], None] | None = print,
) -> Zoo:
    """Build a zoo, or go on with one, together with all other processes that are called to do the same, on whatever machine.

    A bank of people is a shard, stored whole. Nobody is trained twice, but for banks of processes that were killed.

    Args:
        config: what to build.
        folder: where.
        photos: whose LoRAs, on which base; of people of the settings' drawn world by default.
        report: gets a line now and then; None for a process that is not to be heard, and draws no bar.

    Returns:
        The zoo with all that was asked for.
    """
    say = report or (lambda _: None)
    material: Material = (
        DrawnMaterial(config) if photos is None else open_photo_material(photos, config, Path(folder), report=report)
    )
    make_folder(folder)
    base, layout = material.base, material.base.layout(config.rank, config.targets)
    zoo = _begin(config, folder, material, layout, say)
    config, init = replace(config, bank=zoo.recipe["bank"]), zoo.init()
    predict = predictor(config.start, config.start_model, layout)
    persons = material.persons
    banks = [persons[i : i + config.bank] for i in range(0, len(persons), config.bank)]
    # Validation people first: they are few, and everything later is chosen by them.
    order = sorted(range(len(banks)), key=lambda k: material.split(banks[k][0]) != Split.VALIDATION)
    if kept_out := zoo.forgotten_persons & set(persons):
        say(f"{len(kept_out)} people were forgotten and stay out")
    bar = tqdm(total=len(persons), desc="zoo", unit=" people", mininterval=5.0, disable=report is None)

    def show(missing: int) -> None:
        bar.update(len(persons) - missing - bar.n)

    def make(people: list[int]) -> tuple[Float[Tensor, "n P"], Float[Tensor, "n J D"]]:
        embeddings = material.embeddings(people)
        starts, shown = predict(init, embeddings), material.photos(people)
        return train_people(base, layout, starts, shown, config.adapt, bank_size=config.bank), embeddings

    with bar:
        return fill(
            zoo, {f"shard-{k:05d}": banks[k] for k in order}, make, on_look=show,
            split=lambda person: material.split(person).value, source=material.source, licence=material.licence,
        )  # fmt: skip


def build_zoo_with_workers(
    config: ZooConfig,
    folder: str,
    workers: int,
    *,
    photos: PhotoSource | None = None,
    report: Callable[[str], None] = print,
) -> Zoo:
    """`build_zoo` by ``workers`` processes of one thread each, this one among them.

    Raises:
        ZooError: the folder is not fit for several processes.
        UsageError: the running script cannot be imported by workers.
    """
    is_new = not Path(folder).exists()
    if workers > 1:
        require_main_guard()
        require_shareable(Path(folder) / LEASES_NAME)
    try:
        with helpers(workers - 1, _work, config, folder, str(torch.get_default_device()), photos) as others:
            zoo = build_zoo(config, folder, photos=photos, report=report)
    except LorasynthError:  # a mistake leaves no folder behind
        for place in (Path(folder) / LEASES_NAME, Path(folder)) if is_new else ():
            with suppress(OSError):  # it holds something
                place.rmdir()
        raise
    for process in others:
        if process.exitcode != 0:
            report(f"a worker ended with code {process.exitcode}; the others did its part")
    return zoo


def _work(config: ZooConfig, folder: str, device: str, photos: PhotoSource | None) -> None:
    torch.set_num_threads(1)
    use_device(device)
    build_zoo(config, folder, photos=photos, report=None)


def _begin(config: ZooConfig, folder: str, material: Material, layout: Layout, say: Callable[[str], None]) -> Zoo:
    """Open the zoo. One process makes it, the others wait for that."""
    path = Path(folder)
    leases = Leases(path)
    while not (path / "zoo.json").exists():
        if lease := leases.claim(["init"]):
            with lease:
                if not (path / "zoo.json").exists():
                    if config.bank == MEASURED:
                        shown = material.photos(material.persons[:1])
                        config = replace(config, bank=measured_bank(material.base, layout, shown, config, report=say))
                    init = learn_init(material.base, layout, material.pilot, config, report=say)
                    return Zoo.create(path, layout, material.recipe | {"bank": config.bank}, init)
        time.sleep(1)
    if config.bank == MEASURED:
        config = replace(config, bank=Zoo.open(path).recipe["bank"])
    return Zoo.create(path, layout, material.recipe | {"bank": config.bank}, torch.zeros(0))
