"""Options of the verbs that train LoRAs of many people at once: build and pilot."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from lorasynth.zoo.config import ZooConfig


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """How the LoRAs are trained, instead of the recipe's settings. Each field is an option of its name."""

    settings: Annotated[
        Path | None,
        typer.Option(
            help="The settings.json of a `zoo pilot`, instead of the recipe's; options given here come first."
        ),
    ] = None
    rank: Annotated[int | None, typer.Option(min=1, max=256, help="Of the LoRAs, instead of the recipe's.")] = None
    steps: Annotated[int | None, typer.Option(min=1, help="Of each LoRA's training, instead of the recipe's.")] = None
    learning_rate: Annotated[
        float | None, typer.Option(min=0.0, help="Of each LoRA's training and the pilot's, instead of the recipe's.")
    ] = None
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, max=4_096, help="Photos of a person in each step, instead of the recipe's number."),
    ] = None
    bank: Annotated[
        str | None,
        typer.Option(
            help="People trained at once, instead of the recipe's number; auto: what is fastest here, measured once, when the "
            "zoo is begun. Another number makes LoRAs that differ in their last digits."
        ),
    ] = None

    def applied(self, config: "ZooConfig", family: str) -> "ZooConfig":
        """A recipe's zoo with what was given.

        Args:
            config: the recipe's.
            family: of the recipe's bases, which a file of settings has to be for; "" for any.

        Raises:
            UsageError: the file or the bank cannot be used.
            ModelError: the file cannot be read.
        """
        from lorasynth.zoo.settings import read_settings

        if self.settings is not None:
            config = read_settings(self.settings, family).applied(config)
        rate, batch = self.learning_rate, self.batch_size
        adapt, pilot = config.adapt, config.pilot
        return replace(
            config, rank=self.rank or config.rank, bank=config.bank if self.bank is None else bank_size(self.bank),
            adapt=replace(
                adapt, steps=self.steps or adapt.steps, learning_rate=rate or adapt.learning_rate,
                batch_size=batch or adapt.batch_size,
            ),
            pilot=replace(
                pilot, learning_rate=rate or pilot.learning_rate, batch_size=batch or pilot.batch_size
            ),
        )  # fmt: skip


def bank_size(text: str) -> int:
    """The number of people at once, or `MEASURED` for auto.

    Raises:
        UsageError: it is neither.
    """
    from lorasynth.errors import UsageError
    from lorasynth.zoo.config import MEASURED

    if text == "auto":
        return MEASURED
    if not text.isdecimal() or not 1 <= int(text) <= 100_000:
        raise UsageError(f"expected --bank auto or a number from 1 to 100000, got {text!r}")
    return int(text)
