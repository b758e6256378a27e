"""An ONNX file -> a function from one array to several, or one line that says why not. onnxruntime is imported here only."""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from lorasynth.encoders.headers import file_format
from lorasynth.errors import MissingExtraError, ModelError

_HEAD_BYTES = 1 << 20  # read of a file, to see its first operations: those come before its weights


Shape = tuple[int | None, ...]
"""Sizes that a file fixes; None for the others."""


@dataclass(frozen=True, kw_only=True)
class Signature:
    """What goes into a network and comes out of it."""

    inputs: tuple[Shape, ...]
    outputs: tuple[Shape, ...]


class Graph:
    """A network of one input, on the CPU, with as many threads as torch has."""

    def __init__(self, path: str | Path):
        """Open a file.

        Raises:
            MissingExtraError: onnxruntime is not installed.
            ModelError: the file is missing, not ONNX, or its network has several inputs or none of floats.
        """
        try:
            import onnxruntime
        except ImportError:
            raise MissingExtraError(f"{path}: ONNX files need onnxruntime; pip install 'lorasynth[face]'") from None

        self.path = Path(path)
        head = _read_head(self.path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors, which are raised besides
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors have no class in common
            got = file_format(head)
            reason = _first_line(error) if got == "an unknown format" else got
            raise ModelError(f"{path}: expected an ONNX file, got {reason}; get the file again") from None
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or inputs[0].type != "tensor(float)":
            got = ", ".join(f"{i.name} {i.type}" for i in inputs) or "none"
            raise ModelError(f"{path}: expected a network of one input of 32-bit floats, got {got}; give another file")
        self._input = inputs[0].name
        self.input_shape = _static(inputs[0].shape)
        self.output_shapes = [_static(output.shape) for output in self._session.get_outputs()]
        self.first_operations = _first_operations(head, self._input)

    def __call__(self, values: Float[np.ndarray, "..."]) -> list[np.ndarray]:
        """All outputs, in the file's order.

        Raises:
            ModelError: the network does not run on this input.
        """
        try:
            return self._session.run(None, {self._input: np.ascontiguousarray(values, dtype=np.float32)})
        except Exception as error:
            raise ModelError(
                f"{self.path}: the network does not run on an input of shape {values.shape}: {_first_line(error)}"
            ) from None


def _read_head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_HEAD_BYTES)
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise ModelError(f"{path}: expected an ONNX file, got none ({reason}); check the path") from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _static(shape: list) -> tuple[int | None, ...]:
    """Sizes that the file fixes. None for the others, which have names or nothing."""
    return tuple(size if isinstance(size, int) and size > 0 else None for size in shape)


# What onnxruntime does not show, or only after it has read all weights. The package `onnx` is not worth its weight for this: a
# file is one protobuf message, ModelProto.graph = 7; GraphProto.node = 1, .initializer = 5, .input = 11, .output = 12;
# NodeProto.input = 1, .output = 2, .op_type = 4; TensorProto.name = 8; ValueInfoProto.name = 1, .type = 2;
# TypeProto.tensor_type = 1; TypeProto.Tensor.shape = 2; TensorShapeProto.dim = 1; .Dimension.dim_value = 1 (onnx.proto3).


def signature(path: Path) -> Signature | None:
    """The shapes of an ONNX file's inputs and outputs, without reading its weights. None if it is not ONNX or cut off.

    Raises:
        ModelError: the file cannot be read.
    """
    try:
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
            memoryview(content) as view,
        ):
            return _signature(view) if _is_whole(view) else None
    except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise ModelError(f"{path}: expected an ONNX file, got none ({reason}); get the file again") from None


def _signature(content: memoryview) -> Signature | None:
    inputs: list[tuple[str, Shape]] = []
    outputs: list[Shape] = []
    weights: set[str] = set()  # older files list their weights among the inputs
    for graph in _messages(content, 7):
        for number, value in _fields(graph):
            if number == 5:
                weights |= {_text(name) for name in _messages(value, 8)}
            elif number == 11:
                inputs.append(("".join(_text(name) for name in _messages(value, 1)), _shape(value)))
            elif number == 12:
                outputs.append(_shape(value))
    inputs = [(name, shape) for name, shape in inputs if name not in weights]
    return Signature(inputs=tuple(s for _, s in inputs), outputs=tuple(outputs)) if inputs and outputs else None


def _shape(value_info: memoryview) -> Shape:
    sizes: list[int | None] = []
    for type in _messages(value_info, 2):
        for tensor in _messages(type, 1):
            for shape in _messages(tensor, 2):
                for dim in _messages(shape, 1):
                    size = _varint(dim, 1)[0] if len(dim) > 1 and dim[0] == 1 << 3 else 0
                    sizes.append(size if 0 < size < 1 << 31 else None)
    return tuple(sizes)


def _first_operations(head: bytes, value: str, count: int = 2) -> tuple[str, ...]:
    """What is done first to the input: op types along its first consumers. Identity and Shape do not count."""
    operations: list[str] = []
    for inputs, outputs, operation in _nodes(head):
        if value not in inputs or not outputs or operation == "Shape":
            continue
        value = outputs[0]
        if operation != "Identity":
            operations.append(operation)
        if len(operations) == count:
            break
    return tuple(operations)


def _nodes(head: bytes) -> Iterator[tuple[list[str], list[str], str]]:
    """Inputs, outputs and op type of each node within the head, in the file's order, which is an order of execution."""
    for graph in _messages(memoryview(head), 7):
        for node in _messages(graph, 1):
            words: dict[int, list[str]] = {1: [], 2: [], 4: []}
            for number, word in _fields(node):
                if number in words:
                    words[number].append(_text(word))
            yield words[1], words[2], "".join(words[4])


def _is_whole(message: memoryview) -> bool:
    """Whether the last field of a message ends where the message does: a download that broke off ends within it."""
    at = 0
    try:
        while at < len(message):
            key, at = _varint(message, at)
            if key & 7 == 2:
                length, at = _varint(message, at)
                at += length
            elif key & 7 == 0:
                _, at = _varint(message, at)
            else:
                return False  # ModelProto has no fields of other kinds
    except IndexError:
        return False
    return at == len(message)


def _messages(message: memoryview, number: int) -> Iterator[memoryview]:
    return (content for found, content in _fields(message) if found == number)


def _text(content: memoryview) -> str:
    return bytes(content).decode("utf-8", "replace")


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and content of a message's length-delimited fields, up to where it is cut off or stops making sense."""
    at = 0
    try:
        while at < len(message):
            key, at = _varint(message, at)
            if key & 7 == 2:
                length, at = _varint(message, at)
                yield key >> 3, message[at : at + length]
                at += length
            elif key & 7 == 0:
                _, at = _varint(message, at)
            elif key & 7 in (1, 5):
                at += 8 if key & 7 == 1 else 4
            else:
                return
    except IndexError:
        return


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, least first, and where it ends (protobuf encoding, "Base 128 varints")."""
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at
        if shift > 63:  # no number is that long
            raise IndexError
