"""Under which licence do model files stand? What their makers say, as far as a file's name or its model card tells."""

from pathlib import Path

from lorasynth.encoders.records import UNKNOWN_LICENCE

INSIGHTFACE = "non-commercial research only (insightface's models)"
_BY_NAME = {
    "face_detection_yunet": "MIT",
    "face_recognition_sface": "Apache-2.0",
    **dict.fromkeys(
        ("buffalo_", "antelopev2", "w600k_", "glintr100", "scrfd_", "det_10g", "det_2.5g", "det_500m"), INSIGHTFACE
    ),
}
"""By how the name of a file, folder or hub repository begins; (OpenCV Zoo's and insightface's READMEs)."""
CARD = "README.md"


def licence_of(files: dict[str, Path], folder: Path, name: str) -> str:
    """The licence of model files.

    A known name is believed before a model card: who uploads another's files may write any licence on the card.

    Args:
        files: the files, by role ("recogniser", "detector").
        folder: they lie in, with or without a model card.
        name: of the folder or hub repository.
    """
    known = {role: licence for role, path in files.items() if (licence := _known(path.name) or _known_pack(name))}
    card = _of_card(folder / CARD)
    if len(set(known.values())) == 1 and len(known) == len(files):
        licence = next(iter(known.values()))
        return licence if card is None else f"{licence}; the model card says: {card}"
    unknown = card or UNKNOWN_LICENCE
    if not known:
        return unknown
    return "; ".join(f"{role}: {known.get(role, unknown)}" for role in sorted(files))


def _known(name: str) -> str | None:
    return next((licence for start, licence in _BY_NAME.items() if name.lower().startswith(start)), None)


def _known_pack(name: str) -> str | None:
    return _known(name.rpartition("/")[2])


def _of_card(path: Path) -> str | None:
    """What the front matter of a model card says; None where there is no card, or it says nothing."""
    from huggingface_hub.repocard import metadata_load

    if not path.is_file():
        return None
    try:
        data = metadata_load(path) or {}
    except Exception:  # a card that is not YAML says nothing about a licence; its reader raises errors of many classes
        return None
    licence = data.get("license")
    if licence == "other":
        licence = data.get("license_name") or "other"
    return licence if isinstance(licence, str) and licence.strip() else None
