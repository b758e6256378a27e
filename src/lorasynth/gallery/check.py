"""The photos of a gallery held against each other: duplicates, strangers among a subject's photos, one person under two names.

Whoever looks unlike a subject is told by two figures of the gallery itself, so that any encoder may look: *within*, the median
cosine of a photo to the mean of its subject's others, and *between*, that of two subjects' means.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lorasynth.encoders.records import Record
from lorasynth.gallery.findings import Finding, thumbs
from lorasynth.gallery.folder import PhotoGallery
from lorasynth.gallery.forms import LeftOut
from lorasynth.gallery.splits import FEWEST_PHOTOS, FEWEST_SUBJECTS

STRANGER, SAME = 1 / 3, 2 / 3
"""Of the way from *between* to *within*: below the first a photo shows somebody else, above the second two subjects are one."""
USUAL = (0.9, 0.0)
"""*within* and *between* where too few subjects have photos enough to measure them: limits 0.3 and 0.6, of ArcFace's kind."""
APART = 0.1
"""By how much *within* is above *between* for an encoder that tells the subjects apart."""
NEAR, NEAR_ANYWHERE = 0.006, 0.08
"""Mean and largest difference of two thumbnails' values, at most, for near duplicates. Another size and JPEG: 0.005, 0.05."""
_ROWS = 1_024
_SAMPLE = 2_000  # subjects whose means are compared for *between*


@dataclass(frozen=True, kw_only=True, eq=False)
class Report:
    """What a check found."""

    findings: tuple[Finding, ...]
    left_out: tuple[LeftOut, ...]  # of these photos, and the files that were no photos
    within: float
    between: float
    same_person: tuple[tuple[str, str, float], ...] = ()  # who stays, who goes, cosine
    notes: tuple[str, ...] = field(default=())

    def __repr__(self) -> str:
        """In a line: thousands of findings would fill a notebook."""
        return f"Report({len(self.findings):,} photos looked at, {len(self.left_out):,} files left out)"

    @property
    def used(self) -> list[Finding]:
        """The photos that are used."""
        names = {one.name for one in self.left_out}
        return [finding for finding in self.findings if finding.file.name not in names]

    def record(self, gallery: PhotoGallery, encoder: Record) -> dict[str, Any]:
        """The contract of `lorasynth data check --json`.

        Returns:
            "subjects", "photos", "usable" (counts), "by_subject" (photos and usable ones of each), "by_reason" (counts),
            "left_out" (each file with subject, reason, words), "warnings" (of photos that are used), "same_person", "too_few"
            (subjects with fewer than `FEWEST_PHOTOS` usable photos, who are not trained on), "trainable" (how many others),
            "within", "between", "notes", "data", "encoder".
        """
        usable = Counter(finding.file.subject for finding in self.used)
        subjects = {s: {"photos": len(f), "usable": usable[s]} for s, f in gallery.by_subject.items()}
        too_few = [subject for subject in subjects if usable[subject] < FEWEST_PHOTOS]
        return {
            "data": gallery.record, "encoder": encoder, "subjects": len(subjects), "photos": len(self.findings),
            "usable": sum(usable.values()), "by_subject": subjects,
            "by_reason": dict(sorted(Counter(one.reason for one in self.left_out).items())),
            "left_out": [
                {"photo": one.name, "subject": one.subject, "reason": one.reason, "words": one.words} for one in self.left_out
            ],
            "warnings": [{"photo": f.file.name, "warnings": list(f.warnings)} for f in self.used if f.warnings],
            "same_person": [{"subjects": [a, b], "cosine": cosine} for a, b, cosine in self.same_person],
            "too_few": too_few, "trainable": len(subjects) - len(too_few),
            "within": self.within, "between": self.between, "notes": list(self.notes),
        }  # fmt: skip


def judge(gallery: PhotoGallery, findings: Iterable[Finding]) -> Report:
    """Hold the photos of a gallery against each other. The outcome depends on nothing but them."""
    everything = tuple(sorted(findings, key=lambda finding: finding.file.name))
    left_out = [_left_out(f, f.reason, f.words) for f in everything if f.reason]
    good = [f for f in everything if not f.reason]
    good = _drop(good, _exact_duplicates(good), left_out)
    good = _drop(good, _near_duplicates(good), left_out)
    within, between = _measure(good)
    notes = list(gallery.notes)
    pairs: list[tuple[str, str, float]] = []
    if within - between >= APART:
        good = _drop(good, _strangers(good, between + STRANGER * (within - between)), left_out)
        pairs = _same_person(good, between + SAME * (within - between))
        if gallery.keep_alike and pairs:
            notes.append(f"pairs of subjects that look like one, and are kept: {len(pairs)}")
        elif not gallery.keep_alike:
            good = _drop(good, _second_names(good, pairs), left_out)
    else:
        notes.append(
            f"the encoder does not tell the subjects apart: median cosine {within:.2f} within, {between:.2f} between them; "
            "choose another encoder, or look whether all subjects are one"
        )
    notes += _notes(gallery, good)
    return Report(
        findings=everything, left_out=(*gallery.left_out, *left_out), within=within, between=between,
        same_person=tuple(pairs), notes=tuple(notes),
    )  # fmt: skip


def _left_out(finding: Finding, reason: str, words: str) -> LeftOut:
    return LeftOut(name=finding.file.name, subject=finding.file.subject, reason=reason, words=words)


Reasons = dict[str, tuple[str, str]]
"""Reason and words by photo."""


def _drop(good: list[Finding], reasons: Reasons, left_out: list[LeftOut]) -> list[Finding]:
    left_out += [_left_out(f, *reasons[f.file.name]) for f in good if f.file.name in reasons]
    return [f for f in good if f.file.name not in reasons]


def _exact_duplicates(good: Sequence[Finding]) -> Reasons:
    """Files of equal bytes: the first by name stays."""
    first: dict[str, Finding] = {}
    found: Reasons = {}
    for finding in good:
        before = first.setdefault(finding.sha256, finding)
        if before is not finding:
            found[finding.file.name] = ("duplicate", f"is the same file as {before.file.name}{_whose(before, finding)}")
    return found


def _near_duplicates(good: Sequence[Finding]) -> Reasons:
    """Pictures that are one but for size, format or a retouch: the one of better quality, or the first by name, stays."""
    found: Reasons = {}
    for i, j in _near_pairs(thumbs(good)):
        one, other = good[i], good[j]
        if one.file.name in found or other.file.name in found:
            continue
        if (other.quality or 0) > (one.quality or 0):
            one, other = other, one
        words = f"is nearly the same picture as {one.file.name}{_whose(one, other)}"
        found[other.file.name] = ("near-duplicate", words)
    return found


def _near_pairs(grey: Float[Tensor, "B d"]) -> list[tuple[int, int]]:
    """Thumbnails that differ by `NEAR` at most.

    Means of near ones are near. So thumbnails are sorted by their means, and only neighbours in that order are compared.
    """
    order = grey.mean(1).argsort(stable=True)
    grey = grey[order]
    means, parts = grey.mean(1), grey.unflatten(1, (4, -1)).mean(2)
    pairs: list[tuple[int, int]] = []
    for step in range(1, len(grey)):
        close = (means[step:] - means[:-step] <= NEAR).nonzero()[:, 0]
        if not len(close):
            break
        close = close[((parts[close] - parts[close + step]).abs() <= 4 * NEAR).all(1)]
        for some in close.split(_ROWS):
            difference = (grey[some] - grey[some + step]).abs()
            near = some[(difference.mean(1) <= NEAR) & (difference.amax(1) <= NEAR_ANYWHERE)]
            pairs += zip(order[near].tolist(), order[near + step].tolist(), strict=True)
    return sorted((min(pair), max(pair)) for pair in pairs)


def _whose(one: Finding, other: Finding) -> str:
    return "" if one.file.subject == other.file.subject else f", of {one.file.subject}"


def _by_subject(good: Sequence[Finding]) -> dict[str, Float[Tensor, "k D"]]:
    rows: dict[str, list[Tensor]] = {}
    for finding in good:
        assert finding.embedding is not None
        rows.setdefault(finding.file.subject, []).append(finding.embedding)
    return {subject: torch.stack(rows[subject]) for subject in sorted(rows)}


def _to_others(embeddings: Float[Tensor, "k D"]) -> Float[Tensor, " k"]:
    """The cosine of each photo to the mean of a subject's others."""
    return (embeddings * F.normalize(embeddings.sum(0) - embeddings, dim=1)).sum(1)


def _measure(good: Sequence[Finding]) -> tuple[float, float]:
    """*within* and *between*."""
    subjects = [e for e in _by_subject(good).values() if len(e) >= FEWEST_PHOTOS]
    if len(subjects) < 2:
        return USUAL
    within = torch.cat([_to_others(e) for e in subjects]).median().item()
    some = subjects[:: -(-len(subjects) // _SAMPLE)]
    means = F.normalize(torch.stack([e.mean(0) for e in some]), dim=1)
    i, j = torch.triu_indices(len(means), len(means), offset=1).unbind()
    return within, (means @ means.T)[i, j].median().item()


def _strangers(good: Sequence[Finding], limit: float) -> Reasons:
    """Photos that do not look like their subject's others: the least alike goes, then the others are asked again."""
    found: Reasons = {}
    rows: dict[str, list[Finding]] = {}
    for finding in good:
        rows.setdefault(finding.file.subject, []).append(finding)
    for subject, photos in rows.items():
        while len(photos) > 1:
            cosines = _to_others(_by_subject(photos)[subject])
            worst = int(cosines.argmin())
            if cosines[worst] >= limit:
                break
            words = f"may show somebody else: cosine {cosines[worst]:.2f} to the subject's others, expected {limit:.2f}"
            found[photos[worst].file.name] = ("somebody-else", words)
            if len(photos) == 2:  # nothing says which of the two is the subject
                found[photos[1 - worst].file.name] = ("somebody-else", words)
            photos = photos[:worst] + photos[worst + 1 :]
    return found


def _same_person(good: Sequence[Finding], limit: float) -> list[tuple[str, str, float]]:
    """Pairs of subjects who look like one: whoever has more photos, or comes first, stays."""
    subjects = {s: e for s, e in _by_subject(good).items() if len(e) > 1}
    if len(subjects) < 2:
        return []
    names = list(subjects)
    means = F.normalize(torch.stack([e.mean(0) for e in subjects.values()]), dim=1)
    found, gone = [], set()
    for start in range(0, len(names), _ROWS):
        alike = means[start : start + _ROWS] @ means.T
        for i, j in ((alike > limit).triu(start + 1)).nonzero().tolist():
            one, other = names[start + i], names[j]
            if len(subjects[other]) > len(subjects[one]):
                one, other = other, one
            if one not in gone and other not in gone:
                gone.add(other)
                found.append((one, other, alike[i, j].item()))
    return found


def _second_names(good: Sequence[Finding], pairs: Iterable[tuple[str, str, float]]) -> Reasons:
    stays = {other: (one, cosine) for one, other, cosine in pairs}
    found: Reasons = {}
    for finding in good:
        if finding.file.subject in stays:
            one, cosine = stays[finding.file.subject]
            words = f"the subject looks like {one} (cosine {cosine:.2f}); if they are one, put both into one folder, else give "
            words += "--alike keep"
            found[finding.file.name] = ("same-person", words)
    return found


def _notes(gallery: PhotoGallery, good: Sequence[Finding]) -> list[str]:
    counts = Counter(finding.file.subject for finding in good)
    enough = sum(count >= FEWEST_PHOTOS for count in counts.values())
    notes = []
    if few := len(gallery.by_subject) - enough:
        words = f"subjects with fewer than {FEWEST_PHOTOS} usable photos, which are not trained on: {few}"
        notes.append(f"{words}; add photos of them")
    if enough < FEWEST_SUBJECTS:
        notes.append(f"training needs at least {FEWEST_SUBJECTS} subjects, got {enough} with photos enough")
    if unnamed := gallery.unnamed():
        notes.append(
            f"{unnamed} captions do not say {gallery.subject!r}; write [trigger] where the subject is meant, or choose the "
            "instance prompt that they go with"
        )
    return notes
