"""The container, read strictly: hand-made bad files, each refused by name, key, expected and actual."""

import io
import json
import os
import pickle
import struct
import zipfile

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from lorasynth.errors import LoRAFileError
from lorasynth.lora.container import MAX_KEYS, parse_header
from lorasynth.lora.faults import FaultyFileError
from lorasynth.lora.gate import inspect_file, read_header, read_lora

KEYS = ("lora_unet_x_to_q.lora_down.weight", "lora_unet_x_to_q.lora_up.weight")


def pack(header, data=b"", *, length=None):
    """The bytes of a safetensors file with this header, whatever it says."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(begin, end, shape=(2, 2), dtype="F32", **more):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end], **more}


def two(first, second, data=b"\0" * 32):
    return pack({KEYS[0]: first, KEYS[1]: second}, data)


def twice(first, second):
    """A header with one key twice, which no JSON writer makes."""
    text = f'{{"{KEYS[0]}": {json.dumps(first)}, "{KEYS[0]}": {json.dumps(second)}}}'
    return pack(text.encode(), b"\0" * 32)


def a_zip():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}))
    return buffer.getvalue()


GOOD = two(entry(0, 16), entry(16, 32))
WHOLE = {KEYS[0]: entry(0, 16)}

# code, what the message must say (key or place, expected, actual), bytes
BAD = {
    "empty": ("too-short", ["at least 8 bytes", "0 bytes"], b""),
    "7-bytes": ("too-short", ["at least 8 bytes", "7 bytes"], b"1234567"),
    "header-beyond-file": ("header-size", ["header", "at most 2 bytes", "500"], pack(b"{}", length=500)),
    "length-2^64-1": ("header-size", ["header", str(2**64 - 1)], b"\xff" * 16),
    "length-0": ("bad-header", ["header", "JSON"], pack(b"")),
    "lfs-pointer": (
        "other-kind",
        ["LFS", "git lfs pull"],
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    ),
    "html": ("other-kind", ["HTML"], b"<!DOCTYPE html><html><body>404</body></html>"),
    "html-after-a-newline": ("other-kind", ["HTML"], b"\n<html><body>404</body></html>"),
    "zip": ("other-kind", ["zip", "never opened"], a_zip()),
    "pickle": ("other-kind", ["pickle", "never opened"], pickle.dumps({"a": [1.0] * 100})),
    "pickle-protocol-0": ("other-kind", ["pickle"], pickle.dumps({"a": 1}, protocol=0)),
    "gguf": ("other-kind", ["GGUF"], b"GGUF\x03\0\0\0" + b"\1" * 32),
    "sharded-index": ("other-kind", ["index"], b'{"metadata": {}, "weight_map": {}}'),
    "onnx": ("other-kind", ["ONNX"], b"\x08\x07\x12\x07pytorch\x1a\x052.0.0"),
    "truncated-by-1": ("truncated", [KEYS[1], "32 bytes", "31", "cut short"], GOOD[:-1]),
    "trailing": ("trailing-bytes", ["32 bytes", "3 bytes more"], GOOD + b"PK\x03"),
    "overlap": ("overlap", [KEYS[1], "from byte 16", "8"], two(entry(0, 16), entry(8, 24))),
    "hole": ("hole", [KEYS[1], "from byte 16", "24"], two(entry(0, 16), entry(24, 40), b"\0" * 40)),
    "begin-after-end": ("bad-offsets", [KEYS[0], "16 > 0"], two(entry(16, 0), entry(16, 32))),
    "negative-offset": ("bad-offsets", [f"{KEYS[0]} data_offsets", "-16"], two(entry(-16, 0), entry(0, 16))),
    "negative-shape": ("bad-shape", [f"{KEYS[0]} shape", "-2"], two(entry(0, 16, (-2, -2)), entry(16, 32))),
    "float-shape": ("bad-shape", [f"{KEYS[0]} shape", "2.0"], two(entry(0, 16, (2.0, 2)), entry(16, 32))),
    "boolean-shape": ("bad-shape", [f"{KEYS[0]} shape", "True"], two(entry(0, 16, (True, 4)), entry(16, 32))),
    "shape-overflow": ("size", [KEYS[0]], two(entry(0, 16, (2**40, 2**40)), entry(16, 32))),
    "shape-against-offsets": ("size", [KEYS[0], "24 bytes", "16"], two(entry(0, 16, (2, 3)), entry(16, 32))),
    "unknown-dtype": ("dtype", [KEYS[0], "F16, BF16 or F32", "F128"], two(entry(0, 16, dtype="F128"), entry(16, 32))),
    "dtype-not-text": ("dtype", [KEYS[0], "['F32']"], two(entry(0, 16, dtype=["F32"]), entry(16, 32))),
    "duplicate-key": ("duplicate-key", [KEYS[0], "the key twice"], twice(entry(0, 16), entry(0, 16))),
    "duplicate-key-elsewhere": ("duplicate-key", [KEYS[0], "the key twice"], twice(entry(0, 16), entry(16, 32))),
    "duplicate-metadata": ("duplicate-key", ["a", "twice"], pack(b'{"__metadata__": {"a": "1", "a": "2"}}')),
    "metadata-number": ("bad-metadata", ["__metadata__.a", "text", "int"], pack({"__metadata__": {"a": 1}, **WHOLE})),
    "metadata-list": ("bad-metadata", ["__metadata__", "list"], pack({"__metadata__": ["a"], **WHOLE})),
    "metadata-2-MB": ("header-size", ["1000000"], pack({"__metadata__": {"a": "x" * 2_000_000}, **WHOLE})),
    "extra-field": ("bad-entry", [KEYS[0], "compression"], two(entry(0, 16, compression="zip"), entry(16, 32))),
    "missing-field": ("bad-entry", [KEYS[0], "dtype, shape"], pack({KEYS[0]: {"dtype": "F32", "shape": [2]}})),
    "entry-a-list": ("bad-entry", [KEYS[0], "list"], pack({KEYS[0]: [1, 2]})),
    "not-utf8": ("not-utf8", ["header", "byte at 10"], pack(b'{"\xff": 1}')),
    "nested-deep": ("bad-header", ["header", "JSON"], pack(b'{"a":' + b"[" * 200_000)),
    "nan-in-json": ("bad-header", ["header", "NaN"], pack(b'{"a": NaN}')),
    "endless-number": ("bad-header", ["header", "JSON"], pack(b'{"a": ' + b"9" * 5_000 + b"}")),
    "a-list": ("bad-header", ["header", "object", "list"], pack(b"[1, 2]")),
    "too-many-keys": (
        "too-many-keys",
        [str(MAX_KEYS), "5000"],
        pack({f"k{i}": entry(0, 0, (0,)) for i in range(5_000)}),
    ),
    "no-tensors": ("no-tensors", ["tensors", "none"], pack(b"{}")),
    "metadata-only": ("no-tensors", ["tensors", "none"], pack({"__metadata__": {"a": "b"}})),
    "path-in-key": ("illegal-key", ["../../x"], pack({"../../x": entry(0, 16)}, b"\0" * 16)),
    "escape-in-key": ("illegal-key", ["\\x1b[31m"], pack({"\x1b[31m": entry(0, 16)}, b"\0" * 16)),
    "newline-in-key": ("illegal-key", ["a\\nb"], pack({"a\nb": entry(0, 16)}, b"\0" * 16)),
    "nul-in-key": ("illegal-key", ["a\\x00b"], pack({"a\0b": entry(0, 16)}, b"\0" * 16)),
    "endless-key": ("illegal-key", ["at most 300", "5000 characters"], pack({"a" * 5_000: entry(0, 16)}, b"\0" * 16)),
}


def write(folder, content):
    path = folder / "file.safetensors"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("case", BAD)
def test_a_bad_container_is_refused_with_file_key_expected_and_actual(tmp_path, case):
    code, said, content = BAD[case]
    path = write(tmp_path, content)
    with pytest.raises(LoRAFileError) as error:
        read_header(path)
    message = str(error.value)
    assert error.value.code == code
    assert message.startswith(f"{path}: ")
    assert "expected" in message
    assert ", got " in message
    assert "Fix: " in message
    assert not [part for part in said if part not in message], message
    assert message.isprintable()
    # Reading the LoRA says the same, and inspecting it does not raise.
    with pytest.raises(LoRAFileError) as again:
        read_lora(path)
    assert str(again.value) == message
    assert [fault.code for fault in inspect_file(path).faults] == [code]


@pytest.mark.parametrize("spaces", [b"", b" ", b"       "])
def test_a_padded_header_is_accepted_as_writers_align_them(tmp_path, spaces):
    text = json.dumps({KEYS[0]: entry(0, 16)}).encode()
    entries, metadata = read_header(write(tmp_path, pack(spaces + text + spaces, b"\0" * 16)))
    assert (list(entries), metadata) == ([KEYS[0]], {})


def test_a_header_whose_length_looks_like_a_pickle_is_accepted(tmp_path):
    # 0x80 begins pickles, and safetensors files with a header of 128, 384, 640 … bytes.
    text = json.dumps({KEYS[0]: entry(0, 16)}).encode().ljust(0x80)
    content = pack(text, b"\0" * 16)
    assert content[0] == 0x80
    assert list(read_header(write(tmp_path, content))[0]) == [KEYS[0]]


@given(st.dictionaries(st.from_regex(r"[a-z_.]{1,9}", fullmatch=True), st.integers(0, 3), min_size=1, max_size=4))
def test_whatever_the_library_writes_is_accepted_with_its_entries(sizes):
    tensors = {k: torch.zeros(n, 3, dtype=torch.bfloat16) for k, n in sizes.items()}
    entries, metadata = parse_header(save(tensors, metadata={"a": "b"}))
    assert {k: (e["dtype"], e["shape"]) for k, e in entries.items()} == {k: ("BF16", [n, 3]) for k, n in sizes.items()}
    assert metadata == {"a": "b"}


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 7), st.integers(0, len(GOOD)))
def test_a_flipped_bit_or_a_cut_is_refused_or_leaves_a_whole_container(at, bit, end):
    broken = bytearray(GOOD)
    broken[at] ^= 1 << bit
    for content in (bytes(broken), GOOD[:end]):
        try:
            entries, _ = parse_header(content)
        except FaultyFileError:
            continue
        assert sum(e["data_offsets"][1] - e["data_offsets"][0] for e in entries.values()) == 32


def test_what_is_no_regular_file_is_refused_without_hanging(tmp_path):
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "loop.safetensors").symlink_to("loop.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    for name, code in {
        "pipe": "not-a-file", "loop": "unreadable", "folder": "not-a-file", "nothing": "not-found",
    }.items():  # fmt: skip
        path = tmp_path / f"{name}.safetensors"
        with pytest.raises(LoRAFileError, match=rf"{name}\.safetensors: file: expected .*, got ") as error:
            read_lora(path)
        assert error.value.code == code
    with pytest.raises(LoRAFileError, match="a pipe, socket or device"):
        read_lora("/dev/zero")


def test_a_huge_sparse_file_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "huge.safetensors"
    with path.open("wb") as file:
        file.truncate(200 * 2**30)
    with pytest.raises(LoRAFileError, match="at most 4096 MB, got 204800 MB"):
        read_lora(path)


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path, monkeypatch):
    path = write(tmp_path, GOOD)
    real = os.fstat
    monkeypatch.setattr(os, "fstat", lambda fd: (real(fd), path.write_bytes(GOOD + b"\0"))[0])
    with pytest.raises(LoRAFileError, match="a file at rest, got one that changed"):
        read_header(path)


@pytest.mark.parametrize("name", ["A.SAFETENSORS", "with spaces.safetensors", "ü ✓.safetensors", "x" * 255])
def test_any_file_name_will_do(tmp_path, name):
    (tmp_path / name).write_bytes(GOOD)
    assert len(read_header(tmp_path / name)[0]) == 2
