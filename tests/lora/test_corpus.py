"""Every known way in which a LoRA file is bad, through the gate and the command line: file, key, expected, actual, no more."""

import json
import os
import sys
import warnings

import pytest
import torch
from safetensors.torch import save

from lorasynth.cli import main
from lorasynth.errors import LayoutError, LoRAFileError
from lorasynth.lora.factors import LoRA
from lorasynth.lora.gate import inspect_file, read_lora, read_lora_bytes
from lorasynth.lora.layout import Layout, Module
from lorasynth.storage.container import read_bytes, read_header
from lorasynth.storage.faults import shown

from .corpus import ACCEPTED, CONTAINER, CONTENT
from .making import DOWN, DOWN_K, GOOD, KOHYA_K, UP, UP_K, K, Q, kohya, kohya_but, new_style, numbers, pair_of, write


def listing(folder):
    """All that is there, and whether it was touched."""
    return {path: (s := path.lstat(), s.st_size, s.st_mtime_ns, s.st_mode)[1:] for path in folder.rglob("*")}


@pytest.fixture
def inspect(monkeypatch, capsys):
    """Function from a path to exit code, standard output and error of ``lorasynth inspect``."""

    def run(path):
        for name in ("TOKENIZERS_PARALLELISM", "TRANSFORMERS_VERBOSITY", "DIFFUSERS_VERBOSITY"):
            monkeypatch.setenv(name, os.environ.get(name, "false" if name[:3] == "TOK" else "error"))
        monkeypatch.setattr(sys, "argv", ["lorasynth", "inspect", str(path)])
        with pytest.raises(SystemExit, match=r"^[02]$") as exit, warnings.catch_warnings():
            main()
        said = capsys.readouterr()
        return exit.value.code, said.out, said.err

    return run


@pytest.mark.parametrize("row", CONTAINER + CONTENT, ids=lambda row: f"{row.number}-{row.slug}")
@pytest.mark.slow
def test_bad_file_is_refused_with_file_key_expected_and_actual(tmp_path, inspect, row):
    path = row.write(tmp_path)
    before = listing(tmp_path)
    with pytest.raises(LoRAFileError, match="expected") as error:
        LoRA.load(path)
    message, fault = str(error.value), error.value.fault
    assert error.value.code == fault.code == row.code, message
    assert message.startswith(
        f"{shown(path)}: {fault.key}: expected {fault.expected}, got {fault.actual}. Fix: {fault.fix}"
    )
    assert all((fault.key, fault.expected, fault.actual, fault.fix))
    assert row.key == fault.key if row.key in ("file", "header") else row.key in fault.key
    assert not [words for words in row.says if words not in message], message
    assert message.isprintable()
    # To inspect it does not raise, and says the same.
    seen = inspect_file(path)
    assert not seen.ok
    assert row.code in [fault.code for fault in seen.faults]
    json.dumps(seen.to_dict(), allow_nan=False, ensure_ascii=False).encode()
    # The command line says it on one line, and lists all faults as JSON.
    code, out, err = inspect(path)
    assert (code, err) == (2, f"lorasynth: {message}\n")
    assert json.loads(out) == seen.to_dict()
    assert listing(tmp_path) == before


@pytest.mark.parametrize("row", CONTAINER, ids=lambda row: f"{row.number}-{row.slug}")
def test_header_alone_is_refused_for_the_same_reason(tmp_path, row):
    path = row.write(tmp_path)
    if not os.path.isdir(path) and row.code != "unreadable":  # a path that no file can be at
        with pytest.raises(LoRAFileError, match="expected") as error:
            read_header(path)
        assert error.value.code == row.code


@pytest.mark.parametrize("row", ACCEPTED, ids=lambda row: f"{row.number}-{row.slug}")
@pytest.mark.slow
def test_what_is_odd_but_legal_is_accepted_with_right_numbers(tmp_path, inspect, row):
    path = row.write(tmp_path)
    before = listing(tmp_path)
    lora, seen = LoRA.load(path), inspect_file(path)
    # The small LoRAs of the corpus are of no known base, which is said as well.
    assert ([code for fault in seen.faults if (code := fault.code) != "base-unknown"], seen.ok) == (row.notes, True)
    assert not seen.base
    halves = {Q: (kohya()[DOWN], kohya()[UP]), K: (kohya()[DOWN_K], kohya()[UP_K])}
    assert set(seen.modules) == set(row.updates)
    for name, times in row.updates.items():
        A, B = halves[name]
        torch.testing.assert_close(
            lora.delta_W(name), times * (B @ A), rtol=1e-5, atol=0 if times == 0 else 1e-5 * times
        )
    code, out, err = inspect(path)
    assert (code, err) == (0, "")
    assert json.loads(out) == seen.to_dict()
    assert out.replace("\n", "").isprintable()
    assert listing(tmp_path) == before


def layout_of(rank=2):
    return Layout(
        base="sd15",
        modules=tuple(Module(name=n, in_features=i, out_features=6, rank=rank) for n, i in ((Q, 8), (K, 4))),
    )


def one_of(name, width, out):
    return Layout(base="sd15", modules=(Module(name=name, in_features=width, out_features=out, rank=2),))


K_1 = K.replace("0", "1", 1)  # SDXL's first block has no attention


@pytest.mark.parametrize(
    ("number", "says", "layout", "tensors", "metadata"),
    [
        (41, ["the 2 modules", "got 1", f"{K} is missing"], layout_of(), new_style(), {}),
        (43, [f"{Q} is 8 -> 6 rank 1", "rank 2"], layout_of(), kohya_but(down=numbers(1, 8), up=numbers(6, 1)), {}),
        (44, ["rank 2, expected", "rank 1"], layout_of(rank=1), kohya(), {}),
        (48, ["perhaps sd2", f"{K} is 1024 -> 320", "expected 768 -> 320"], one_of(K, 768, 320), pair_of(KOHYA_K, 1024, 320), {}),
        (49, ["perhaps sdxl", f"{K_1} is 2048 -> 640", "expected 768 -> 640"], one_of(K_1, 768, 640),
         pair_of(KOHYA_K.replace("0", "1", 1), 2048, 640), {}),
        (80, ["base is 'other', expected 'sd15'"], layout_of(), kohya(), {"lorasynth.base": "other"}),
    ],
    ids=lambda value: str(value) if isinstance(value, int) else "",
)  # fmt: skip
def test_sound_file_of_another_layout_is_refused_with_difference(tmp_path, number, says, layout, tensors, metadata):
    path = write(tmp_path, save({k: v.contiguous() for k, v in tensors.items()}, metadata))
    assert inspect_file(path).ok
    with pytest.raises(
        LayoutError, match=r"file\.safetensors: expected the \d modules of layout 'sd15', got "
    ) as error:
        LoRA.load(path, layout)
    assert not [words for words in says if words not in str(error.value)], str(error.value)
    assert str(error.value).isprintable()


def test_file_that_may_not_be_read_is_named_with_owner_and_mode(tmp_path, inspect, monkeypatch):  # row 34
    path = write(tmp_path, GOOD)
    path.chmod(0o000)

    opened = os.open

    def denied(file, *rest, **named):
        if file == path:
            raise PermissionError(13, "Permission denied")  # as root one may read all
        return opened(file, *rest, **named)

    monkeypatch.setattr(os, "open", denied)
    code, _, err = inspect(path)
    assert code == 2
    assert (
        f"file.safetensors: file: expected a readable file, got Permission denied (owner {os.getuid()}, mode 000)"
        in err
    )


def test_file_that_changes_while_it_is_read_is_refused(tmp_path, monkeypatch):  # row 35
    path = write(tmp_path, GOOD)
    real = os.fstat
    monkeypatch.setattr(os, "fstat", lambda fd: (real(fd), path.write_bytes(GOOD + b"\0"))[0])
    with pytest.raises(LoRAFileError, match="a file at rest, got one that changed"):
        read_lora(path)


def test_name_with_a_nul_is_not_found():
    with pytest.raises(LoRAFileError, match=r"a\\x00b: file: expected a LoRA file, got nothing there"):
        LoRA.load("a\0b")


def test_bytes_are_read_as_the_file_that_they_came_from(tmp_path):
    for row in [*CONTAINER, *CONTENT]:
        if isinstance(row.make, bytes):
            with pytest.raises(LoRAFileError, match=r"^upload: ") as error:
                read_lora_bytes(row.make, "upload")
            assert error.value.code == row.code
    path = write(tmp_path, save(kohya()))
    pairs, _, seen = read_lora_bytes(read_bytes(path), str(path))
    assert seen == read_lora(path)[2]
    assert all(
        torch.equal(part, other) for k in pairs for part, other in zip(pairs[k], read_lora(path)[0][k], strict=True)
    )


@pytest.mark.slow
def test_header_of_many_patterns_and_modules_takes_no_time():
    """All patterns times all modules would be 40 million; the whole test has five minutes, the fuzzer a second a file."""
    from lorasynth.lora.scaling import scaled_by

    pairs = {f"blocks.{i}.attn1.to_q": (numbers(1, 2).numpy(), numbers(2, 1).numpy()) for i in range(2_000)}
    patterns = {f"blocks.{i}.attn9": 1 for i in range(20_000)} | {"blocks.7.attn1.to_q": 2, "to_q": 1}
    stored = scaled_by(pairs, {"r": 1, "lora_alpha": 3, "alpha_pattern": patterns}, "metadata")
    assert (stored["blocks.7.attn1.to_q"].scaling, stored["blocks.8.attn1.to_q"].scaling) == (2, 1)
