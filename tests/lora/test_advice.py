"""What a refusal tells people to do is true, and makes nothing worse."""

import re

import pytest
from safetensors import SafetensorError
from safetensors.torch import load, save

from lorasynth.errors import LoRAFileError
from lorasynth.lora.gate import inspect_file, read_lora

from .corpus import ACCEPTED, CONTAINER, CONTENT, TEXT_KEY
from .making import kohya, numbers, write


def is_whole(path):
    """Whether the library reads it: then it is not damaged."""
    try:
        return bool(load(path.read_bytes())) or True
    except (SafetensorError, OSError, ValueError):
        return False


@pytest.mark.parametrize("row", [*CONTAINER, *CONTENT], ids=lambda row: f"{row.number}-{row.slug}")
def test_advice_removes_nothing_and_calls_nothing_whole_damaged(tmp_path, row):
    path = row.write(tmp_path)
    fixes = [fault.fix for fault in inspect_file(path).faults]
    assert fixes
    for fix in fixes:
        # What nobody reads may carry weights or a scale all the same.
        assert not re.search(r"\b(remove|delete|drop|strip|leave out)\b", fix), fix
        assert "damaged" not in fix or not path.is_file() or not is_whole(path), fix


@pytest.mark.parametrize("row", ACCEPTED, ids=lambda row: f"{row.number}-{row.slug}")
def test_notes_ask_for_nothing_where_nothing_is_wrong(tmp_path, row):
    for fault in inspect_file(row.write(tmp_path)).faults:
        assert not re.search(r"\b(remove|damaged|again)\b", fault.fix), fault.fix


def test_option_is_named_only_where_it_helps(tmp_path):
    """--unet-only leaves the text encoder out: of a LoRA of nothing else, nothing would remain."""
    alone = {TEXT_KEY: numbers(2, 8), TEXT_KEY.replace("down", "up"): numbers(6, 2)}
    with pytest.raises(LoRAFileError, match="text encoder") as error:
        read_lora(write(tmp_path, save(alone)))
    assert "--unet-only" not in str(error.value)
    with pytest.raises(LoRAFileError, match="--unet-only"):
        read_lora(write(tmp_path, save(kohya() | alone)))
