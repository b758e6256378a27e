"""One way to name an encoder of model files, which lie in a folder or on the hub: `open_model`.

    buffalo_l/                   a folder with one recogniser and one detector, ONNX files of insightface's convention or OpenCV's
    buffalo_l/w600k_r50.onnx     a recogniser, and the one detector that lies beside it
    aligned:w600k_r50.onnx       a recogniser, of photos that are cropped to the face and upright already
    clip:FOLDER, dinov2:FOLDER   an image tower of transformers, for what is not a face
    owner/name, clip:owner/name  the same from the Hugging Face hub

`lorasynth.opening.open_encoder` knows drawn worlds, too, and joins encoders.
"""

from pathlib import Path

from lorasynth.encoders.protocol import Encoder
from lorasynth.errors import UsageError

ALIGNED = "aligned"
TOWERS = ("clip", "dinov2")
FORMS = (
    "a world's name (portraits, emblems, brushes), a folder or file of an ONNX recogniser and its detector, "
    "aligned:FILE, clip:FOLDER, dinov2:FOLDER, or a hub id (owner/name, clip:owner/name); several with + between"
)
"""What a name may be, in words for messages and help."""
_CARD = "README.md"


def open_model(name: str) -> Encoder:
    """The encoder of a name. Model files are the user's own, or the hub's if a hub id is given. Nothing else is downloaded.

    Args:
        name: one of the forms above.

    Raises:
        UsageError: the name has none of these forms, or nothing lies there.
        ModelError: what lies there is not a model of this kind, or which of several files is meant is not clear.
        MissingExtraError: the extra [face] is not installed.
    """
    kind, colon, rest = name.partition(":")
    if colon and kind in TOWERS:
        from lorasynth.encoders.towers import ImageTower

        folder, called = _locate(rest, name, ("*.safetensors", "*.json", _CARD))
        return ImageTower(folder, kind=kind, name=called)
    from lorasynth.encoders.packs import open_pack

    aligned = bool(colon) and kind == ALIGNED
    path, called = _locate(rest if aligned else name, name, ("*.onnx", _CARD))
    return open_pack(path, name=called, aligned=aligned)


def is_file(name: str) -> bool:
    """Whether a name, with its kind or without, is that of a file or folder that is here."""
    kind, colon, rest = name.partition(":")
    return _home(rest if colon and kind in (ALIGNED, *TOWERS) else name).exists()


def _locate(place: str, spec: str, patterns: tuple[str, ...]) -> tuple[Path, str]:
    """The file or folder of a place, and what to call it: a file's or folder's own name, or the hub id."""
    from lorasynth.storage.hub import is_repo_id, local_copy

    path = _home(place)
    if place and path.exists():
        return path, path.resolve().name
    if is_repo_id(place) and path.suffix != ".onnx":
        return local_copy(place, "model", patterns), place
    advice = "check the path"
    if (installed := _home("~/.insightface/models") / place).exists() and place:
        advice = f"insightface has one at {installed}"
    raise UsageError(f"{spec!r}: expected an encoder: {FORMS}; got no such thing; {advice}")


def _home(place: str) -> Path:
    """A path whose ~ is the user's home: quoted, or behind aligned:, shells leave it as it is."""
    try:
        return Path(place).expanduser()
    except RuntimeError:  # no such user: a file may be called so
        return Path(place)
