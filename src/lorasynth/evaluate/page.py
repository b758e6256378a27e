"""An evaluation as one HTML page that needs no other file: tables, plots, pictures, memorisation, the model's card.

NOTE: names, cards and settings come from files that anybody may have written. All text goes through `_text`, and the page
forbids scripts and anything from outside.
"""

import base64
import io
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from lorasynth.evaluate.memorisation import GOOD_SHARE
from lorasynth.evaluate.plots import bars, ranges
from lorasynth.synthesizer import Synthesizer

if TYPE_CHECKING:
    from PIL import Image

TITLES = {
    "real": "other real photos (ceiling)",
    "fine_tuned": "fine-tuned LoRA",
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
"""How methods are called, in the order of tables; others come last, by their own names."""
_STYLE = """
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0; font-size: .9rem; display: block; overflow-x: auto }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #8884; text-align: left; vertical-align: top }
td + td { font-variant-numeric: tabular-nums }
tr.default { font-weight: bold }
svg { width: 100%; font: 13px system-ui, sans-serif; fill: currentColor }
img { max-width: 100%; background: white }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .85rem; background: #8881; padding: 1rem }
"""


def page(model: Synthesizer, name: str, record: dict[str, Any], pictures: "Image.Image | None" = None) -> str:
    """The page of an evaluation.

    Args:
        model: what was evaluated.
        name: what to call it.
        record: of `methods.evaluate` or `weights.evaluate_weights`, with "versions" and "seed".
        pictures: the sheet of all methods, where there is one.

    Returns:
        HTML, whole: pictures and plots are in it.
    """
    drawn = "prompts" in record
    given = "one photo" if drawn else "one embedding"
    sections = [
        f"<h1>{_text(name)}</h1>",
        f"<p>{record['people']:,} held-out people, {given} of each; base <code>{_text(model.base)}</code>, "
        f"seed {record['seed']}.</p>",
        *(_likeness(model, record) if drawn else _weights(model, record)),
    ]
    if pictures is not None:
        content = io.BytesIO()
        pictures.save(content, format="PNG")
        source = base64.b64encode(content.getvalue()).decode()
        sections.append(
            "<h2>Pictures</h2><p>A column a person, the same starting noise in all rows. Prompt: "
            f"<q>{_text(record['prompts'][1])}</q>.</p>"
            f'<img alt="Pictures of each method, a row a method" src="data:image/png;base64,{source}">'
        )
    sections += [*_speed(record), *_memorisation(model, record), *_facts(model, record)]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(name)}: evaluation</title><style>{_STYLE}</style></head><body>\n"
        + "\n".join(sections)
        + "\n</body></html>\n"
    )


def _likeness(model: Synthesizer, record: dict[str, Any]) -> list[str]:
    """Similarity by both recognisers with intervals, and whether prompts were obeyed."""
    names = _ordered(record["methods"])
    scores = [(n, record["methods"][n]) for n in names]
    rows = [[_title(n), _interval(m["similarity"]), _interval(m["similarity2"]), _verified(m)] for n, m in scores]
    plot = bars(
        [(_title(n), [_triple(m["similarity"]), _triple(m["similarity2"])]) for n, m in scores],
        ["similarity", "second recogniser"],
    )
    asked = sorted({what for _, m in scores for what in m.get("obeyed", {})})
    obeyed = [[_title(n), *(_percent(m["obeyed"].get(a)) for a in asked)] for n, m in scores if "obeyed" in m]
    return [
        "<h2>Likeness</h2>",
        "<p>Mean cosine of what a LoRA draws with other real photos of the person, by the encoder that conditions the model and "
        "by a second recogniser that no stage has used; in brackets the 95 % bootstrap interval over people. 0 is a stranger. "
        "Verified, by each: pictures nearer to the person than 999 of 1,000 pairs of different people are to each other.</p>",
        _table(["", "similarity", "second recogniser", "verified"], rows, names.index(model.default_prior)),
        plot,
        "<h2>Prompts obeyed</h2>",
        "<p>Part of pictures that show what the prompt asked for.</p>",
        _table(["", *asked], obeyed),
    ]


def _weights(model: Synthesizer, record: dict[str, Any]) -> list[str]:
    """Errors of weights, of a model of which no picture is drawn."""
    names = _ordered(record["methods"])
    rows = [
        [_title(n), f"{m['relative_error']:.3f}", f"{m['explained']:.3f}"]
        for n in names
        for m in [record["methods"][n]]
    ]
    return [
        "<h2>Weights</h2>",
        "<p>How far synthesised LoRAs are from the people's own in the zoo, ΔW against ΔW. Weights are not likeness.</p>",
        _table(
            ["", "relative squared error (0 is exact)", "explained of the deviation from the mean (1 is exact)"],
            rows,
            names.index(model.default_prior),
        ),
    ]


def _speed(record: dict[str, Any]) -> list[str]:
    """Seconds."""
    seconds = record["seconds"]
    given = "photo" if "photo_to_lora" in seconds else "embedding"
    rows = [
        [f"{given} to LoRA, {_title(n)}", f"{seconds[f'{given}_to_lora'][n]:.3f} s"]
        for n in _ordered(seconds[f"{given}_to_lora"])
    ]
    if "picture" in seconds:
        rows.append(["one picture, many LoRAs in a batch", f"{seconds['picture']:.3f} s"])
    return ["<h2>Speed</h2>", "<p>On the machine that ran the evaluation.</p>", _table(["", "median"], rows)]


def _memorisation(model: Synthesizer, record: dict[str, Any]) -> list[str]:
    """Whether LoRAs are copies of the zoo's."""
    heading = "<h2>Memorisation</h2>"
    if "memorisation" not in record:
        return [
            heading,
            "<p>Not measured: give the zoo that the model learned from, "
            "<code>lorasynth evaluate MODEL --trained-on ZOO</code>.</p>",
        ]
    found = record["memorisation"]
    names, own = _ordered(found["methods"]), found["own"]
    rows = [
        [
            _title(n), f"{m['distance']['p50']:.3g}", _percent(m["too_near"]),
            f"{m['cosine']['p50']:.3f}", _percent(m["too_aligned"]),
            f"{m['closest']['id']} at {m['closest']['distance']:.3g}", _over_nearest(record["methods"], n),
        ]
        for n in names for m in [found["methods"][n]]
    ]  # fmt: skip
    default = found["methods"][model.default_prior]
    good = max(default["too_near"], default["too_aligned"]) <= GOOD_SHARE
    verdict = f"{_title(model.default_prior)}: {'not copies' if good else 'some may be copies'}"
    parts = [
        heading,
        f"<p><strong>{_text(verdict)}</strong> ({_percent(default['too_near'])} too near, {_percent(default['too_aligned'])} too "
        f"aligned; good is at most {_percent(GOOD_SHARE)} of each).</p>",
        f"<p>Each LoRA is held against its nearest of the {found['zoo_loras']:,} training LoRAs of {_text(found['zoo'])}. Too "
        "near, or too aligned, is what 99 of 100 of those LoRAs are not to their own nearest of another person "
        f"({found['sampled']:,} were looked at). Cosines are of deviations from the mean LoRA and blind to size: a copy made "
        "larger is far away and aligned. People held back are new people's own LoRAs, copies of nothing: they show what chance "
        "gives.</p>",
        _table(
            ["", "median distance", "too near", "median cosine", "too aligned", "closest to", "better than retrieval"],
            rows,
            names.index(model.default_prior),
        ),
    ]
    plots = [
        ("distance", "Distance to the nearest LoRA, ‖ΔW − ΔW′‖", own["distance"]["p01"], "too near: left of this"),
        ("cosine", "Largest cosine with a LoRA", own["cosine"]["p99"], "too aligned: right of this"),
    ]
    for key, title, mark, label in plots:
        drawn = [(_title("own"), own[key]), *((_title(n), found["methods"][n][key]) for n in names)]
        parts.append(f"<h3>{title}</h3>{ranges(drawn, mark, label)}")
    return parts


def _over_nearest(methods: dict[str, Any], name: str) -> str:
    """Whether a method beats the nearest neighbour's LoRA: in similarity, person by person; else by the weights explained."""
    if name not in methods or name == "nearest":
        return "–"
    if "nearest" not in methods:
        return "not known: no prior 'nearest'"
    if "explained" in methods[name]:
        more = methods[name]["explained"] - methods["nearest"]["explained"]
        return f"{'yes' if more > 0 else 'no'}, explained {more:+.3f}"
    more = methods[name]["over_nearest"]
    answer = "yes" if more["low"] > 0 else "no" if more["high"] < 0 else "not certain"
    return f"{answer}, similarity {more['mean']:+.3f} ({more['low']:+.3f} to {more['high']:+.3f})"


def _facts(model: Synthesizer, record: dict[str, Any]) -> list[str]:
    """What the model is, and its card."""
    layout = model.canonicalizer.layout
    settings = [
        [_title(n), ", ".join(f"{key} {value}" for key, value in model.settings.get(n, {}).items()) or "–"]
        for n in _ordered(model.priors)
    ]
    rows = [
        ["base", model.base],
        ["LoRA", f"{len(layout.modules)} modules, rank {', '.join(map(str, sorted({m.rank for m in layout.modules})))}, "
         f"{layout.num_parameters:,} numbers, layout {layout.hash}"],
        ["latent", f"{model.vae.latent_dim} numbers"],
        ["default prior", model.default_prior],
        ["ran with", ", ".join(f"{package} {version}" for package, version in record["versions"].items())],
    ]  # fmt: skip
    return [
        "<h2>The model</h2>",
        _table(["", ""], rows),
        _table(["prior", "settings"], settings),
        f"<details><summary>Its card</summary><pre>{_text(model.card)}</pre></details>" if model.card else "",
    ]


def _text(value: object) -> str:
    """Any value as text that is nothing but text to a browser, and that UTF-8 can hold."""
    return escape(str(value).encode(errors="replace").decode())


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], default: int | None = None) -> str:
    head = "".join(f"<th>{_text(cell)}</th>" for cell in header)
    body = "".join(
        ('<tr class="default">' if i == default else "<tr>")
        + "".join(f"<td>{_text(cell)}</td>" for cell in row)
        + "</tr>"
        for i, row in enumerate(rows)
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _ordered(names: Any) -> list[str]:
    known = list(TITLES)
    return sorted(names, key=lambda name: known.index(name) if name in known else len(known))


def _title(name: str) -> str:
    return TITLES.get(name, name)


def _triple(score: dict[str, float]) -> tuple[float, float, float]:
    return score["mean"], score["low"], score["high"]


def _interval(score: dict[str, float]) -> str:
    return f"{score['mean']:.3f} ({score['low']:.3f} to {score['high']:.3f})"


def _percent(part: float | None) -> str:
    return "–" if part is None else f"{100 * part:.0f} %"


def _verified(method: dict[str, Any]) -> str:
    if "verified_similarity" not in method:
        return "–"
    return f"{_percent(method['verified_similarity'])}, {_percent(method['verified_similarity2'])}"
