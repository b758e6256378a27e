"""Which encoder made an embedding? A record, kept by every zoo and model, that tells one encoder from another by its files.

    {"kind": "face", "name": "buffalo_l", "dim": 512, "files": {"recogniser": sha256, "detector": sha256},
     "input": {"size": 112, "pixels": "scaled"}, "detector": "SCRFD", "licence": "non-commercial research only (...)"}

What makes embeddings comparable are kind, length, the files of the network itself and what is fed into it: those must agree.
A face's detector only finds what is embedded, and names and licences are for people: they are kept, and may differ.
"""

from collections.abc import Mapping
from typing import Any

UNKNOWN_LICENCE = "unknown: ask who made the file"
Record = dict[str, Any]


def encoder_record(
    *,
    kind: str,
    name: str,
    dim: int,
    files: Mapping[str, str],
    input: Mapping[str, Any],
    licence: str = UNKNOWN_LICENCE,
    detector: str | None = None,
) -> Record:
    """A record, in JSON values.

    Args:
        kind: "world", "face", "clip", "dinov2" or "joined".
        name: what people call it; never a path, for records travel with models.
        dim: D, the length of an embedding.
        files: the sha256 of each of its files, by role.
        input: what is fed into the network: its size in pixels, the range of values.
        licence: of the files.
        detector: what finds the face; None where photos are taken as they are.
    """
    return {
        "kind": kind, "name": name, "dim": dim, "files": dict(files), "input": dict(input),
        "detector": detector, "licence": licence,
    }  # fmt: skip


def difference(expected: Record, got: Record) -> str:
    """How two encoders differ, as "expected ..., got ...". Empty if their embeddings mean the same.

    Args:
        expected: the record of the encoder that a zoo or model was made with.
        got: the record of the one at hand.
    """
    for key in ("kind", "dim"):
        if expected.get(key) != got.get(key):
            return _sentence(expected, got, *(f"{key} {record.get(key)}" for record in (expected, got)))
    ours, theirs = _network_files(expected), _network_files(got)
    for role in sorted(ours.keys() | theirs.keys()):
        if ours.get(role) != theirs.get(role):
            sides = (f"{role} {'sha256 ' + f[role][:12] if role in f else 'absent'}" for f in (ours, theirs))
            return _sentence(expected, got, *sides)
    if expected.get("input") != got.get("input"):
        return _sentence(expected, got, *(f"input {record.get('input')}" for record in (expected, got)))
    return ""


def same_encoder(expected: Record, got: Record) -> bool:
    """Whether embeddings of the two may be compared, and stand in one zoo."""
    return not difference(expected, got)


def describe(record: Record) -> str:
    """One line for people: which encoder, by which detector, under which licence."""
    found = f", faces found by {record['detector']}" if record.get("detector") else ""
    return (
        f"encoder {record['name']} ({record['kind']}, {record['dim']} numbers{found}); licence of its files: "
        f"{record['licence']}"
    )


def _network_files(record: Record) -> dict[str, str]:
    return {role: sha256 for role, sha256 in record.get("files", {}).items() if role.rpartition(" ")[2] != "detector"}


def _sentence(expected: Record, got: Record, ours: str, theirs: str) -> str:
    return (
        f"expected embeddings of encoder {expected.get('name')!r} ({ours}), got those of {got.get('name')!r} ({theirs}); "
        "use the encoder that this was made with"
    )
