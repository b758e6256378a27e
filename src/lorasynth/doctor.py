"""Is this installation sound? Checksums of what is shipped, and the method once through."""

import time
from pathlib import Path

from lorasynth.storage.files import write_json
from lorasynth.storage.reading import read_json, sha256_file
from lorasynth.worlds.world import ASSETS, get_domain

CHECKSUMS = ASSETS / "checksums.json"


def asset_files() -> list[Path]:
    """Every shipped file except the list of checksums itself."""
    return sorted(p for p in ASSETS.rglob("*") if p.is_file() and p != CHECKSUMS)


def write_checksums() -> None:
    """Record the sha256 of every shipped file: part of making a release."""
    write_json(CHECKSUMS, {str(p.relative_to(ASSETS)): sha256_file(p) for p in asset_files()})


def check_assets() -> list[str]:
    """What is wrong with the shipped files, a sentence a file (an empty list is a sound installation)."""
    recorded = read_json(CHECKSUMS)
    faults = []
    for name, expected in recorded.items():
        path = ASSETS / name
        if not path.is_file():
            faults.append(f"{name}: missing")
        elif (actual := sha256_file(path)) != expected:
            faults.append(f"{name}: expected sha256 {expected[:12]}, got {actual[:12]}")
    return faults


def self_test() -> dict[str, float]:
    """Synthesise a LoRA from a drawn picture and look at its size: seconds and norm."""
    from lorasynth.encoders.images import to_image
    from lorasynth.synthesizer import Synthesizer

    start = time.perf_counter()
    model = Synthesizer.from_pretrained()
    loaded = time.perf_counter()
    lora = model(to_image(get_domain(model.base).photos([0], [0], 128)[0]))
    return {"load_s": loaded - start, "synthesize_s": time.perf_counter() - loaded, "norm": lora.norm()}
