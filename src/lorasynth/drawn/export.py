"""People of a drawn world as an ordinary folder of pictures, with the metadata that `lorasynth.gallery.forms` reads."""

import json
from collections.abc import Callable
from pathlib import Path

from lorasynth.encoders.images import to_image
from lorasynth.errors import OutputExistsError
from lorasynth.storage.files import write_bytes, write_png
from lorasynth.storage.outputs import make_folder, require_output_folder
from lorasynth.worlds.domain import Domain
from lorasynth.worlds.subjects import Role, persons_of

TABLE = "metadata.jsonl"
_AT_ONCE = 64


def export_people(
    domain: Domain,
    people: int,
    photos: int,
    out: Path,
    *,
    size: int = 256,
    force: bool = False,
    report: Callable[[str], None] = print,
) -> int:
    """Draw the first people that a zoo may hold into ``out/PERSON/PHOTO.png``. Captions and persons go into a table.

    A folder that was begun goes on: pictures that are there stay. The table comes last.

    Args:
        domain: the world's.
        people: how many.
        photos: of each; each with settings of its own.
        out: the folder.
        size: pixels a side.
        force: draw pictures that are there again.
        report: gets a line now and then.

    Returns:
        How many pictures there are.

    Raises:
        OutputExistsError: the folder holds something else.
        UsageError: it cannot be written, or the world has fewer people.
    """
    persons = persons_of(Role.ZOO, people)
    _require_own(require_output_folder(out), set(map(str, persons)))
    make_folder(out)
    table = []
    for count, person in enumerate(persons, start=1):
        folder = make_folder(out / str(person))
        numbers = list(range(photos))
        for caption, number in zip(domain.captions([person] * photos, numbers), numbers, strict=True):
            file_name = f"{person}/{number:02d}.png"
            table.append({"file_name": file_name, "text": caption, "subject": str(person)})
        missing = [number for number in numbers if force or not (folder / f"{number:02d}.png").exists()]
        for start in range(0, len(missing), _AT_ONCE):
            part = missing[start : start + _AT_ONCE]
            for number, picture in zip(part, domain.photos([person] * len(part), part, size), strict=True):
                write_png(folder / f"{number:02d}.png", to_image(picture))
        if count % 100 == 0:
            report(f"{count} of {people} people")
    write_bytes(out / TABLE, b"".join(json.dumps(row).encode() + b"\n" for row in table))
    return people * photos


def _require_own(out: Path, persons: set[str]) -> None:
    foreign = sorted(path.name for path in out.iterdir() if path.name not in {*persons, TABLE}) if out.is_dir() else []
    if foreign:
        raise OutputExistsError(f"{out}: expected an empty folder, got one with {foreign[0]!a}; choose another folder")
