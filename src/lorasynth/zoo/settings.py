"""The settings of a zoo that depend on its base, as a file: `zoo pilot` finds them, `zoo build --settings` takes them."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lorasynth.errors import UsageError
from lorasynth.storage.files import write_json
from lorasynth.storage.reading import parse_json, read_text
from lorasynth.storage.schema import LINE, Misfit, number, one_of, record, rows, text, whole
from lorasynth.zoo.adapt import AdaptConfig
from lorasynth.zoo.config import ZooConfig

SETTINGS_NAME = "settings.json"
SETTINGS = {
    "steps": whole(1, 1_000_000), "learning_rate": number(1e-12, 1e6), "adam_epsilon": number(1e-30, 1e6),
    "rank": whole(1, 256), "targets": rows(text(300, r"[A-Za-z0-9_.\-]+", "the end of a module's name"), most=4_096),
}  # fmt: skip
_FILE = record({"format": one_of(1), "family": LINE, **SETTINGS})


@dataclass(frozen=True, kw_only=True)
class ZooSettings:
    """What is right for one base and wrong for another."""

    steps: int
    learning_rate: float
    adam_epsilon: float
    rank: int
    targets: tuple[str, ...] = ()  # endings of module names; (): those that are usual for the family

    @classmethod
    def of(cls, config: ZooConfig) -> "ZooSettings":
        """Those of a recipe's zoo."""
        adapt = config.adapt
        return cls(
            steps=adapt.steps, learning_rate=adapt.learning_rate, adam_epsilon=adapt.adam_epsilon, rank=config.rank,
            targets=config.targets,
        )  # fmt: skip

    def applied(self, config: ZooConfig) -> ZooConfig:
        """A zoo's configuration with these settings.

        Those of the pilot, who learn the shared lora_A, change in proportion: a recipe may train them otherwise.
        """
        return replace(
            config, rank=self.rank, targets=self.targets, adapt=self._of(config.adapt, config.adapt),
            pilot=self._of(config.pilot, config.adapt),
        )  # fmt: skip

    def _of(self, config: AdaptConfig, usual: AdaptConfig) -> AdaptConfig:
        return replace(
            config,
            steps=max(1, round(config.steps * self.steps / usual.steps)),
            learning_rate=rounded(config.learning_rate * (self.learning_rate / usual.learning_rate)),
            adam_epsilon=rounded(config.adam_epsilon * (self.adam_epsilon / usual.adam_epsilon)),
        )

    @classmethod
    def parse(cls, value: dict[str, Any]) -> "ZooSettings":
        """From JSON values of the types of `SETTINGS`."""
        return cls(**{name: value[name] for name in SETTINGS} | {"targets": tuple(value["targets"])})

    def to_dict(self) -> dict[str, Any]:
        """The inverse of `parse`."""
        return asdict(self) | {"targets": list(self.targets)}

    def write(self, path: Path, family: str) -> None:
        """Write them for the bases of a family."""
        write_json(path, {"format": 1, "family": family, **self.to_dict()})


def read_settings(path: Path, family: str) -> ZooSettings:
    """The settings of a file.

    Args:
        path: what `ZooSettings.write` wrote.
        family: of the base that they are for; "" for any.

    Raises:
        ModelError: the file cannot be read.
        UsageError: it says something else, or is for another family.
    """
    try:
        said = parse_json(read_text(path), _FILE)
    except Misfit as error:
        raise UsageError(f"{path}: {error}; give the {SETTINGS_NAME} that `zoo pilot` wrote") from None
    if family not in ("", said["family"]):
        raise UsageError(
            f"{path}: expected settings for a base of family {family!r}, got {said['family']!r}; run `zoo pilot` for this recipe"
        )
    return ZooSettings.parse(said)


def rounded(value: float) -> float:
    """To six digits, so that a third of three times a number is that number."""
    return float(f"{value:.6g}")
