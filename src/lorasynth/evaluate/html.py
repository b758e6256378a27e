"""What pages are written with: text that is nothing but text, tables, the names of methods."""

from collections.abc import Sequence
from html import escape
from typing import Any

from lorasynth.synthesizer import Synthesizer

TITLES = {
    "real": "other real photos (ceiling)",
    "fine_tuned": "fine-tuned LoRA",
    "fine_tuned_one_photo": "fine-tuned LoRA, one photo",
    "adalora": "zero-shot, ADALoRA",
    "adanorm": "zero-shot, AdaNorm",
    "kernel": "zero-shot, kernel ridge",
    "ridge": "zero-shot, ridge",
    "regression": "zero-shot, MLP regression",
    "nearest": "nearest neighbour's LoRA",
    "mean": "the zoo's mean LoRA",
    "base": "base model, no LoRA",
    "held_back": "people held back, their own LoRAs",
    "own": "the zoo's own LoRAs",
}
"""Names of methods, in the order of tables. Others come last, by their own names."""


def text(value: object) -> str:
    """Any value as text that is nothing but text to a browser, and that UTF-8 can hold."""
    return escape(str(value).encode(errors="replace").decode())


def table(header: Sequence[str], rows: Sequence[Sequence[str]], default: int | None = None) -> str:
    """Rows of cells, which are text. The row of the default method stands out."""
    head = "".join(f"<th>{text(cell)}</th>" for cell in header)
    body = "".join(
        ('<tr class="default">' if i == default else "<tr>")
        + "".join(f"<td>{text(cell)}</td>" for cell in row)
        + "</tr>"
        for i, row in enumerate(rows)
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def in_order(names: Any) -> list[str]:
    """Names of methods in the order of tables."""
    known = list(TITLES)
    return sorted(names, key=lambda name: known.index(name) if name in known else len(known))


def titled(name: str) -> str:
    """How a method is called."""
    return TITLES.get(name, name)


def default_row(model: Synthesizer, names: list[str]) -> int | None:
    """The row of the default prior, which stands out, if it was asked for."""
    return names.index(model.default_prior) if model.default_prior in names else None


def triple(score: dict[str, float]) -> tuple[float, float, float]:
    """Mean, low, high."""
    return score["mean"], score["low"], score["high"]


def with_interval(score: dict[str, float]) -> str:
    """A mean with its interval."""
    return f"{score['mean']:.3f} ({score['low']:.3f} to {score['high']:.3f})"


def percent(part: float | None) -> str:
    """A part, or a dash for none."""
    return "–" if part is None else f"{100 * part:.0f} %"
