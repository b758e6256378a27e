"""Who may learn from whom in a folder: subjects fall into splits, and their photos into uses, by hashes of their names.

The same on every machine. From `STABLE` subjects on a subject's split depends on its own name alone, so that more subjects
move nobody. Below, splits are filled in the order of hashes, so that none is empty.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from lorasynth.errors import UsageError
from lorasynth.gallery.gallery import Split, Use

PARTS = {Split.HELD_OUT: 0.1, Split.VALIDATION: 0.1, Split.PILOT: 0.05}  # all others: TRAIN
FEWEST = {Split.HELD_OUT: 1, Split.VALIDATION: 2, Split.PILOT: 2}
FEWEST_SUBJECTS = 10
FEWEST_PHOTOS = 3
"""One to fine-tune on, one to be given, one to compare with."""
STABLE = 100


def split_subjects(subjects: Sequence[str]) -> dict[Split, list[str]]:
    """The subjects of each split, in the order of their hashes.

    Raises:
        UsageError: there are too few.
    """
    if len(subjects) < FEWEST_SUBJECTS:
        raise UsageError(
            f"expected at least {FEWEST_SUBJECTS} subjects with {FEWEST_PHOTOS} usable photos each, to train on some and "
            f"score on others, got {len(subjects)}; add subjects (`lorasynth data check` lists what is left out)"
        )
    order = in_order(subjects)
    found: dict[Split, list[str]] = {}
    start, at = 0, 0.0
    for split, part in PARTS.items():
        at += part
        if len(order) < STABLE:
            stop = start + max(FEWEST[split], round(part * len(order)))
        else:
            stop = next((i for i, subject in enumerate(order) if _hash("split", subject) >= at), len(order))
        found[split] = order[start:stop]
        start = stop
    found[Split.TRAIN] = order[start:]
    return found


def in_order(subjects: Iterable[str]) -> list[str]:
    """Subjects in the order of hashes: the first of them are any, not those of the first letters."""
    return sorted(subjects, key=lambda subject: (_hash("split", subject), subject))


def split_photos(subject: str, photos: Mapping[str, str]) -> dict[Use, list[str]]:
    """The photos of a subject by use: a quarter is given, a quarter scored, and the rest is fitted.

    Args:
        subject: whose.
        photos: what decides a photo's use (its sha256, or its name) by the photo's name.

    Returns:
        Names in the order of hashes. Of one or two photos, the second is fitted, and none scored.
    """
    order = sorted(photos, key=lambda name: (_hash("use", subject, photos[name]), name))
    quarter = max(1, round(len(order) / 4))
    given, rest = order[:quarter], order[quarter:]
    score = rest[:quarter] if len(rest) > 1 else []
    return {Use.GIVEN: given, Use.SCORE: score, Use.FIT: rest[len(score) :]}


def _hash(*words: str) -> float:
    """A number in [0, 1) from words."""
    digest = hashlib.blake2b("\0".join(words).encode(errors="surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
