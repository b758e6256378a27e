"""The container, read strictly: what the library writes is accepted; test_corpus.py holds what is refused."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from lorasynth.storage.container import read_bytes
from lorasynth.storage.faults import FaultyFileError
from lorasynth.storage.header import parse_header

from ..lora.making import GOOD


@given(st.dictionaries(st.from_regex(r"[a-z_.]{1,9}", fullmatch=True), st.integers(0, 3), min_size=1, max_size=4))
def test_whatever_library_writes_is_accepted_with_its_entries(sizes):
    tensors = {k: torch.zeros(n, 3, dtype=torch.bfloat16) for k, n in sizes.items()}
    entries, metadata = parse_header(save(tensors, metadata={"a": "b"}))
    assert {k: (e["dtype"], e["shape"]) for k, e in entries.items()} == {k: ("BF16", [n, 3]) for k, n in sizes.items()}
    assert metadata == {"a": "b"}


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 7), st.integers(0, len(GOOD)))
def test_flipped_bit_or_cut_is_refused_or_leaves_whole_container(at, bit, end):
    broken = bytearray(GOOD)
    broken[at] ^= 1 << bit
    for content in (bytes(broken), GOOD[:end]):
        try:
            entries, _ = parse_header(content)
        except FaultyFileError:
            continue
        assert sum(e["data_offsets"][1] - e["data_offsets"][0] for e in entries.values()) == 32


def test_pipe_in_a_files_place_is_not_waited_for(tmp_path, monkeypatch):
    """Between the look at a path and its opening anything may happen: opening a pipe waits for a writer, for ever."""
    pipe, file = tmp_path / "x.safetensors", tmp_path / "y.safetensors"
    os.mkfifo(pipe)
    file.write_bytes(GOOD)
    monkeypatch.setattr(Path, "stat", lambda _: os.stat(file))
    with pytest.raises(FaultyFileError, match="expected a regular file, got a pipe"):
        read_bytes(pipe)
