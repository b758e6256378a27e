"""The forms in which people keep pictures for trainers, all brought to one: a list of photos, each with subject, caption, mask.

    alice/1.jpg                     a sub-folder is a subject (deeper folders belong to it)
    10_sks bob/1.jpg                kohya's: the number, of repeats, is dropped
    1.jpg, 2.jpg                    without any sub-folder: one subject, of the folder's name
    1.txt, 1.caption                beside 1.jpg: its caption, [trigger] being the subject
    1_mask.png, 1-masklabel.png     beside 1.jpg: where the loss looks
    alice_mask/1.png                the same, in a folder beside alice (sd-scripts' conditioning_data_dir)
    metadata.jsonl, metadata.csv    file_name, and perhaps text and subject: Hugging Face's imagefolder

Whatever is passed over is listed with the reason.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from lorasynth.errors import PhotoError, UsageError
from lorasynth.gallery.trees import PICTURES, TABLES, Tree
from lorasynth.storage.tables import rows_of, unused_columns

TRIGGER = "[trigger]"
CAPTIONS = (".txt", ".caption")
MAX_CAPTION = 4_096
"""Bytes of a caption's file."""
_COLUMNS = ("file_name", "text", "subject")
_MASKS = ("_mask", "-masklabel")
_REPEATS = re.compile(r"([1-9]\d*)_(.+)", re.DOTALL)
_SPLIT_FOLDERS = ("train", "test", "validation", "val", "valid")
_OTHER_PICTURES = (".heic", ".heif", ".avif", ".gif", ".bmp", ".tif", ".tiff", ".jxl", ".jp2", ".dng", ".cr2", ".nef")


@dataclass(frozen=True, kw_only=True)
class PhotoFile:
    """A photo of a gallery, as its folder says it. Nobody has opened it."""

    name: str
    subject: str
    size: int  # bytes
    caption: str | None = None  # None: the instance prompt
    mask: str | None = None  # a file


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A file that is not used."""

    name: str
    subject: str | None
    reason: str  # one word, for programs
    words: str  # for people


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What a folder holds."""

    photos: tuple[PhotoFile, ...]
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]


def list_photos(tree: Tree, *, masks: bool = True) -> Listing:
    """Find the photos of a folder or archive.

    Args:
        tree: its files.
        masks: whether mask files are used; if not they are passed over.

    Raises:
        UsageError: there is no photo, a table cannot be read, or a row of it names a file outside, or one twice.
    """
    sizes = tree.files()
    left_out = [_unprintable(name) for name in sizes if not name.isprintable()]
    sizes = {name: size for name, size in sizes.items() if name.isprintable()}
    rows, tables, of_tables = _metadata(tree, sizes)
    pictures = [name for name in sizes if name.lower().endswith(PICTURES)]
    mask_of, spare, mask_folders = _masks(pictures)
    left_out += spare
    used = {*tables, *mask_of.values(), *(one.name for one in spare)}
    subjects, notes = _subjects([name for name in pictures if name not in used], rows, tree.name)
    notes += of_tables
    if mask_folders:
        notes.append(f"folders of masks, by their names and their files': {', '.join(mask_folders)}")
    caption_of = {_stem(name): name for ending in reversed(CAPTIONS) for name in sizes if name.lower().endswith(ending)}
    photos = []
    for name, subject in subjects.items():
        if subject is None:
            words = "nothing says who it shows; put it into a sub-folder, or name its subject in metadata.csv"
            left_out.append(LeftOut(name=name, subject=None, reason="no-subject", words=words))
            continue
        mask = mask_of.get(name) if masks else None
        photo = PhotoFile(name=name, subject=subject, size=sizes[name], mask=mask)
        try:
            photos.append(
                replace(photo, caption=_caption(tree, rows.get(name, {}), caption_of.get(_stem(name)), sizes))
            )
        except PhotoError as error:
            left_out.append(LeftOut(name=name, subject=subject, reason="caption", words=str(error)))
    used |= {*subjects, *(caption_of[stem] for stem in map(_stem, subjects) if stem in caption_of)}
    left_out += [_other(name) for name in sizes if name not in used]
    left_out += [_missing(name, row) for name, row in rows.items() if name not in sizes]
    if not photos:
        raise UsageError(f"{tree.name}: expected photos (JPEG, PNG or WebP), got {_what(sizes)}; check the folder")
    return Listing(photos=tuple(sorted(photos, key=lambda p: p.name)), left_out=tuple(left_out), notes=tuple(notes))


def _subjects(
    pictures: Iterable[str], rows: Mapping[str, Mapping[str, Any]], root: str
) -> tuple[dict[str, str | None], list[str]]:
    """The subject of each photo, None where nothing says it; and notes."""
    pictures = list(pictures)
    flat = not any("/" in name for name in pictures) and not any(row.get("subject") for row in rows.values())
    level = 1 if _in_split_folders(pictures) else 0
    found: dict[str, str | None] = {}
    folders: dict[str, set[str]] = {}
    repeats = False
    for name in pictures:
        folder = name.split("/")[level] if "/" in name else root if flat else None
        subject = str(rows.get(name, {}).get("subject") or "").strip() or None
        if subject is None and folder is not None:
            match = _REPEATS.fullmatch(folder) if "/" in name else None
            repeats |= match is not None
            subject = (match.group(2).strip() or folder) if match else folder
            folders.setdefault(subject, set()).add(folder)
        found[name] = subject
    notes = ["folders are named as kohya's: the number of repeats is dropped, and not needed"] if repeats else []
    notes += ["the folders train, test and validation are passed over: who is in which split, subjects decide"] * level
    notes += [
        f"{subject}: the folders {', '.join(sorted(names))} are taken for one subject"
        for subject, names in sorted(folders.items())
        if len(names) > 1
    ]
    return found, notes


def _in_split_folders(pictures: Iterable[str]) -> bool:
    """Whether photos lie as ``train/alice/1.jpg``, as imagefolders may."""
    deep = [name.split("/") for name in pictures if "/" in name]
    return bool(deep) and all(len(parts) > 2 and parts[0].lower() in _SPLIT_FOLDERS for parts in deep)


def _masks(pictures: Iterable[str]) -> tuple[dict[str, str], list[LeftOut], list[str]]:
    """The mask file of each photo that has one, what lies among masks and is not used, and the folders of masks."""
    stems: dict[str, list[str]] = {}
    for name in pictures:
        stems.setdefault(_stem(name), []).append(name)
    found: dict[str, str] = {}
    masks: set[str] = set()
    folders: set[str] = set()
    for stem, names in stems.items():
        for owner, folder in _owners(stem):
            if owner in stems:
                masks |= {*names}
                folders |= {folder} - {""}
                for photo in stems[owner]:
                    found.setdefault(photo, names[0])
    used = {*found.values()}
    spare = [
        LeftOut(name=name, subject=None, reason="mask", words="lies among masks, and is not the mask of a photo")
        for names in stems.values()
        for name in names
        if name not in used and (name in masks or name.startswith(tuple(folder + "/" for folder in folders)))
    ]
    return found, spare, sorted(folders)


def _owners(stem: str) -> Iterator[tuple[str, str]]:
    """Photos that a mask of this name may belong to, and the folder of masks, if the mask does not lie beside its photo."""
    parts = stem.split("/")
    for i, part in enumerate(parts):
        for ending in _MASKS:
            if part.endswith(ending):
                folder = "/".join(parts[: i + 1]) if i < len(parts) - 1 else ""
                yield "/".join([*parts[:i], part.removesuffix(ending), *parts[i + 1 :]]), folder


def _caption(tree: Tree, row: Mapping[str, Any], file: str | None, sizes: Mapping[str, int]) -> str | None:
    """A photo's caption in one line, by its row of a table or by the file beside it.

    Raises:
        PhotoError: the file is too long or no text.
    """
    if text := str(row.get("text") or "").strip():
        return " ".join(text.split())
    if file is None:
        return None
    if sizes[file] > MAX_CAPTION:
        raise PhotoError(f"{file}: expected a caption of at most {MAX_CAPTION} bytes, got {sizes[file]}; shorten it")
    try:
        text = tree.read(file).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise PhotoError(f"{file}: expected a caption in UTF-8, got other bytes; save it as UTF-8") from None
    return " ".join(text.split()) or None


def _metadata(tree: Tree, sizes: Mapping[str, int]) -> tuple[dict[str, dict[str, Any]], set[str], list[str]]:
    """Rows of all tables by the photo's name, the tables' names, and notes on columns that are not used."""
    rows: dict[str, dict[str, Any]] = {}
    notes = []
    tables = sorted(name for name in sizes if PurePosixPath(name).name in TABLES)
    for table in tables:
        folder = PurePosixPath(table).parent
        records = _rows(tree, table)
        notes += [note] if (note := unused_columns(table, records, _COLUMNS)) else []
        for number, row in enumerate(records, start=1):
            relative = PurePosixPath(str(row["file_name"]).replace("\\", "/"))
            if relative.is_absolute() or ".." in relative.parts:
                raise UsageError(
                    f"{table} row {number}: expected a file beside the table or below, got {row['file_name']!a:.80}"
                )
            name = str(folder / relative)
            if name in rows:
                raise UsageError(f"{table} row {number}: expected each file once, got {name!a:.80} again; remove a row")
            rows[name] = dict(row)
    return rows, set(tables), notes


def _rows(tree: Tree, table: str) -> list[dict[str, Any]]:
    try:
        content = tree.read(table)
    except PhotoError as error:
        raise UsageError(str(error)) from None
    return rows_of(table, content, ("file_name",))


def _stem(name: str) -> str:
    return name[: name.rindex(".")] if "." in name.rpartition("/")[2] else name


def _unprintable(name: str) -> LeftOut:
    return LeftOut(
        name=ascii(name), subject=None, reason="name", words="its name has unprintable characters; rename it"
    )


def _other(name: str) -> LeftOut:
    other = name.lower().endswith(_OTHER_PICTURES)
    words = "is no JPEG, PNG or WebP; convert it" if other else "is no photo, caption, mask or metadata table"
    return LeftOut(name=name, subject=None, reason="format" if other else "not-a-photo", words=words)


def _missing(name: str, row: Mapping[str, Any]) -> LeftOut:
    subject = str(row.get("subject") or "") or None
    return LeftOut(name=name, subject=subject, reason="missing", words="a metadata table names it, and it is not there")


def _what(sizes: Mapping[str, int]) -> str:
    endings = sorted({PurePosixPath(name).suffix.lower() or "no ending" for name in sizes})
    return f"{len(sizes)} files ({', '.join(endings[:5])})" if sizes else "no files"
