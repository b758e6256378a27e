"""What decides each LoRA of a zoo that is made here."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from lorasynth.storage.settings import Settings, config_record
from lorasynth.worlds.subjects import SESSION
from lorasynth.zoo.adapt import AdaptConfig
from lorasynth.zoo.initial_vectors import MEAN
from lorasynth.zoo.preservation import Preservation

MEASURED = 0
"""Instead of a bank's size: to be measured, once, by who begins the zoo. The zoo's recipe then says the number."""


PILOT_ALONE = 0
"""Instead of how many people get a LoRA: the pilot's get the only ones, and of them a quarter chooses."""


@dataclass(frozen=True, kw_only=True)
class ZooConfig:
    """A zoo of a world."""

    world: str = "portraits"
    people: int = 2_000  # PILOT_ALONE: none but the pilot's
    validation_people: int = 128
    photos: int = 16
    # NOTE: the same settings (pose, light, background, clothes) for everybody. What a LoRA keeps of its very photos is then
    # common to all of the zoo and falls into its mean; with photos of their own it is much of what tells two LoRAs apart.
    first_photo: int = SESSION
    rank: int = 4
    targets: tuple[str, ...] = ()  # endings of the names of the modules that are adapted; (): those usual for the base
    embedding_photos: int = 12
    bank: int = 16  # people trained at once; MEASURED: what is fastest where the zoo is begun
    pilot_people: int = 48
    pilot_rounds: int = 2
    pilot_in_banks: bool = False  # no more than `bank` of its people in one pass, for a base that fills memory
    pilot: AdaptConfig = field(default_factory=lambda: AdaptConfig(steps=60, learning_rate=4e-2, lora_A="shared"))
    adapt: AdaptConfig = field(default_factory=lambda: AdaptConfig(strength=1.4))
    seed: int = 0
    start: str = MEAN  # where each LoRA starts: "zero", "mean", or what this prior of a synthesizer predicts
    start_model: str = ""  # the synthesizer's folder; if empty, the one that is shipped for a drawn world's base
    preservation: Preservation | None = None  # of what the base draws of others of the class; of photographs alone


_CHOICES = ("targets", "pilot_in_banks", "start", "start_model", "preservation")


def zoo_recipe(config: ZooConfig) -> Settings:
    """The settings as the zoo's folder says them: all but how many people, which may grow, but for a pilot's alone."""
    recipe = {k: v for k, v in asdict(config).items() if k not in ("people", "validation_people")}
    # Zoos made before there was a choice say nothing of it.
    for choice in fields(config):
        if choice.name in _CHOICES and recipe[choice.name] == choice.default:
            del recipe[choice.name]
    if config.people == PILOT_ALONE:
        recipe["people"] = PILOT_ALONE
    if config.targets:
        recipe["targets"] = list(config.targets)
    return Settings(recipe, config_record(config).defaults)


def is_pilot_alone(recipe: Mapping[str, Any]) -> bool:
    """Whether a zoo, by what its folder says, holds the LoRAs of its pilot's people and no others."""
    return recipe.get("people") == PILOT_ALONE
