"""From installed fonts to two ordinary folders of pictures, which every command with --data reads.

    python examples/typefaces/folder.py --fonts /usr/share/texlive/texmf-dist/fonts --out out/typefaces

A subject is a face. ``train`` has the faces to learn from, ``held-out`` those of families that nothing learns from.
``faces.json`` says which font is where, and why others are left out. ``README.md`` is the card, with licences by family.
``prompts.txt`` has what pictures are asked for in training through the base and in evaluation.
"""

import argparse
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from drawing import LETTERS, caption, draw, draw_letters, draw_look
from faces import Face, Survey, survey
from licences import licences_of

TABLE, SURVEY, CARD, PROMPTS = "metadata.jsonl", "faces.json", "README.md", "prompts.txt"
_ASKED = "HamburgefonstivQK"
TRAIN, HELD_OUT = "train", "held-out"


def rng_of(*words: str) -> np.random.Generator:
    """Random numbers that follow from words, on every machine alike."""
    return np.random.default_rng(list(hashlib.sha256("\0".join(words).encode()).digest()))


def write_face(face: Face, folder: Path, photos: int) -> list[dict[str, str]]:
    """Pictures of one face in ``folder/NAME``, and their lines for the table; pictures that are there stay.

    Letters come in random order, so that no letter comes a second time before all others have come once.
    """
    (folder / face.name).mkdir(parents=True, exist_ok=True)
    order = "".join(
        "".join(rng_of(face.name, "order", str(i)).permutation(list(LETTERS))) for i in range(-(-photos // 52))
    )
    lines = []
    for number in range(photos):
        rng = rng_of(face.name, str(number))
        letters, look = draw_letters(rng, order[number:]), draw_look(rng)
        name = f"{face.name}/{number:02d}.png"
        lines.append({"file_name": name, "text": caption(letters, look.ground), "subject": face.name})
        if not (folder / name).exists():
            part = folder / f"{name}.part"
            Image.fromarray(draw(face.font, face.metrics, letters, look)).convert("RGB").save(part, format="PNG")
            part.replace(folder / name)
    return lines


def write_folder(faces: Sequence[Face], folder: Path, photos: int) -> None:
    """Pictures of faces, and the table, which comes last."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [line for face in faces for line in write_face(face, folder, photos)]
    (folder / TABLE).write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_card(found: Survey, path: Path, licences: Path | None) -> None:
    """What the folders hold: families, how many faces of each, and their licences."""
    known = licences_of(licences) if licences else {}
    rows = ["| family | faces | folder | licence |", "|---|---|---|---|"]
    for folder, faces in ((TRAIN, found.train), (HELD_OUT, found.held_out)):
        for family, count in sorted(Counter(face.family for face in faces).items()):
            rows.append(f"| {family} | {count} | {folder} | {known.get(family, 'see the fonts')} |")
    reasons = Counter(one.reason for one in found.left_out)
    left = ["| left out because of | fonts |", "|---|---|", *(f"| {r} | {n} |" for r, n in sorted(reasons.items()))]
    head = [
        "# Letters of typefaces",
        "",
        "Pictures of letters, drawn from fonts. The fonts' own licences hold for them.",
    ]
    path.write_text("\n".join([*head, "", *rows, "", *left, ""]))


def main(arguments: Sequence[str] | None = None) -> int:
    """Write both folders."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fonts", type=Path, required=True, help="a folder of .otf and .ttf files, a folder a family")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--photos", type=int, default=40, help="of each face")
    parser.add_argument("--held-out", type=int, default=20, help="families that nothing learns from")
    parser.add_argument("--faces-a-family", type=int, default=40, help="at most")
    parser.add_argument("--licences", type=Path, help="Debian's Licenses.gz of the package that the fonts are from")
    given = parser.parse_args(arguments)
    try:
        found = survey(given.fonts, held_out=given.held_out, faces_a_family=given.faces_a_family)
    except FileNotFoundError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    given.out.mkdir(parents=True, exist_ok=True)
    found.save(given.out / SURVEY, given.fonts)
    write_card(found, given.out / CARD, given.licences)
    (given.out / PROMPTS).write_text("".join(caption(letter, "black on white") + "\n" for letter in _ASKED))
    for name, faces in ((TRAIN, found.train), (HELD_OUT, found.held_out)):
        write_folder(faces, given.out / name, given.photos)
        families = len({face.family for face in faces})
        print(f"{given.out / name}: {len(faces)} faces of {families} families, {given.photos} pictures of each")
    print(f"{len(found.left_out)} fonts are left out; {given.out / SURVEY} says why")
    return 0


if __name__ == "__main__":
    sys.exit(main())
