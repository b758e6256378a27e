"""Files that are whole or not there: everything this package writes goes through here.

What it reads of models, zoos and runs goes through `lorasynth.storage.reading` and `lorasynth.storage.tensorfile`.
"""

import io
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorasynth.errors import UsageError
from lorasynth.storage.outputs import require_replaceable

# NOTE: writing JSON asks for no torch, whose import takes seconds.
if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor
else:
    Tensor = Any


def atomic_write(path: str | Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then put it there: fsync, mode by the umask, rename, fsync.

    On any error the temporary file is removed and what was at ``path`` stays.

    Raises:
        UsageError: something other than a regular file is at ``path``, or it could not be written.
    """
    path = Path(path)
    require_replaceable(path)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:40]}.", suffix=".part", dir=path.parent)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror}); choose another place") from None
    part = Path(name)
    try:
        os.close(handle)
        write(part)
        umask = os.umask(0)
        os.umask(umask)
        part.chmod(0o666 & ~umask)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise UsageError(f"{path}: could not be written ({error.strerror or error}); nothing was left there") from error
    finally:
        part.unlink(missing_ok=True)
    if os.name == "posix":  # elsewhere a folder cannot be opened, and the rename is as durable as it gets
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        except OSError as error:
            raise UsageError(
                f"{path}: is written, but may not outlast a power cut ({error.strerror}); check the disk"
            ) from None
        finally:
            os.close(folder)


def write_bytes(path: str | Path, *contents: bytes | memoryview) -> None:
    """Write a file whole, of one or more pieces."""

    def write(part: Path) -> None:
        with part.open("wb") as file:
            file.writelines(contents)

    atomic_write(path, write)


def png(image: "Image.Image") -> bytes:
    """A picture as PNG."""
    content = io.BytesIO()
    image.save(content, format="PNG")
    return content.getvalue()


def write_png(path: str | Path, image: "Image.Image") -> None:
    """Write a picture as PNG, whole."""
    write_bytes(path, png(image))


def write_json(path: str | Path, value: Any) -> None:
    """Write a value as JSON, indented, with a newline at the end."""
    # A file's name may have bytes that are no text. JSON writes each as \udcXX, as Python does.
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode(errors="backslashreplace"))


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors as safetensors, whole, the header's metadata in sorted order so that equal content is equal bytes."""
    from safetensors.torch import save

    content = save(_on_cpu(tensors), metadata=dict(metadata) if metadata else None)
    write_bytes(path, *_sorted_header_and_body(content))


def write_large_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """`write_tensors` straight from where they are: no copy of what may be as large as a training.

    A process that is killed may leave a temporary file of the library's in the same folder, ``.tmp`` and six letters.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    def write(part: Path) -> None:
        try:
            save_file(_on_cpu(tensors), part, metadata=dict(metadata) if metadata else None)
        except SafetensorError as error:  # says so of the system's errors, too
            raise UsageError(f"{path}: could not be written ({error}); nothing was left there") from error
        if metadata:
            with part.open("r+b") as file:
                start = file.read(8)
                header, _ = _sorted_header_and_body(start + file.read(int.from_bytes(start, "little")))
                assert len(header) == file.tell()  # the same fields in another order
                file.seek(0)
                file.write(header)

    atomic_write(path, write)


def _on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: t.detach().cpu().contiguous() for name, t in tensors.items()}


def sorted_header(content: bytes) -> bytes:
    """A safetensors file's bytes with the ``__metadata__`` of its header in sorted order.

    NOTE: the library writes metadata in the order of a hash map, which differs from run to run; "same seed, same bytes" needs
    an order. Keys and values are the same, so the header's length is too.
    """
    return b"".join(_sorted_header_and_body(content))


def _sorted_header_and_body(content: bytes) -> tuple[bytes, memoryview]:
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    if "__metadata__" in header:
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, memoryview(content)[8 + length :]


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file of ours: tensors on the default device, in fp32 where they are floating point, and the metadata.

    Raises:
        ModelError: the file is missing, no file, or not safetensors.
    """
    from lorasynth.storage.tensorfile import TensorFile

    with TensorFile(path) as file:
        return file.read(), file.metadata


def tensor_shapes(path: str | Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a safetensors file's tensors, which all lie within it. None is read.

    Raises:
        ModelError: the file is missing, no file, or not safetensors.
    """
    from lorasynth.storage.tensorfile import TensorFile

    with TensorFile(path) as file:
        return dict(file.shapes)
