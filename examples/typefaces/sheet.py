r"""Three letters of a face that nothing has learned from, and the alphabets that are drawn from them: a sheet, and scores.

    python examples/typefaces/sheet.py --data out/typefaces --models out/models --model out/fit/synthesizer \
        --zoo out/zoo --out out/alphabets

Writes ``sheet.png``, of ten faces of ten held-out families, and ``scores.json``, of some faces of every held-out family. LoRAs
and pictures are kept in the folder: the same command goes on. Without ``--model`` it fine-tunes and draws what a synthesizer is
held against, which may be done while one is trained.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from alphabets import GIVEN, THIRTY, Alphabets, Drawing, draw_alphabets, require_same, scaled, synthesised, yardsticks
from faces import Face, Survey
from folder import SURVEY, rng_of
from glyph_scores import Embed, score
from lorasynth.encoders.arcface import ArcFaceEncoder
from lorasynth.errors import LorasynthError
from lorasynth.evaluate.grid import sheet
from lorasynth.evaluate.identity import interval
from lorasynth.evaluate.memorisation import Memorisation
from lorasynth.opening import open_base
from lorasynth.storage.files import write_json, write_png
from lorasynth.synthesizer import Synthesizer
from lorasynth.zoo.store import Zoo
from models import letters_of, open_reader

_ON_SHEET = 10
_SHOWN = "HamburgefonstivQRXK"


def faces_to_score(held_out: Sequence[Face], a_family: int) -> list[Face]:
    """Some faces of every held-out family, chosen by a hash of their names; those on the sheet are the first of ten families."""
    ordered = sorted(held_out, key=lambda face: rng_of("sheet", face.name).random())
    families = sorted({face.family for face in held_out})
    by_family = [[face for face in ordered if face.family == family][:a_family] for family in families]
    return [faces[i] for i in range(a_family) for faces in by_family if i < len(faces)]


def record_of(
    alphabets: dict[str, Alphabets],
    true: Float[Tensor, "N K 3 S S"],
    letters: str,
    recognisers: dict[str, Embed],
    models: Path,
) -> dict[str, Any]:
    """Scores of every method with intervals over faces, on letters that were not given; and against two yardsticks."""
    unseen = [i for i, letter in enumerate(letters) if letter not in GIVEN]
    asked = "".join(letters[i] for i in unseen)
    reader = open_reader(models / "reader.safetensors")
    scores = {
        name: score(drawn.pictures[:, unseen], true[:, unseen], asked, recognisers, reader)
        for name, drawn in alphabets.items()
    }
    scores["real"] = score(true[:, unseen], true[:, unseen], asked, recognisers, reader, own=True)
    record = {name: {key: interval(value) for key, value in row.items()} for name, row in scores.items()}
    compared = {
        other: {
            name: {key: interval(row[key] - scores[other][key]) for key in (*recognisers, "legible", "ssim")}
            for name, row in scores.items()
            if name != other
        }
        for other in ("nearest", "ridge", "fine_tuned_three", "fine_tuned_thirty")
        if other in scores
    }
    return {"methods": record, "over": compared}


def draw_sheet(
    alphabets: dict[str, Alphabets], true: Float[Tensor, "N K 3 S S"], letters: str, prior: str
) -> Image.Image:
    """For each of ten faces: the three letters given, and a line of letters by each method."""
    shown = [letters.index(letter) for letter in _SHOWN if letter in letters]
    given = [letters.index(letter) for letter in GIVEN]
    lines = [("three letters", true, given), ("synthesised", alphabets[prior].pictures, shown)]
    for name in ("fine_tuned_three", "fine_tuned_thirty"):
        lines.append((name.replace("_", " ", 1).replace("_", "\non "), alphabets[name].pictures, shown))
    lines.append(("true", true, shown))
    rows = [(title, pictures[i][places]) for i in range(min(_ON_SHEET, len(true))) for title, pictures, places in lines]
    return sheet([pictures for _, pictures in rows], [title for title, _ in rows], zoom=1)


def main(arguments: Sequence[str] | None = None, how: Drawing | None = None) -> int:
    """The sheet and the scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="what folder.py wrote")
    parser.add_argument("--models", type=Path, required=True, help="what models.py wrote")
    parser.add_argument("--model", type=Path, help="the synthesizer's folder")
    parser.add_argument("--zoo", type=Path, required=True, help="that the synthesizer learned from")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--priors", nargs="+", help="of the synthesizer; all by default")
    parser.add_argument("--scale", type=float, help="draw the default prior's LoRAs at this scale, too")
    parser.add_argument("--faces", type=int, default=1, help="of each held-out family, at most")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    how = how or Drawing()
    try:
        faces = faces_to_score(Survey.load(given.data / SURVEY).held_out, given.faces)
        base, zoo = open_base(str(given.models / "base")), Zoo.open(given.zoo)
        said = {"faces": [face.name for face in faces], "given": GIVEN, "thirty": THIRTY, "drawing": asdict(how)}
        require_same(given.out, said | {"layout": zoo.layout.hash})
        alphabets = draw_alphabets(base, zoo.layout, yardsticks(base, zoo.layout, faces, how), how, given.out)
        if given.model is None:
            print(given.out)
            return 0
        model = Synthesizer.from_pretrained(given.model)
        encoder, second = (ArcFaceEncoder(given.models / f"{name}.onnx") for name in ("encoder", "second"))
        methods = synthesised(model, encoder.embed_crops, faces, how, given.priors)
        if given.scale is not None:
            methods |= scaled(model, encoder.embed_crops, faces, how, given.scale)
        alphabets = draw_alphabets(base, zoo.layout, methods, how, given.out) | alphabets
        true = torch.stack([letters_of(face, how.letters) for face in faces])
        recognisers: dict[str, Embed] = {"similarity": encoder.embed_crops, "similarity2": second.embed_crops}
        record = record_of(alphabets, true, how.letters, recognisers, given.models)
        copies = Memorisation.fit(model.canonicalizer, zoo)
        near = {name: copies.of(drawn.vectors) for name, drawn in alphabets.items() if name in methods}
        record |= said | {"memorisation": copies.record(near), "default_prior": model.default_prior}
        write_json(given.out / "scores.json", record)
        shown = next((name for name in reversed(methods) if name.startswith(model.default_prior)), next(iter(methods)))
        write_png(given.out / "sheet.png", draw_sheet(alphabets, true, how.letters, shown))
    except LorasynthError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    for name, row in record["methods"].items():
        print(f"{name:18s}", "  ".join(f"{key} {value['mean']:.3f}" for key, value in row.items()))
    print(given.out / "sheet.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
