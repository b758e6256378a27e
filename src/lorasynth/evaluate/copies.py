"""The section of an evaluation's page that says whether LoRAs are copies of the zoo's."""

from typing import Any

from lorasynth.evaluate.html import default_row, in_order, percent, table, text, titled
from lorasynth.evaluate.memorisation import GOOD_SHARE
from lorasynth.evaluate.plots import ranges
from lorasynth.synthesizer import Synthesizer


def copies(model: Synthesizer, record: dict[str, Any]) -> list[str]:
    """Whether LoRAs are copies of the zoo's."""
    heading = "<h2>Memorisation</h2>"
    if "memorisation" not in record:
        return [
            heading,
            "<p>Not measured: give the zoo that the model learned from, "
            "<code>lorasynth evaluate MODEL --trained-on ZOO</code>.</p>",
        ]
    found = record["memorisation"]
    names, own = in_order(found["methods"]), found["own"]
    rows = [
        [
            titled(n), f"{m['distance']['p50']:.3g}", percent(m["too_near"]),
            f"{m['cosine']['p50']:.3f}", percent(m["too_aligned"]),
            f"{m['closest']['id']} at {m['closest']['distance']:.3g}", _over_nearest(record["methods"], n),
        ]
        for n in names for m in [found["methods"][n]]
    ]  # fmt: skip
    parts = [
        heading,
        *_verdict(model, found["methods"]),
        f"<p>Each LoRA is held against its nearest of the {found['zoo_loras']:,} training LoRAs of {text(found['zoo'])}. Too "
        "near, or too aligned, is what 99 of 100 of those LoRAs are not to their own nearest of another person "
        f"({found['sampled']:,} were looked at). Cosines are of deviations from the mean LoRA and blind to size: a copy made "
        "larger is far away and aligned. People held back are new people's own LoRAs, copies of nothing: they show what chance "
        "gives.</p>",
        table(
            ["", "median distance", "too near", "median cosine", "too aligned", "closest to", "better than retrieval"],
            rows,
            default_row(model, names),
        ),
    ]
    plots = [
        ("distance", "Distance to the nearest LoRA, ‖ΔW − ΔW′‖", own["distance"]["p01"], "too near: left of this"),
        ("cosine", "Largest cosine with a LoRA", own["cosine"]["p99"], "too aligned: right of this"),
    ]
    for key, title, mark, label in plots:
        drawn = [(titled("own"), own[key]), *((titled(n), found["methods"][n][key]) for n in names)]
        parts.append(f"<h3>{title}</h3>{ranges(drawn, mark, label)}")
    return parts


def _verdict(model: Synthesizer, methods: dict[str, Any]) -> list[str]:
    """What is to be said of the default prior, if it was asked for."""
    if (default := methods.get(model.default_prior)) is None:
        return []
    good = max(default["too_near"], default["too_aligned"]) <= GOOD_SHARE
    verdict = f"{titled(model.default_prior)}: {'not copies' if good else 'some may be copies'}"
    return [
        f"<p><strong>{text(verdict)}</strong> ({percent(default['too_near'])} too near, {percent(default['too_aligned'])} too "
        f"aligned; good is at most {percent(GOOD_SHARE)} of each).</p>"
    ]


def _over_nearest(methods: dict[str, Any], name: str) -> str:
    """Whether a method beats the nearest neighbour's LoRA: in similarity, person by person, or by the weights explained."""
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
