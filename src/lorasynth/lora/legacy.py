"""Pickled tensors become safetensors, by a child process that has little memory and time, and only where somebody asks for it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from lorasynth.errors import UsageError
from lorasynth.lora.gate import adapter_config_of, read_lora_bytes
from lorasynth.storage.container import read_start
from lorasynth.storage.faults import FaultyFileError, refuse, shown
from lorasynth.storage.files import sorted_header, write_bytes
from lorasynth.storage.header import parse_header
from lorasynth.storage.outputs import require_new_output

MAX_SECONDS = 120
_CHILD = Path(__file__).with_name("unpickle.py")


def import_legacy(source: str | Path, target: str | Path, *, force: bool = False) -> dict[str, Any]:
    """Write the tensors of a PyTorch file (.pt, .bin, .ckpt) as safetensors, under their own names and in their own types.

    The file is read in a process of its own, by PyTorch's reader for tensors alone, in 512 MB of memory and four times its size.
    What comes out goes through the gate before it is written: if it is a LoRA it must be a sound one, otherwise its tensors are
    kept as they are. PEFT's weights have their scale elsewhere: name the new file adapter_model.safetensors in their own folder.

    Args:
        source: the PyTorch file: a dict of tensors, one under "state_dict", or a single tensor (then called "tensor").
        target: the .safetensors file to write.
        force: replace what is there.

    Returns:
        ``num_tensors``; ``left_out``, the entries beside "state_dict"; ``lora``, its format, base, rank and modules, or None if
        it is none; ``faults``, what is worth knowing of the LoRA.

    Raises:
        LoRAFileError: the file asks for anything but tensors, holds something else, needs too much memory or time, or its LoRA is
            faulty.
        UsageError: this system cannot limit a process's memory, or the place cannot be written.
        OutputExistsError: something is there already.
    """
    source, target = Path(source), Path(target)
    require_new_output(target, force=force, suffix=".safetensors")
    if not Path("/proc/self/statm").exists():
        raise UsageError("expected Linux, where a process's memory can be limited; convert the file on such a machine")
    try:
        if read_start(source, 9)[8:] == b"{":
            fix = "use `lorasynth convert`"
            raise refuse("other-kind", "file", "a PyTorch file", "safetensors, by its first bytes", fix)
        with TemporaryFile() as written:  # without a name: a kill leaves nothing of it
            record = _unpickle(source, written.fileno())
            written.seek(0)
            content = sorted_header(written.read())
        parse_header(content)
    except FaultyFileError as error:
        raise FaultyFileError(error.fault, source) from None
    record["lora"], record["faults"] = None, []
    try:
        seen = read_lora_bytes(content, shown(source), adapter_config=adapter_config_of(target) or "")[2]
    except FaultyFileError as error:
        if error.code != "no-lora":
            raise
    else:
        record["lora"] = {"format": seen.format, "base": seen.base, "rank": seen.rank, "modules": seen.num_modules}
        record["faults"] = [fault.to_dict() for fault in seen.faults]
    write_bytes(target, content)
    return record


def _unpickle(source: Path, target: int) -> dict[str, Any]:
    """Let the child do it.

    Raises:
        FaultyFileError: it could not.
    """
    megabytes = 512 + 4 * source.stat().st_size // 2**20
    limits = f"within {megabytes} MB of memory and {MAX_SECONDS} seconds"
    expected, fix = f"tensors that load {limits}", "get the LoRA as .safetensors"
    command = [sys.executable, "-P", str(_CHILD), str(source), str(target), str(megabytes), str(MAX_SECONDS)]
    try:
        child = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=MAX_SECONDS, check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1"}, pass_fds=[target],
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise refuse("legacy", "file", expected, "one that takes longer", fix) from None
    try:
        record: dict[str, Any] = json.loads(child.stdout)
    except ValueError:
        raise refuse("legacy", "file", expected, f"an end of the reader with code {child.returncode}", fix) from None
    if "holds" in record:
        what = "a dict of tensors by name, or one tensor"
        raise refuse("legacy", "file", what, record["holds"], "save the LoRA's state dict alone")
    if "error" in record:
        if asks_for := re.search(r"GLOBAL (\S+)", record["error"]):
            got = f"a pickle that asks for {asks_for[1]}"
            raise refuse("unsafe-pickle", "file", "tensors alone", got, "do not use this file: it may run code")
        # PyTorch's refusals are pages of advice around one line.
        reason = re.search(r"Unsupported [^\n]+", record["error"]) or re.match(r"[^\n]*", record["error"])
        raise refuse("legacy", "file", expected, f"one that PyTorch does not read ({reason and reason[0]})", fix)
    return record
