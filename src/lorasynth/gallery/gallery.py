"""What the method asks of pictures: who there is, who may learn from whom, and which photo serves which purpose.

Two rules hold for every gallery. A subject has one split. A photo has one use.
"""

import hashlib
import unicodedata
from dataclasses import dataclass
from enum import StrEnum


class Split(StrEnum):
    """Which part of the system may learn from a subject. The words are those of a zoo's manifest."""

    TRAIN = "train"  # the zoo, VAE and priors
    VALIDATION = "validation"  # settings and weights are chosen on them; nothing is trained on them
    HELD_OUT = "held_out"  # scores alone
    PILOT = "pilot"  # the shared initialisation of a zoo


class Role(StrEnum):
    """The purpose that a subject serves. In a drawn world nobody has two; a folder shares its few out by split."""

    EVALUATED = "evaluated"  # scores and the demo
    MEASURED = "measured"  # a zoo's likeness and repeatability
    BENCHMARKED = "benchmarked"  # benchmarks/
    CHOOSING = "choosing"  # a zoo's validation LoRAs; settings are chosen by them
    STRANGERS = "strangers"  # whether LoRAs for people without one are copies of the zoo's
    STOPPING = "stopping"  # the best weights of what is trained through the base
    THRESHOLD = "threshold"  # the rate at which strangers pass for a person
    ZOO = "zoo"  # zoo, VAE and priors
    PILOT = "pilot"  # a zoo's shared initialisation
    BASE = "base"  # the base model
    ENCODER = "encoder"  # the conditioning encoder
    CRITIC = "critic"  # the recogniser that training through the base is held against
    RECOGNISER = "recogniser"  # the second recogniser
    READER = "reader"  # the reader of true factors


class Use(StrEnum):
    """The purpose of a photo."""

    FIT = "fit"  # a LoRA is fine-tuned on it
    GIVEN = "given"  # is embedded, as a user's photo will be
    SCORE = "score"  # drawn pictures are compared with it


def person_number(subject: str) -> int:
    """A subject's number in a zoo: the name if it is one as numbers are written, else 63 bits of its hash, the same everywhere.

    "7" is number 7, and "007" a name. An accent is the same composed and decomposed, as file systems change that.
    """
    if subject.isascii() and subject.isdigit() and len(subject) < 18 and str(int(subject)) == subject:
        return int(subject)
    content = composed(subject).encode("utf-8", "surrogatepass")  # names of files need not be UTF-8
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big") >> 1


def composed(name: str) -> str:
    """A name with its accents composed."""
    return unicodedata.normalize("NFC", name)


@dataclass(frozen=True, order=True)
class PhotoRef:
    """One photo of a gallery."""

    subject: str
    name: str  # unique within the gallery: a path
    use: Use
