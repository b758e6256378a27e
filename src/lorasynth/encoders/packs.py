"""A folder or file of ONNX models -> the recogniser in it, with the detector that goes with it.

Files are told apart by the shapes of what goes in and comes out. buffalo_l and antelopev2 also hold networks of landmarks, age
and gender, which are passed over; OpenCV's pair is YuNet and SFace.
"""

from pathlib import Path
from typing import Literal

from lorasynth.encoders.arcface import ArcFaceEncoder
from lorasynth.encoders.detectors import Detector, Scrfd, YuNet
from lorasynth.encoders.graphs import signature
from lorasynth.encoders.licences import licence_of
from lorasynth.errors import ModelError

Role = Literal["recogniser", "SCRFD", "YuNet"]
_NOT_FACES = (96, 192)
"""Pixels a side of insightface's networks of age and gender, and of landmarks, whose single output looks like an embedding."""

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
        path: of the folder or file.
        name: what to call it.
        aligned: whether photos are cropped to the face and upright already, so that no detector is needed.

    Raises:
        ModelError: there is no recogniser or no detector, or more than one.
        MissingExtraError: the extra [face] is not installed.
    """
    folder = path if path.is_dir() else path.parent
    roles = {file: role_of(file) for file in sorted(folder.glob("*.onnx"))}
    files = {"recogniser": _only("recogniser", ("recogniser",), roles, folder) if path.is_dir() else path}
    detector: Detector | None = None
    if not aligned:
        files["detector"] = _only("detector", ("SCRFD", "YuNet"), roles, folder)
        detector = (YuNet if roles[files["detector"]] == "YuNet" else Scrfd)(files["detector"])
    pixels = "raw" if files["recogniser"].name.startswith(SFACE) else "auto"
    licence = licence_of(files, folder, name)
    return ArcFaceEncoder(files["recogniser"], detector=detector, pixels=pixels, name=name, licence=licence)


def _only(what: str, wanted: tuple[Role, ...], roles: dict[Path, Role | None], folder: Path) -> Path:
    """The one file of a role."""
    found = [file for file, role in roles.items() if role in wanted]
    if len(found) == 1:
        return found[0]
    if found:
        got, advice = ", ".join(file.name for file in found), f"move all but one {what} elsewhere"
        if what == "recogniser":
            advice = "name the file instead of the folder"
    else:
        got = f"none among {', '.join(file.name for file in roles) or 'no .onnx files'}"
        advice = _ADVICE[what]
        if (folder / "config.json").exists():
            advice = "if this is an image tower of transformers, say clip:FOLDER or dinov2:FOLDER"
    raise ModelError(f"{folder}: expected one {what}, got {got}; {advice}")
