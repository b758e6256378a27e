"""What is worth keeping of a run, in parts of a size that is easily moved."""

import tarfile
from io import BytesIO
from pathlib import Path

from lorasynth.storage.files import write_bytes

_KEPT = (
    "*/encoder.*",
    "*/appearance.*",
    "*/reader.*",
    "*/recogniser.*",
    "*/vae/*",
    "*/vae-final/*",
    "*/base/**/*",
    "fit/synthesizer/**/*",
    "scores.*",
)
_PART = 15 << 20  # bytes of a file that is easily moved


def pack(run: Path, folder: Path | None) -> None:
    """Models, synthesizer and scores of a run as a tar archive in parts, for a machine that is taken away when its time is up.

    Read it back with ``cat FOLDER/kept.tar.* | tar -x``. Zoo and checkpoints stay behind.

    Args:
        run: the run's folder.
        folder: where the parts go, in place of those there; None: nowhere.
    """
    if folder is None:
        return
    memory = BytesIO()
    with tarfile.open(fileobj=memory, mode="w") as archive:
        for path in sorted({path for pattern in _KEPT for path in run.glob(pattern) if path.is_file()}):
            archive.add(path, path.relative_to(run))
    folder.mkdir(parents=True, exist_ok=True)
    whole = memory.getvalue()
    parts = [whole[i : i + _PART] for i in range(0, len(whole), _PART)]
    for number, part in enumerate(parts):
        write_bytes(folder / f"kept.tar.{number:02d}", part)
    for old in sorted(folder.glob("kept.tar.*"))[len(parts) :]:
        old.unlink()
