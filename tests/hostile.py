"""Folders made hostile one thing at a time: every value of every JSON and header, every tensor, every file."""

import json
import os
import resource
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

VALUES = [None, True, -1, 1.5, 10**12, "x" * 5_000, "../../x\x1b[2J", "\ud800", [[]], {"a": {}}]
RAW = ["1e999", "9" * 4_000, "[" * 100_000]
"""JSON that Python does not write, as text."""
HEADER = ["", "nan", "0", "9" * 30, "60000", "x" * 5_000, "null", '{"base":"x"}']


def places(value, path=()):
    """Paths to all values in a JSON value, itself too."""
    yield path
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in list(parts)[:4]:
        yield from places(each, (*path, key))


def put(value, path, new):
    """A copy with another value at a path; ``put(..., _GONE)`` removes it."""
    copy = json.loads(json.dumps(value))
    if not path:
        return new
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    if new is _GONE:
        del inner[path[-1]]
    else:
        inner[path[-1]] = new
    return copy


_GONE = object()


def json_variants(value) -> Iterator[tuple[str, str]]:
    """What changed, and the text of the changed JSON."""
    for path in places(value):
        for new in VALUES:
            yield f"{path} = {new!r:.20}", json.dumps(put(value, path, new))
        for raw in RAW:
            marked = json.dumps(put(value, path, "@here@"))
            yield f"{path} = {raw:.20}", marked.replace('"@here@"', raw)
        if path:
            yield f"{path} gone", json.dumps(put(value, path, _GONE))
    yield "a key twice", json.dumps(value).replace("{", '{"format": 1, "schema": 1, "id": "x",', 1)
    yield "a key more", json.dumps({**value, "../new": 1} if isinstance(value, dict) else value)


def tensor_variants(path: Path) -> Iterator[tuple[str, Callable[[Path], None]]]:
    """What changed, and a function that writes the changed safetensors file."""
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        header = dict(file.metadata() or {})

    def saved(tensors, header):
        return lambda place: save_file(tensors, place, header)

    for name, t in tensors.items():
        rest = {key: each for key, each in tensors.items() if key != name}
        changed = {
            "gone": rest, "renamed": {**rest, name + "x": t}, "a number": {**rest, name: t.flatten()[:1].reshape(()).clone()},
            "empty": {**rest, name: t.flatten()[:0].clone()}, "flat": {**rest, name: t.flatten()},
            "deeper": {**rest, name: t[None]}, "NaN": {**rest, name: torch.full_like(t.half(), torch.nan)},
            "wide": {**rest, name: torch.zeros(40_000, 1, dtype=t.dtype)}, "one less": {**rest, name: t.flatten()[1:].clone()},
            "int8": {**rest, name: t.to(torch.int8)}, "bool": {**rest, name: t.bool()}, "int64": {**rest, name: t.long()},
            "inf": {**rest, name: torch.full_like(t.half(), torch.inf)},
            "scaled": {**tensors, name + ".row_scale": torch.zeros(1, 40_000)},
        }  # fmt: skip
        for what, new in changed.items():
            yield f"{name} {what}", saved(new, header)
    for field, said in header.items():
        for new in HEADER:
            yield f"header {field} = {new:.20}", saved(tensors, {**header, field: new})
        yield f"header without {field}", saved(tensors, {k: v for k, v in header.items() if k != field})
        if said.startswith("{"):
            for what, text in json_variants(json.loads(said)):
                yield f"header {field} {what}", saved(tensors, {**header, field: text})
    length = int.from_bytes(path.read_bytes()[:8], "little")
    entries, body = json.loads(path.read_bytes()[8 : 8 + length]), path.read_bytes()[8 + length :]
    first = next(key for key in entries if key != "__metadata__")
    for what, text in json_variants({first: entries[first]}):
        content = text.encode()
        yield f"entry {what}", lambda place, c=content: place.write_bytes(len(c).to_bytes(8, "little") + c + body)


def file_variants() -> Iterator[tuple[str, Callable[[Path], None]]]:
    """What stands in a file's place, and a function that puts it there, where nothing is."""

    def a_socket(place):
        before = os.getcwd()
        os.chdir(place.parent)
        try:
            with socket.socket(socket.AF_UNIX) as one:
                one.bind(place.name)
        finally:
            os.chdir(before)

    def sparse(place):
        place.touch()
        os.truncate(place, 1 << 40)

    yield "gone", lambda place: None
    yield "a folder", lambda place: place.mkdir()
    yield "a pipe", os.mkfifo
    yield "a socket", a_socket
    yield "endless", lambda place: place.symlink_to("/dev/zero")
    yield "a link to nothing", lambda place: place.symlink_to("nothing")
    yield "a link to itself", lambda place: place.symlink_to(place.name)
    yield "empty", lambda place: place.touch()
    yield "sparse", sparse
    yield "noise", lambda place: place.write_bytes(b"\xff\xfe\0caf\xe9" * 50)
    yield "html", lambda place: place.write_text("<html>")
    yield "a long header", lambda place: place.write_bytes((1 << 62).to_bytes(8, "little") + b"{}")


def variants(folder: Path, name: str) -> Iterator[tuple[str, Callable[[Path], None]]]:
    """All that can be put in the place of one file of a folder."""
    yield from file_variants()
    content = (folder / name).read_bytes()
    for keep in (1, 7, len(content) // 2, len(content) - 1):
        yield f"cut to {keep}", lambda place, k=keep: place.write_bytes(content[:k])
    yield "longer", lambda place: place.write_bytes(content + b"\0")
    if name.endswith(".json"):
        for what, text in json_variants(json.loads(content)):
            yield what, lambda place, t=text: place.write_text(t)
    if name.endswith(".safetensors"):
        yield from tensor_variants(folder / name)


@contextmanager
def hostile(folder: Path, name: str, make: Callable[[Path], None]) -> Iterator[None]:
    """Within it, a folder's file is another; afterwards it is itself again."""
    place, kept = folder / name, folder.parent / "kept"
    place.rename(kept)
    try:
        make(place)
        yield
    finally:
        if place.is_dir() and not place.is_symlink():
            place.rmdir()
        else:
            place.unlink(missing_ok=True)
        kept.rename(place)


def unruly(
    use: Callable[[], object], folder: Path, names: list[str], allowed: tuple[type[Exception], ...]
) -> tuple[list[str], int]:
    """What ends otherwise than in one of some errors, or takes more than 10 s; and how many were tried."""
    found, tried = [], 0

    def stop(*_):
        raise TimeoutError("10 s")

    before = signal.signal(signal.SIGALRM, stop)
    for name in names:
        for what, make in variants(folder, name):
            try:
                with hostile(folder, name, make):
                    tried += 1
                    signal.alarm(10)
                    try:
                        use()
                    finally:
                        signal.alarm(0)
            except allowed as error:
                if len(str(error).splitlines()) != 1 or len(str(error)) > 2_000:
                    found.append(f"{name}, {what}: {len(str(error))} letters: {error!s:.200}")
            except BaseException as error:
                found.append(f"{name}, {what}: {type(error).__name__}: {error!s:.200}")
    signal.signal(signal.SIGALRM, before)
    return found, tried


def in_little_memory(run: Callable[[], list[str]], megabytes: int = 700) -> list[str]:
    """What a function finds, in a child with so much memory more than now at most."""
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        status = 1
        try:
            os.close(read)
            with open("/proc/self/statm") as file:
                memory = int(file.read().split()[0]) * resource.getpagesize() + megabytes * 2**20
            resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
            with os.fdopen(write, "w") as file:
                json.dump(run(), file)
            status = 0
        finally:
            os._exit(status)
    os.close(write)
    with os.fdopen(read) as file:
        said = file.read()
    assert os.waitpid(child, 0)[1] == 0, "the child did not end by itself"
    return json.loads(said)
