"""What a pilot keeps: its file, by which it goes on, and the table that people read."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lorasynth.errors import UsageError
from lorasynth.storage.reading import parse_json, read_text
from lorasynth.storage.schema import ANYTHING, LINE, Misfit, Type, number, one_of, record, rows, table, whole
from lorasynth.storage.settings import config_difference
from lorasynth.zoo.settings import SETTINGS

PILOT_NAME = "pilot.json"
_FIGURE = number(-1e12, 1e12)
_ALWAYS = {"settings": record(SETTINGS), "modules": LINE, "parameters": whole(1, 1 << 40)}
_LEARNED = record({
    **_ALWAYS, "values": rows(_FIGURE, most=1_000), "similarity": record(dict.fromkeys(("mean", "low", "high"), _FIGURE)),
    **dict.fromkeys(("gain", "agreement", "agreement_centred", "norm", "seconds"), _FIGURE), "groups": table(LINE, _FIGURE),
})  # fmt: skip
_DIVERGED = record({**_ALWAYS, "values": one_of(None)})


def _candidate(value: Any, place: str) -> Any:
    diverged = isinstance(value, dict) and value.get("values", 0) is None
    return (_DIVERGED if diverged else _LEARNED)(value, place)


_FILE: Type = record(
    {"format": one_of(1), "of": ANYTHING, "base_similarity": _FIGURE, "candidates": rows(_candidate, most=1_000)},
    rest=ANYTHING,
)


def read_candidates(folder: Path, of: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The candidates of a folder's pilot, if there is one.

    Args:
        folder: of the pilot.
        of: what all of its candidates have to have in common with those that will be added: zoo, base, photographs, encoder.

    Raises:
        UsageError: it is another pilot's, or its file is damaged.
        ModelError: it cannot be read.
    """
    path = folder / PILOT_NAME
    if not path.exists():
        return []
    try:
        said = parse_json(read_text(path), _FILE)
    except Misfit as error:
        raise UsageError(f"{path}: {error}; give another --out, or remove the file") from None
    if wrong := config_difference(said["of"], of):
        raise UsageError(f"{path}: expected a pilot of the same settings, got another ({wrong[0]}); give another --out")
    candidates: list[dict[str, Any]] = said["candidates"]
    return candidates


def format_settings(candidate: Mapping[str, Any]) -> str:
    """A candidate's settings."""
    settings = candidate["settings"]
    return (
        f"learning rate {settings['learning_rate']:g}, epsilon {settings['adam_epsilon']:g}, {settings['steps']} steps, rank "
        f"{settings['rank']}, modules {candidate['modules']}"
    )


HEAD = ("learning rate", "epsilon", "steps", "rank", "modules", "similarity", "gain", "agreement", "value", "‖ΔW‖", "s")


def as_table(candidates: Sequence[Mapping[str, Any]], chosen: Mapping[str, Any]) -> list[str]:
    """A line of heads, and one for each candidate, with a star at the one that was chosen."""
    lines = [HEAD, *map(_cells, candidates)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEAD))]
    marks = [" ", *("*" if candidate["settings"] == chosen["settings"] else " " for candidate in candidates)]
    return [
        f"{mark} " + "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for mark, line in zip(marks, lines, strict=True)
    ]


def _cells(candidate: Mapping[str, Any]) -> tuple[str, ...]:
    settings = candidate["settings"]
    said = (
        f"{settings['learning_rate']:g}", f"{settings['adam_epsilon']:g}", f"{settings['steps']}", f"{settings['rank']}",
        candidate["modules"],
    )  # fmt: skip
    if candidate["values"] is None:
        return (*said, "diverged", *"-----")
    value = sum(candidate["values"]) / len(candidate["values"])
    figures = (candidate["similarity"]["mean"], candidate["gain"], candidate["agreement_centred"], value)
    return (*said, *(f"{figure:.3f}" for figure in figures), f"{candidate['norm']:.3g}", f"{candidate['seconds']:.2f}")
