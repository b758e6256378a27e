"""A folder or file of ONNX models -> the recogniser in it, with the detector that goes with it.

Files are told apart by the shapes of what goes in and comes out. buffalo_l and antelopev2 also hold networks of landmarks, age
and gender, which are passed over. OpenCV's pair is YuNet and SFace.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lorasynth.encoders.arcface import ArcFaceEncoder
from lorasynth.encoders.detectors import Detector, Scrfd, YuNet
from lorasynth.encoders.graphs import signature
from lorasynth.encoders.headers import file_format
from lorasynth.errors import ModelError

Role = Literal["recogniser", "SCRFD", "YuNet"]
_NOT_FACES = (96, 192)
"""Pixels a side of insightface's networks of age and gender, and of landmarks, whose single output looks like an embedding."""

_ARCHIVES = (".zip", ".gz", ".tgz", ".tar", ".7z", ".rar")
SFACE = "face_recognition_sface"
"""How OpenCV's recogniser is called; it takes pixels from 0 to 255."""
_ADVICE = {
    "recogniser": "give a folder with w600k_r50.onnx, glintr100.onnx or another recogniser of insightface's convention",
    "detector": "lay det_10g.onnx or another detector beside the recogniser, or say aligned:FILE if photos show aligned faces",
}


def role_of(path: Path) -> Role | None:
    """What an ONNX file is by its shapes, or None if it is none of the three.

    Raises:
        ModelError: the file cannot be read.
    """
    found = signature(path)
    if found is None or len(found.inputs) != 1 or len(found.inputs[0]) != 4:
        return None
    _, channels, height, width = found.inputs[0]
    if channels not in (3, None):
        return None
    if len(found.outputs) == 9:
        return "SCRFD"
    if len(found.outputs) == 12:
        return "YuNet"
    embeds = len(found.outputs) == 1 and len(found.outputs[0]) == 2
    return "recogniser" if embeds and height == width and height not in _NOT_FACES else None


def open_pack(path: Path, *, name: str, aligned: bool = False) -> ArcFaceEncoder:
    """The encoder of a folder, or of a recogniser's file with the detector beside it.

    Args:
        path: of the folder or file. A folder may hold the models in one folder more, as archives unpack to antelopev2/antelopev2.
        name: what to call it.
        aligned: whether photos are cropped to the face and upright already, so that no detector is needed.

    Raises:
        ModelError: there is no recogniser or no detector, more than one, or what is there is damaged or an archive.
        MissingExtraError: the extra [face] is not installed.
    """
    if path.is_file():
        _refuse_archive(path)
    pack = _survey(_models_folder(path) if path.is_dir() else path.parent)
    files = {"recogniser": path if path.is_file() else _only("recogniser", ("recogniser",), pack)}
    if path.is_file() and path in pack.damaged:
        raise ModelError(f"{path}: {pack.damaged[path]}")
    detector: Detector | None = None
    if not aligned:
        files["detector"] = _only("detector", ("SCRFD", "YuNet"), pack)
        detector = (YuNet if pack.roles[files["detector"]] == "YuNet" else Scrfd)(files["detector"])
    pixels = "raw" if files["recogniser"].name.startswith(SFACE) else "auto"
    return ArcFaceEncoder(files["recogniser"], detector=detector, pixels=pixels, name=name)


@dataclass(frozen=True, kw_only=True)
class _Pack:
    """The ONNX files of a folder by their role, and those that cannot be read with the reason."""

    folder: Path
    roles: dict[Path, Role | None]
    damaged: dict[Path, str]


def _survey(folder: Path) -> _Pack:
    roles: dict[Path, Role | None] = {}
    damaged: dict[Path, str] = {}
    for file in _models(folder):
        try:
            if signature(file) is None:
                damaged[file] = f"expected an ONNX file, got {_got(file)}; get the file again"
            else:
                roles[file] = role_of(file)
        except ModelError as error:
            damaged[file] = str(error).removeprefix(f"{file}: ")
    return _Pack(folder=folder, roles=roles, damaged=damaged)


def _got(file: Path) -> str:
    """What lies in a file that is not ONNX. What has no known format is taken for the rest of a download."""
    with file.open("rb") as opened:
        format = file_format(opened.read(512))
    return "one that is damaged or cut off" if format == "an unknown format" else format


def _models(folder: Path) -> list[Path]:
    """Files that are called ONNX. macOS lays a ._ file beside each on foreign disks."""
    try:
        named = [path for path in folder.iterdir() if path.suffix.lower() == ".onnx" and not path.name.startswith("._")]
    except OSError as error:
        raise ModelError(f"{folder}: cannot be read ({error.strerror}); check its permissions") from None
    return sorted(path for path in named if path.is_file())


def _models_folder(folder: Path) -> Path:
    """The folder itself, or the one folder within it that holds models.

    Raises:
        ModelError: several do, or there is an archive in place of them.
    """
    if _models(folder):
        return folder
    inner = [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith((".", "__MACOSX"))]
    holding = [path for path in inner if _models(path)]
    if len(holding) > 1:
        several = ", ".join(str(path) for path in holding)
        raise ModelError(f"{folder}: expected one pack of models, got several: {several}; name one of them")
    if holding:
        return holding[0]
    for path in sorted(folder.iterdir()):
        if path.is_file():
            _refuse_archive(path)
    return folder


def _refuse_archive(path: Path) -> None:
    if path.suffix.lower() in _ARCHIVES:
        raise ModelError(
            f"{path}: expected a folder or file of ONNX models, got an archive; unpack it into a folder and name the folder"
        )


def _only(what: str, wanted: tuple[Role, ...], pack: _Pack) -> Path:
    """The one file of a role."""
    found = [file for file, role in pack.roles.items() if role in wanted]
    if len(found) == 1:
        return found[0]
    if found:
        got, advice = ", ".join(file.name for file in found), f"move all but one {what} elsewhere"
        if what == "recogniser":
            advice = "name the file instead of the folder"
    elif pack.damaged:
        file, reason = next(iter(pack.damaged.items()))
        names = ", ".join(file.name for file in pack.damaged)
        got, advice = f"none, and {len(pack.damaged)} that cannot be read ({names})", f"{file.name}: {reason}"
    else:
        got = f"none among {', '.join(file.name for file in pack.roles) or 'no .onnx files'}"
        advice = _ADVICE[what]
        if (pack.folder / "config.json").exists():
            advice = "if this is an image tower of transformers, say clip:FOLDER or dinov2:FOLDER"
    raise ModelError(f"{pack.folder}: expected one {what}, got {got}; {advice}")
