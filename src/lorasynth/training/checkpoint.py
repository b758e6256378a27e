"""Checkpoints: everything that is needed to go on with a run, as safetensors and JSON.

    RUN/checkpoint-00000400/state.safetensors   weights, their average, the best so far, the optimizer's moments
    RUN/checkpoint-00000400/checkpoint.json     schema, step, configuration, numbers, the state's sha256, its own; written last
    RUN/latest.json                             name and sha256 of the newest

A checkpoint is one only if its ``checkpoint.json`` is there, to the byte, and the state's sha256 agrees with it. Two are kept.
An old one is removed only after the new one has been read back.
"""

import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from lorasynth.errors import CheckpointError, ModelError, UsageError
from lorasynth.storage.faults import printable
from lorasynth.storage.files import read_tensors, tensor_shapes, write_json, write_large_tensors
from lorasynth.storage.outputs import open_lock
from lorasynth.storage.reading import read_bytes, read_json, sha256_file
from lorasynth.storage.schema import ANYTHING, SHA256, table, text, whole
from lorasynth.storage.schema import record as fields
from lorasynth.storage.settings import config_difference
from lorasynth.storage.system import lock, require_locks

SCHEMA = 2
"""Since 2 ``checkpoint.json`` has a sha256 of its own; 1 is read too."""
KEEP = 2
STATE_NAME = "state.safetensors"
_OBJECT = table(text(1_000), ANYTHING, most=10_000)
_RECORD = fields(
    {
        "schema": whole(1, 1_000), "step": whole(0, 10**12), "sha256": SHA256, "bytes": whole(0, 1 << 50), "config": _OBJECT,
        "numbers": _OBJECT,
    },
    rest=ANYTHING,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A run after ``step`` steps."""

    step: int
    tensors: dict[str, Tensor]
    config: dict[str, Any]
    numbers: dict[str, Any] = field(default_factory=dict)  # whatever else JSON can hold


def save_checkpoint(run_dir: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint, read it back, then remove all but the two newest.

    Raises:
        UsageError: the disk is full or not writable; earlier checkpoints are untouched, and nothing of this one is left.
        ModelError: what was read back is not what was written.
    """
    folder = run_dir / f"checkpoint-{checkpoint.step:08d}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sha256 = _write(folder, checkpoint)
    except (UsageError, OSError) as error:
        need = sum(t.numel() * t.element_size() for t in checkpoint.tensors.values())
        if not (folder / "checkpoint.json").exists():
            shutil.rmtree(folder, ignore_errors=True)
        raise UsageError(
            f"{error}; a checkpoint needs {need / 1e6:.1f} MB, {run_dir} has {shutil.disk_usage(run_dir).free / 1e6:.1f} MB "
            "free; make room and run the same again, which goes on from the last one"
        ) from error
    _record_of(folder)  # reads all of it back
    write_json(run_dir / "latest.json", {"name": folder.name, "sha256": sha256})
    for old in _folders(run_dir)[KEEP:]:
        (old / "checkpoint.json").unlink(missing_ok=True)  # first, so that what a kill leaves of it is no checkpoint
        shutil.rmtree(old)
    return folder


def _write(folder: Path, checkpoint: Checkpoint) -> str:
    """Write a checkpoint's two files, the record last. Gives the state's sha256."""
    record_path, state_path = folder / "checkpoint.json", folder / STATE_NAME
    record_path.unlink(missing_ok=True)
    write_large_tensors(state_path, checkpoint.tensors)  # what a kill leaves goes with the folder, see `_sweep`
    if tensor_shapes(state_path).keys() != checkpoint.tensors.keys():
        raise ModelError(f"{state_path}: expected the tensors that were to be written, got others; check the disk")
    sha256 = sha256_file(state_path)
    record = {
        "schema": SCHEMA,
        "step": checkpoint.step,
        "sha256": sha256,
        "bytes": state_path.stat().st_size,
        "numbers": checkpoint.numbers,
        "config": checkpoint.config,
    }
    write_json(record_path, {**record, "record_sha256": _record_hash(record)})
    return sha256


def load_checkpoint(run_dir: Path, config: Mapping[str, Any], *, clean: bool = True) -> Checkpoint | None:
    """The newest whole checkpoint of a run, or None where the run has none yet.

    A damaged newest one is passed over with a warning.

    Args:
        run_dir: the run's folder.
        config: the configuration of the run that wants to go on; of `Settings`, what an earlier version did not know may be
            missing from the run's where it is at its default.
        clean: remove what saves that were cut off have left; only the process that writes the run may.

    Raises:
        CheckpointError: no checkpoint is whole, the newest is of a later version, or the configuration differs.
    """
    if clean:
        _sweep(run_dir)
    faults: list[str] = []
    for folder in _folders(run_dir):
        if not os.path.lexists(folder / "checkpoint.json"):
            continue
        try:
            checkpoint = _read(folder)
        except ModelError as error:
            faults.append(str(error))
            continue
        if faults:
            warnings.warn(f"passed over a damaged checkpoint, going on from {folder.name}: {faults[0]}", stacklevel=2)
        _require_same_config(folder, checkpoint.config, config)
        return checkpoint
    if faults:
        raise CheckpointError(
            f"{run_dir}: expected a whole checkpoint, {'; '.join(faults)}; remove them to start again"
        )
    return None


@contextmanager
def run_lock(run_dir: Path) -> Iterator[None]:
    """Hold a run's folder for one process. The system lets go of it when the process ends, however it ends.

    Raises:
        CheckpointError: another process has it, or it cannot be written.
    """
    import socket

    require_locks()
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        opened = open_lock(run_dir / ".lock")
    except OSError as error:
        raise CheckpointError(
            f"{run_dir}: expected a folder that can be written, got {error.strerror or error}; choose another run folder"
        ) from None
    with opened as file:
        try:
            lock(file, wait=False)
        except OSError:
            holder = printable(file.read(200).strip())
            raise CheckpointError(f"{run_dir}: in use by {holder}; wait for it, or choose another run folder") from None
        file.seek(0)
        file.truncate()
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield


def _sweep(run_dir: Path) -> None:
    """Remove temporary files, and folders that are no checkpoint, not yet or not any more."""
    for part in run_dir.glob(".*.part"):
        if part.is_file() or part.is_symlink():
            part.unlink()
    for folder in _folders(run_dir):
        if not os.path.lexists(folder / "checkpoint.json"):
            shutil.rmtree(folder)


def _folders(run_dir: Path) -> list[Path]:
    """Checkpoint folders, newest first."""
    named = [p for p in run_dir.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d{8,}", p.name)]
    found = [p for p in named if p.is_dir() and not p.is_symlink()]
    return sorted(found, key=lambda p: int(p.name.split("-")[1]), reverse=True)


def _read(folder: Path) -> Checkpoint:
    record = _record_of(folder)
    tensors, _ = read_tensors(folder / STATE_NAME)
    return Checkpoint(step=record["step"], tensors=tensors, config=record["config"], numbers=record["numbers"])


def _record_of(folder: Path) -> dict[str, Any]:
    """What a whole checkpoint says of itself. Its state is hashed to the last byte, and no tensor is made.

    Raises:
        ModelError: a byte of it is not as it was written.
        CheckpointError: it is of a later version.
    """
    path = folder / "checkpoint.json"
    record = read_json(path, _RECORD)
    said = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
    if record["schema"] != 1 and (
        record.get("record_sha256") != _record_hash(record) or read_bytes(path) != said.encode()
    ):
        raise ModelError(f"{path}: expected its record_sha256 to be that of all the rest, got others")
    if record["schema"] > SCHEMA:
        raise CheckpointError(
            f"{folder}: schema {record['schema']}, this version reads up to {SCHEMA}; update lorasynth"
        )
    state = folder / STATE_NAME
    size = state.stat().st_size if state.is_file() else 0
    if size != record["bytes"]:
        raise ModelError(f"{state}: expected {record['bytes']} bytes, got {size}")
    if (sha256 := sha256_file(state)) != record["sha256"]:
        raise ModelError(f"{state}: expected sha256 {record['sha256'][:16]}, got {sha256[:16]}")
    return {key: record[key] for key in ("step", "config", "numbers")}


def _record_hash(record: Mapping[str, Any]) -> str:
    """The sha256 of what checkpoint.json says, but for that hash itself."""
    values = {key: value for key, value in record.items() if key != "record_sha256"}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _require_same_config(folder: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    # Through JSON, so that tuples and lists compare as equal.
    kept, asked = json.loads(json.dumps(old)), json.loads(json.dumps(new))
    difference = config_difference(kept, asked, defaults=getattr(new, "defaults", {}))
    if difference:
        raise CheckpointError(
            f"{folder}: made with another configuration ({'; '.join(difference)}); "
            "take the old one back, or choose another run folder"
        )
