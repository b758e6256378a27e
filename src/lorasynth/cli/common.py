"""What all verbs share: options, the device, results as JSON."""

import json
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from lorasynth.errors import UsageError

RecipeName = Annotated[
    str,
    typer.Argument(
        help="Of drawn worlds: portraits, emblems, brushes (each _tiny, too), portraits_64k, portraits128. Of your photographs "
        "on your base: sd15, sd2, sdxl, sd3, flux, auraflow (each _tiny, too). Of zoos that are imported: imported, "
        "sd15_faces, sd15_faces_small, sdxl_faces."
    ),
]
Seed = Annotated[
    int,
    typer.Option(
        help="Equal seeds give equal results, bit for bit, on one machine and one OMP_NUM_THREADS.",
        min=0,
        max=2**63 - 1,
    ),
]
ZooFolder = Annotated[Path, typer.Argument(help="The zoo's folder.")]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")]
Json = Annotated[
    Path | None, typer.Option("--json", help="Write machine-readable results to this file; - is standard output.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace existing output.")]
STANDARD_OUTPUT = Path("-")


class Format(StrEnum):
    """LoRA file formats."""

    kohya = "kohya"
    diffusers = "diffusers"
    peft = "peft"


def _base_name(value: str | None) -> str | None:
    """A base that is named on the command line goes into headers and messages."""
    if value is not None and not (value.isprintable() and 0 < len(value) <= 200):
        raise UsageError(
            f"--force-base: expected a name of 1 to 200 characters, got {value!r:.40}; name the base model"
        )
    return value


UnetOnly = Annotated[
    bool, typer.Option("--unet-only", help="Leave out what changes text encoders, which is refused otherwise.")
]
ForceBase = Annotated[
    str | None,
    typer.Option(
        "--force-base",
        help="The base model that it is for, whatever it says: sd15, sdxl, flux or another.",
        callback=_base_name,
    ),
]


def setup(device: str = "cpu") -> None:
    """Quiet third parties, one thread a process unless OMP_NUM_THREADS says otherwise.

    Raises:
        UsageError: an unknown device, or one this machine has not.
    """
    setup_without_torch()
    import torch

    from lorasynth.devices import use_device

    use_device(device)
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


def setup_without_torch() -> None:
    """`setup` for verbs that only look at files: importing torch takes several times as long as they do."""
    import warnings

    os.environ["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS") or "1"
    warnings.filterwarnings("ignore")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")


def say(message: str) -> None:
    """A line of progress, on standard error. What is not printable in it, as files may say, is escaped."""
    from lorasynth.storage.faults import printable

    print(printable(message, 4_096), file=sys.stderr, flush=True)


def check_json(path: Path | None, *others: Path, force: bool = False) -> None:
    """Fail before the work if its results could not be written.

    Args:
        path: where to write the results; None or "-" for standard output.
        others: what the verb reads and writes: the results are not to take the place of any, or of anything in it.
        force: whether a file that is there may be replaced.

    Raises:
        OutputExistsError: a file is there and ``force`` is not given.
        UsageError: it cannot be a file's place, or is one of the others.
    """
    if path is None or path == STANDARD_OUTPUT:
        return
    from lorasynth.storage.outputs import require_new_output

    if any(_is_within(path, other) for other in others):
        raise UsageError(f"{path}: expected a file of its own for --json, got what the command reads or writes")
    require_new_output(path, force=force)


def check_folder(path: Path) -> None:
    """Fail before the work if its files could not be written into a folder, which is made later where there is none.

    Raises:
        UsageError: it is no folder, and none can be made there.
    """
    from lorasynth.storage.outputs import require_output_folder

    require_output_folder(path)


def check_zoo(path: Path) -> None:
    """Fail before the work if no zoo could be made in a folder: it is new or empty, or holds a zoo already.

    Raises:
        UsageError: it holds LoRA files, which would be lost among the zoo's, or lies in a zoo. Or as `check_folder`.
    """
    check_folder(path)
    check_outside_zoos(path.parent)
    if os.path.isdir(path) and not os.path.exists(path / "zoo.json"):
        files = (name for name in sorted(os.listdir(path)) if name.lower().endswith(".safetensors"))
        if other := next((name for name in files if not name.startswith(("shard-", "init."))), ""):
            raise UsageError(
                f"{path}: expected a zoo, or an empty folder, got one with {other!r}; choose another folder"
            )


def check_outside_zoos(path: Path) -> None:
    """Fail before the work if its files would come to lie in a zoo.

    Raises:
        UsageError: they would.
    """
    here = Path(os.path.abspath(path))
    for place in (here, *here.parents):
        if os.path.exists(place / "zoo.json"):
            raise UsageError(f"{path}: expected a folder outside of zoos, got one of the zoo {place}; choose another")


def check_lora(path: Path, format: Format, *, force: bool) -> None:
    """Fail before the work if a LoRA could not be written: `lorasynth.storage.outputs.require_new_lora`."""
    from lorasynth.storage.outputs import require_new_lora

    require_new_lora(path, format.value, force=force)


def _is_within(path: Path, other: Path) -> bool:
    """Whether a path is another one, by whatever name, or lies in it."""
    try:
        place = Path(os.path.realpath(path))
        return Path(os.path.realpath(other)) in {place, *place.parents} or os.path.samefile(path, other)
    except (OSError, ValueError):  # one of them is not there, or is no path
        return False


def emit(record: dict[str, Any], path: Path | None) -> None:
    """Print a record as JSON on standard output, or write it to the file asked for."""
    if path is None or path == STANDARD_OUTPUT:
        # In another encoding than UTF-8, JSON's own escapes stand for what it has no letters for.
        utf8 = (sys.stdout.encoding or "ascii").lower().replace("-", "") == "utf8"
        print(_escaped(json.dumps(record, indent=2, ensure_ascii=not utf8)))
    else:
        from lorasynth.storage.files import write_json

        write_json(path, record)


def _escaped(text: str) -> str:
    """JSON in which what a terminal would obey is written as JSON's own escapes: the values stay."""
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)
