"""A gallery's photos prepared once: embedded, held against each other, and encoded for a base.

    FOLDER/data.jsonl              a line a photo: subject, use, sha256, what was found, why it was left out
    FOLDER/embeddings-KEY/         of every photo, by one encoder; see `lorasynth.gallery.shelf`
    FOLDER/latents-KEY/            of the photos that are used, by one base's VAE at one size, in float16

Any number of processes may prepare one folder, be killed, and be started again: the outcome is the same, byte for byte.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from lorasynth.encoders.protocol import Encoder
from lorasynth.encoders.records import Record
from lorasynth.gallery.check import Report, judge
from lorasynth.gallery.findings import Finding, look_at
from lorasynth.gallery.folder import PhotoGallery
from lorasynth.gallery.forms import PhotoFile
from lorasynth.gallery.gallery import PhotoRef, Use
from lorasynth.gallery.shelf import Known, Part, Shelf, gather, take
from lorasynth.storage.files import write_bytes
from lorasynth.storage.fingerprint import fingerprint
from lorasynth.storage.outputs import make_folder
from lorasynth.workers.leases import EXPIRES_AFTER_S
from lorasynth.workers.locks import locked

DATA_NAME = "data.jsonl"
Encode = Callable[[Float[Tensor, "B 3 S S"]], Float[Tensor, "B C h w"]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Prepared:
    """What is used of a gallery, with embeddings and latents at hand."""

    gallery: PhotoGallery
    report: Report
    encoder: Record
    _embeddings: dict[str, Float[Tensor, " D"]]
    _latents: dict[str, tuple[Shelf, int, int]]

    def __repr__(self) -> str:
        """In a line, without its numbers."""
        return f"Prepared({self.gallery!r}, {self.report!r})"

    def embeddings(self, photos: Sequence[PhotoRef]) -> Float[Tensor, "B D"]:
        """Unit embeddings of photos, on the default device."""
        return torch.stack([self._embeddings[photo.name] for photo in photos]).to(torch.get_default_device())

    def latents(self, photos: Sequence[PhotoRef]) -> Float[Tensor, "B C h w"]:
        """Latents of photos, in fp32 on the default device."""
        parts: dict[tuple[Path, int], Tensor] = {}
        rows = []
        for shelf, number, row in (self._latents[photo.name] for photo in photos):
            if (key := (shelf.folder, number)) not in parts:
                parts[key] = shelf.load(number).tensors["latents"]
            rows.append(parts[key][row])
        return torch.stack(rows).float().to(torch.get_default_device())


def prepare(
    gallery: PhotoGallery,
    encoder: Encoder,
    folder: Path,
    *,
    base: tuple[str, int, Encode] | None = None,
    on_look: Callable[[str, int], None] = lambda *_: None,
    expires_after_s: float = EXPIRES_AFTER_S,
) -> Prepared:
    """Prepare a gallery, or go on with it, together with all other processes that do the same.

    Args:
        gallery: its photos.
        encoder: embeds them.
        folder: where the results stay. What was computed of a file is found again by its content, whatever it is called now.
        base: the fingerprint of a base's VAE, its pictures' size in pixels, and its `encode`; None for embeddings alone.
        on_look: called now and then with "embeddings" or "latents", and how many photos are missing.
        expires_after_s: when a silent process of another machine is given up.

    Raises:
        UsageError: the disk is full or not writable; what is there stays.
        ZooError: locks do not reach another machine that is at work here.
    """
    make_folder(folder)
    key = fingerprint_of(encoder.record)
    shelf = Shelf(folder / f"embeddings-{key}", gallery.files)

    def embed(files: Sequence[PhotoFile], known: Known) -> Part:
        def recall(file: PhotoFile, sha256: str) -> Finding | None:
            found = take(sha256, known)
            return None if found is None else _finding(file, *found)

        return gather([_row(found, encoder.dim) for found in look_at(gallery, encoder, files, recall)])

    shelf.fill(embed, on_look=lambda n: on_look("embeddings", n), expires_after_s=expires_after_s)
    report = judge(gallery, _findings(shelf))
    settled = settle(gallery, report)
    with locked(shelf.folder):  # and sweep up what a killed writer of it left
        for left in folder.glob(f".{DATA_NAME}.*.part"):
            left.unlink(missing_ok=True)
        write_bytes(folder / DATA_NAME, _lines(settled, report))
    latents = _latents(settled, report, folder, base, on_look, expires_after_s) if base is not None else {}
    embeddings = {f.file.name: f.embedding for f in report.used if f.embedding is not None}
    return Prepared(gallery=settled, report=report, encoder=encoder.record, _embeddings=embeddings, _latents=latents)


def settle(gallery: PhotoGallery, report: Report) -> PhotoGallery:
    """The gallery of the photos that are used, their uses by content."""
    names = {finding.file.name: finding.sha256 for finding in report.used}
    files = tuple(file for file in gallery.files if file.name in names)
    return replace(gallery, files=files, left_out=report.left_out, contents=names)


def fingerprint_of(record: Record) -> str:
    """16 hex digits of what makes embeddings comparable: kind, length, files, input; and what finds the face."""
    said = {key: record.get(key) for key in ("kind", "dim", "files", "input", "detector")}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


def vae_fingerprint(vae: torch.nn.Module) -> str:
    """16 hex digits of a picture VAE's weights."""
    return fingerprint(*vae.state_dict().values())


def _latents(
    gallery: PhotoGallery,
    report: Report,
    folder: Path,
    base: tuple[str, int, Encode],
    on_look: Callable[[str, int], None],
    expires_after_s: float,
) -> dict[str, tuple[Shelf, int, int]]:
    key, size, encode = base
    shelf = Shelf(folder / f"latents-{key}-{size}", gallery.files)
    sha256 = {finding.file.name: finding.sha256 for finding in report.used}

    def make(files: Sequence[PhotoFile], known: Known) -> Part:
        rows = []
        for file in files:
            row = {"name": file.name, "size": file.size, "sha256": sha256[file.name]}
            found = take(sha256[file.name], known)
            if found is None:
                picture = gallery.pictures([PhotoRef(file.subject, file.name, Use.FIT)], size)
                with torch.no_grad():
                    latent = encode(picture.to(torch.get_default_device())).half().cpu()
                found = row, {"latents": latent}
            rows.append((row, found[1]))
        return gather(rows)

    shelf.fill(make, on_look=lambda n: on_look("latents", n), expires_after_s=expires_after_s)
    return {file.name: (shelf, n, row) for n, part in enumerate(shelf.parts) for row, file in enumerate(part)}


def _row(finding: Finding, dim: int) -> tuple[dict, dict[str, Tensor]]:
    embedding = torch.zeros(dim) if finding.embedding is None else finding.embedding
    row = {
        "name": finding.file.name, "size": finding.file.size, "sha256": finding.sha256, "reason": finding.reason,
        "words": finding.words, "quality": finding.quality, "warnings": list(finding.warnings),
        "embedded": finding.embedding is not None,
    }  # fmt: skip
    thumb = torch.frombuffer(bytearray(finding.thumb), dtype=torch.uint8)
    return row, {"embedding": embedding[None].float(), "thumb": thumb[None]}


def _finding(file: PhotoFile, row: dict, tensors: dict[str, Tensor]) -> Finding:
    return Finding(
        file=file, sha256=row["sha256"], reason=row["reason"], words=row["words"], quality=row["quality"],
        warnings=tuple(row["warnings"]), thumb=bytes(tensors["thumb"][0].tolist()),
        embedding=tensors["embedding"][0] if row["embedded"] else None,
    )  # fmt: skip


def _findings(shelf: Shelf) -> list[Finding]:
    found = []
    for number, files in enumerate(shelf.parts):
        part = shelf.load(number)
        for i, (file, row) in enumerate(zip(files, part.rows, strict=True)):
            found.append(_finding(file, row, {name: t[i : i + 1] for name, t in part.tensors.items()}))
    return found


def _lines(gallery: PhotoGallery, report: Report) -> bytes:
    """A line a photo, in the order of names."""
    use = {
        photo.name: use
        for s in gallery.by_subject
        for use in Use
        for photo in gallery.photos(s, use, len(gallery.files))
    }
    reasons = {one.name: {"reason": one.reason, "words": one.words} for one in report.left_out}
    lines = []
    for finding in report.findings:
        name = finding.file.name
        line = {
            "photo": name, "subject": finding.file.subject, "use": use.get(name), "sha256": finding.sha256,
            "quality": finding.quality, "warnings": list(finding.warnings), "left_out": reasons.get(name),
            "mask": finding.file.mask,
        }  # fmt: skip
        lines.append(json.dumps(line) + "\n")
    return "".join(lines).encode()
