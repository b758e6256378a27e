"""An evaluation as one HTML page that needs no other file: tables, plots, pictures, memorisation, the model's card.

NOTE: names, cards and settings come from files that anybody may have written. All text goes through `text`, and the page
forbids scripts and anything from outside.
"""

import base64
import io
from collections.abc import Mapping
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from lorasynth.evaluate.copies import copies
from lorasynth.evaluate.grid import sheet
from lorasynth.evaluate.html import default_row, in_order, percent, table, text, titled, triple, with_interval
from lorasynth.evaluate.methods import FINE_TUNED, FINE_TUNED_ONE_PHOTO, GIVEN, REAL
from lorasynth.evaluate.plots import bars
from lorasynth.evaluate.prompt_classifier import PROMPT
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


def methods_sheet(pictures: "Mapping[str, Float[Tensor, 'N K 3 H W']]", default_prior: str) -> "Image.Image":
    """A column a person: the photo that is given, pictures of the zero-shot and of fine-tuned LoRAs, a real photo, all others.

    Args:
        pictures: of `methods.evaluate`. Of several prompts' the second is shown.
        default_prior: whose LoRA comes first.
    """
    first = (GIVEN, default_prior, FINE_TUNED_ONE_PHOTO, FINE_TUNED, REAL)
    names = [*(name for name in first if name in pictures), *(n for n in in_order(pictures) if n not in first)]
    rows = [pictures[name][:, min(1, pictures[name].shape[1] - 1)] for name in names]
    titles = ["the photo" if name == GIVEN else titled(name) for name in names]
    return sheet(rows, ["\n".join(wrap(title, 15)) for title in titles], zoom=max(1, 192 // rows[0].shape[-1]))


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
    photos = record.get("photos", 1)
    given = "one embedding" if not drawn else "one photo" if photos == 1 else f"{photos} photos"
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
            f"<q>{text(record['prompts'][min(1, len(record['prompts']) - 1)])}</q>.</p>"
            f'<img alt="Pictures of each method, a row a method" src="data:image/png;base64,{source}">'
        )
    sections += [*_speed(record), *copies(model, record), *_facts(model, record)]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(name)}: evaluation</title><style>{_STYLE}</style></head><body>\n"
        + "\n".join(sections)
        + "\n</body></html>\n"
    )


_SCORES = {"similarity": "similarity", "similarity2": "second recogniser"}
"""What the page calls the scores that there may be."""


def _scores(record: dict[str, Any]) -> list[str]:
    """The scores of this evaluation: there may be no second recogniser."""
    return [score for score in _SCORES if score in record["methods"]["real"]]


def _likeness(model: Synthesizer, record: dict[str, Any]) -> list[str]:
    """Similarity by the recognisers with intervals, and whether prompts were obeyed."""
    names, kinds = in_order(record["methods"]), _scores(record)
    scores = [(n, record["methods"][n]) for n in names]
    rows = [[titled(n), *(with_interval(m[kind]) for kind in kinds), _verified(m)] for n, m in scores]
    heads = [_SCORES[kind] for kind in kinds]
    plot = bars([(titled(n), [triple(m[kind]) for kind in kinds]) for n, m in scores], heads)
    second = " and by a second recogniser that no stage has used" if len(kinds) > 1 else ""
    sections = [
        "<h2>Likeness</h2>",
        "<p>Mean cosine of what a LoRA draws with other real photos of the person, by the encoder that conditions the model"
        f"{second}; in brackets the 95 % bootstrap interval over people. 0 is a stranger. "
        "Verified, by each: pictures nearer to the person than 999 of 1,000 real photos of strangers are.</p>",
        table(["", *heads, "verified"], rows, default_row(model, names)),
        plot,
    ]
    others = [*(f"retrieval_{kind}" for kind in kinds), *(f"copy_paste_{kind}" for kind in kinds)]
    beside = [[titled(n), *(with_interval(m[score]) if score in m else "–" for score in others)] for n, m in scores]
    by = ["", ", second recogniser"][: len(kinds)]
    heads = [f"{what}{whose}" for what in ("retrieval (mAP)", "copy-paste") for whose in by]
    sections += [
        "<h2>Retrieval and copy-paste</h2>",
        "<p>Retrieval: a picture looks for its person among other real photos of all these people. 1 finds the person's first. "
        "Copy-paste: how much nearer a picture is to the given photo than to other photos of the person. 1 is the given photo "
        "again, real photos have about 0. It says something of people who are recognised.</p>",
        table(["", *heads], beside, default_row(model, names)),
    ]
    if "clip" in record:
        aligned = [[titled(n), with_interval(m["text_alignment"])] for n, m in scores if "text_alignment" in m]
        sections += [
            "<h2>Text alignment</h2>",
            f"<p>Mean cosine of a picture and its prompt, by CLIP ({text(record['clip'])}). A LoRA that draws one photo whatever "
            "is asked has less than the base alone.</p>",
            table(["", "text alignment"], aligned),
        ]
    asked = sorted({what for _, m in scores for what in m.get("obeyed", {})})
    if asked:
        obeyed = [[titled(n), *(percent(m["obeyed"].get(a)) for a in asked)] for n, m in scores if "obeyed" in m]
        sections += [
            "<h2>Prompts obeyed</h2>",
            f"<p>Part of pictures that show what the prompt asked for{_BY_THE_BASE if PROMPT in asked else ''}.</p>",
            table(["", *asked], obeyed),
        ]
    return sections


_BY_THE_BASE = (
    ", by a diffusion classifier: the base without a LoRA denoises each picture under its own prompt and under up to three "
    "others, and its own has to have the least loss (by chance one in four). Good is what the base alone has"
)
_READERS = {
    "linear": "ridge regression on pixels",
    "convolutional": "a network that was trained on real photos of other people, each factor only where it is visible",
}


def _features(model: Synthesizer, record: dict[str, Any]) -> list[str]:
    """Whether the person's own, known factors are there: no recogniser has a say in it."""
    methods = record["methods"]
    if "factors" not in methods["real"]:
        return []  # nobody knows those of photographs
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
        table(["", "factors explained", "of real photos'"], rows, default_row(model, names)),
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
            default_row(model, names),
        ),
    ]


def _sets(model: Synthesizer, record: dict[str, Any]) -> list[str]:
    """Pictures as a set: distance from real ones, and difference from each other."""
    names, kinds = in_order(record["methods"]), _scores(record)
    rows = [
        [titled(n), *(f"{m[f'frechet_{kind}']:.3f}" for kind in kinds),
         ", ".join(f"{m[f'people_spread_{kind}']:.2f}" for kind in kinds), with_interval(m["picture_spread"])]
        for n in names for m in [record["methods"][n]]
    ]  # fmt: skip
    count = record["people"] * len(record["prompts"])
    distances = ["Fréchet distance", "the same, second recogniser"][: len(kinds)]
    return [
        "<h2>Pictures as a set</h2>",
        f"<p>Fréchet distance, in each recogniser's space, to {count:,} real photos of as many other people. {count:,} pictures "
        "are few for so many dimensions and the distance is too large by that: hold it against the row of real photos, which are "
        "as many. Between people: one minus the mean cosine of two people's pictures for one prompt; 0 is one for "
        "everybody. Between pictures: root mean square difference of one person's pictures, in pixels.</p>",
        table(["", *distances, "between people, by each", "between pictures"], rows, default_row(model, names)),
    ]


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
            default_row(model, names),
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
    return ", ".join(percent(method[f"verified_{kind}"]) for kind in _SCORES if f"verified_{kind}" in method)
