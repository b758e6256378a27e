"""The licence of model files, by the sha256 of published ones: a name says nothing, and a licence is never guessed.

AuraFace's recogniser (Apache-2.0) and antelopev2's (non-commercial) are both called glintr100.onnx.
"""

from collections.abc import Mapping
from pathlib import Path

from lorasynth.encoders.records import UNKNOWN_LICENCE

INSIGHTFACE = "non-commercial research only (insightface's models)"
KNOWN = {
    # insightface: antelopev2, buffalo_l, buffalo_m, buffalo_s and buffalo_sc.
    "4ab1d6435d639628a6f3e5008dd4f929edf4c4124b1a7169e1048f9fef534cdf": INSIGHTFACE,  # glintr100.onnx
    "4c06341c33c2ca1f86781dab0e829f88ad5b64be9fba56e56bc9ebdefc619e43": INSIGHTFACE,  # w600k_r50.onnx
    "9cc6e4a75f0e2bf0b1aed94578f144d15175f357bdc05e815e5c4a02b319eb4f": INSIGHTFACE,  # w600k_mbf.onnx
    "5838f7fe053675b1c7a08b633df49e7af5495cee0493c7dcf6697200b85b5b91": INSIGHTFACE,  # det_10g.onnx, scrfd_10g_bnkps.onnx
    "041f73f47371333d1d17a6fee6c8ab4e6aecabefe398ff32cca4e2d5eaee0af9": INSIGHTFACE,  # det_2.5g.onnx
    "5e4447f50245bbd7966bd6c0fa52938c61474a04ec7def48753668a9d8b4ea3a": INSIGHTFACE,  # det_500m.onnx
    # fal's AuraFace-v1; the detector in its repository is insightface's.
    "a7933ea5330113b01c9b60351d8f4c33003f145d8470ac5f0e52ee2effe25c60": "Apache-2.0",  # glintr100.onnx
    # OpenCV Zoo.
    "0ba9fbfa01b5270c96627c4ef784da859931e02f04419c829e83484087c34e79": "Apache-2.0",  # face_recognition_sface_2021dec.onnx
    "2b0e941e6f16cc048c20aee0c8e31f569118f65d702914540f7bfdc14048d78a": "Apache-2.0",  # face_recognition_sface_2021dec_int8
    "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4": "MIT",  # face_detection_yunet_2023mar.onnx
    "ebafce4e3c118d6554634be5c27ab333b4c047a9a8c3faf1d7cf93101c22f0f0": "MIT",  # face_detection_yunet_2026may.onnx
}
"""Licence by sha256, as the makers state it (READMEs of insightface and OpenCV Zoo, model card of fal/AuraFace-v1)."""
CARD = "README.md"


def licence_of(hashes: Mapping[str, str], folder: Path) -> str:
    """The licence of model files.

    A model card is quoted and not believed: who uploads another's files may write any licence on the card.

    Args:
        hashes: the sha256 of each file, by role ("recogniser", "detector").
        folder: the files lie in, with or without a model card.
    """
    licences = {role: KNOWN.get(sha256, UNKNOWN_LICENCE) for role, sha256 in sorted(hashes.items())}
    if len(set(licences.values())) == 1:
        said = next(iter(licences.values()))
    else:
        said = "; ".join(f"{role}: {licence}" for role, licence in licences.items())
    card = _of_card(folder / CARD)
    return said if card is None else f"{said}; the model card says: {card}"


def _of_card(path: Path) -> str | None:
    """What the front matter of a model card says. None where there is no card, or it says nothing."""
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
