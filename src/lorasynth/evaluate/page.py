"""An evaluation as one HTML page that needs no other file: tables, plots, pictures, memorisation, the model's card.

NOTE: names, cards and settings come from files that anybody may have written. All text goes through `text`, and the page
forbids scripts and anything from outside.
"""

import base64
import io
from typing import TYPE_CHECKING, Any

from lorasynth.evaluate.html import in_order, percent, table, text, titled, triple, with_interval
from lorasynth.evaluate.memorisation import GOOD_SHARE
from lorasynth.evaluate.plots import bars, ranges
from lorasynth.synthesizer import Synthesizer

if TYPE_CHECKING:
    from PIL import Image

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
        f"<h1>{text(name)}</h1>",
        f"<p>{record['people']:,} held-out people, {given} of each; base <code>{text(model.base)}</code>, "
        f"seed {record['seed']}.</p>",
        *(
            (*_likeness(model, record), *_features(model, record), *_sets(model, record))
            if drawn
            else _weights(model, record)
        ),
    ]
    if pictures is not None:
        content = io.BytesIO()
        pictures.save(content, format="PNG")
        source = base64.b64encode(content.getvalue()).decode()
        sections.append(
            "<h2>Pictures</h2><p>A column a person, the same starting noise in all rows. Prompt: "
            f"<q>{text(record['prompts'][1])}</q>.</p>"
            f'<img alt="Pictures of each method, a row a method" src="data:image/png;base64,{source}">'
        )
    sections += [*_speed(record), *_memorisation(model, record), *_facts(model, record)]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(name)}: evaluation</title><style>{_STYLE}</style></head><body>\n"
        + "\n".join(sections)
        + "\n</body></html>\n"
    )


def _likeness(model: Synthesizer, record: dict[str, Any]) -> list[str]:
    """Similarity by both recognisers with intervals, and whether prompts were obeyed."""
    names = in_order(record["methods"])
    scores = [(n, record["methods"][n]) for n in names]
    rows = [
        [titled(n), with_interval(m["similarity"]), with_interval(m["similarity2"]), _verified(m)] for n, m in scores
    ]
    plot = bars(
        [(titled(n), [triple(m["similarity"]), triple(m["similarity2"])]) for n, m in scores],
        ["similarity", "second recogniser"],
    )
    asked = sorted({what for _, m in scores for what in m.get("obeyed", {})})
    obeyed = [[titled(n), *(percent(m["obeyed"].get(a)) for a in asked)] for n, m in scores if "obeyed" in m]
    return [
        "<h2>Likeness</h2>",
        "<p>Mean cosine of what a LoRA draws with other real photos of the person, by the encoder that conditions the model and "
        "by a second recogniser that no stage has used; in brackets the 95 % bootstrap interval over people. 0 is a stranger. "
        "Verified, by each: pictures nearer to the person than 999 of 1,000 real photos of strangers are.</p>",
        table(["", "similarity", "second recogniser", "verified"], rows, names.index(model.default_prior)),
        plot,
        "<h2>Prompts obeyed</h2>",
        "<p>Part of pictures that show what the prompt asked for.</p>",
        table(["", *asked], obeyed),
    ]


_READERS = {
    "linear": "ridge regression on pixels",
    "convolutional": "a network that was trained on real photos of other people, each factor only where it is visible",
}


def _features(model: Synthesizer, record: dict[str, Any]) -> list[str]:
    """Whether the person's own, known factors are there: no recogniser has a say in it."""
    methods = record["methods"]
    names = in_order(methods)
    real = methods["real"]["factors"]["mean"]
    rows = [
        [titled(n), with_interval(m["factors"]), percent(m["factors"]["mean"] / real)]
        for n in names
        for m in [methods[n]]
    ]
    by_name = [
        [factor, *(f"{methods[n]['factors_by_name'][factor]:.2f}" for n in names)]
        for factor in sorted(methods["real"]["factors_by_name"], key=lambda f: -methods["real"]["factors_by_name"][f])
    ]
    by = _READERS[methods["real"].get("factor_reader", "linear")]
    return [
        "<h2>The person's own features</h2>",
        f"<p>The drawn world knows the factors a person was drawn from. They are read off pictures by {by}: "
        "one minus the squared error over a factor's variance, mean over factors. 0 is the mean person drawn for everybody, "
        "below 0 differs from the mean in wrong ways; real photos are the most that can be read.</p>",
        table(["", "factors explained", "of real photos'"], rows, names.index(model.default_prior)),
        f"<details><summary>Each factor</summary>{table(['', *map(titled, names)], by_name)}</details>",
        *_details(model, methods, names),
    ]


def _details(model: Synthesizer, methods: dict[str, Any], names: list[str]) -> list[str]:
    """Whether small things are there on people who have them, and not on others."""
    asked = methods["real"].get("details", {})
    if not asked:
        return []

    def cell(method: str, detail: str) -> str:
        kinds = methods[method]["details"][detail]
        return ", ".join(percent(kinds[kind]["mean"] if kind in kinds else None) for kind in ("present", "absent"))

    return [
        "<h2>Small details</h2>",
        "<p>Pictures that show a detail, of people who clearly have it; then pictures without it, of people who do not. Read by "
        "a network that was trained on real photos of other people; the row of real photos is its own error.</p>",
        table(
            ["", *asked],
            [[titled(n), *(cell(n, detail) for detail in asked)] for n in names],
            names.index(model.default_prior),
        ),
    ]


def _sets(model: Synthesizer, record: dict[str, Any]) -> list[str]:
    """Pictures as a set: distance from real ones, and difference from each other."""
    names = in_order(record["methods"])
    rows = [
        [titled(n), f"{m['frechet_similarity']:.3f}", f"{m['frechet_similarity2']:.3f}",
         f"{m['people_spread_similarity']:.2f}, {m['people_spread_similarity2']:.2f}", with_interval(m["picture_spread"])]
        for n in names for m in [record["methods"][n]]
    ]  # fmt: skip
    count = record["people"] * len(record["prompts"])
    return [
        "<h2>Pictures as a set</h2>",
        f"<p>Fréchet distance, in each recogniser's space, to {count:,} real photos of as many other people. {count:,} pictures "
        "are few for so many dimensions and the distance is too large by that: hold it against the row of real photos, which are "
        "as many. Between people: one minus the mean cosine of two people's pictures for one prompt; 0 is one for "
        "everybody. Between pictures: root mean square difference of one person's pictures, in pixels.</p>",
        table(["", "Fréchet distance", "the same, second recogniser", "between people, by each", "between pictures"],
              rows, names.index(model.default_prior)),
    ]  # fmt: skip


def _weights(model: Synthesizer, record: dict[str, Any]) -> list[str]:
    """Errors of weights, of a model of which no picture is drawn."""
    names = in_order(record["methods"])
    rows = [
        [titled(n), f"{m['relative_error']:.3f}", f"{m['explained']:.3f}"]
        for n in names
        for m in [record["methods"][n]]
    ]
    return [
        "<h2>Weights</h2>",
        "<p>How far synthesised LoRAs are from the people's own in the zoo, ΔW against ΔW. Weights are not likeness.</p>",
        table(
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
        [f"{given} to LoRA, {titled(n)}", f"{seconds[f'{given}_to_lora'][n]:.3f} s"]
        for n in in_order(seconds[f"{given}_to_lora"])
    ]
    if "picture" in seconds:
        rows.append(["one picture, many LoRAs in a batch", f"{seconds['picture']:.3f} s"])
    return ["<h2>Speed</h2>", "<p>On the machine that ran the evaluation.</p>", table(["", "median"], rows)]


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
    names, own = in_order(found["methods"]), found["own"]
    rows = [
        [
            titled(n), f"{m['distance']['p50']:.3g}", percent(m["too_near"]),
            f"{m['cosine']['p50']:.3f}", percent(m["too_aligned"]),
            f"{m['closest']['id']} at {m['closest']['distance']:.3g}", _over_nearest(record["methods"], n),
        ]
        for n in names for m in [found["methods"][n]]
    ]  # fmt: skip
    default = found["methods"][model.default_prior]
    good = max(default["too_near"], default["too_aligned"]) <= GOOD_SHARE
    verdict = f"{titled(model.default_prior)}: {'not copies' if good else 'some may be copies'}"
    parts = [
        heading,
        f"<p><strong>{text(verdict)}</strong> ({percent(default['too_near'])} too near, {percent(default['too_aligned'])} too "
        f"aligned; good is at most {percent(GOOD_SHARE)} of each).</p>",
        f"<p>Each LoRA is held against its nearest of the {found['zoo_loras']:,} training LoRAs of {text(found['zoo'])}. Too "
        "near, or too aligned, is what 99 of 100 of those LoRAs are not to their own nearest of another person "
        f"({found['sampled']:,} were looked at). Cosines are of deviations from the mean LoRA and blind to size: a copy made "
        "larger is far away and aligned. People held back are new people's own LoRAs, copies of nothing: they show what chance "
        "gives.</p>",
        table(
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
        drawn = [(titled("own"), own[key]), *((titled(n), found["methods"][n][key]) for n in names)]
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
        [titled(n), ", ".join(f"{key} {value}" for key, value in model.settings.get(n, {}).items()) or "–"]
        for n in in_order(model.priors)
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
        table(["", ""], rows),
        table(["prior", "settings"], settings),
        f"<details><summary>Its card</summary><pre>{text(model.card)}</pre></details>" if model.card else "",
    ]


def _verified(method: dict[str, Any]) -> str:
    if "verified_similarity" not in method:
        return "–"
    return f"{percent(method['verified_similarity'])}, {percent(method['verified_similarity2'])}"
