"""The README's "Your own people, your own base": its five lines, run by a shell on a tiny base."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from lorasynth.drawn.export import export_people
from lorasynth.worlds.world import get_domain

from .tiny_pipelines import drawn, pipeline

PEOPLE, PHOTOS = 10, 4
README = (Path(__file__).parents[1] / "README.md").read_text()
SECTION = README.partition("## Your own people, your own base\n")[2].partition("\n## ")[0]
LINES = SECTION.partition("```bash\n")[2].partition("```")[0]
TINY = {"BASE": "base", "models/buffalo_l": "portraits", "sd15": "sd15_tiny"}
"""The words of the lines that stand for the reader's own: base, encoder, and the recipe, whose tiny one takes seconds."""


def with_tiny(lines):
    """The lines with the words of `TINY` replaced, and nothing else."""
    return re.sub(r"(?<=\s)\S+", lambda word: TINY.get(word[0], word[0]), lines)


@pytest.fixture
def place(tmp_path):
    """A folder with people/, a tiny base, me.jpg of somebody who is not in people/, and the program."""
    export_people(get_domain("portraits"), PEOPLE + 1, PHOTOS, tmp_path / "people", report=lambda _: None)
    me = max(path for path in (tmp_path / "people").iterdir() if path.is_dir())
    Image.open(me / "00.png").save(tmp_path / "me.jpg", quality=95)
    shutil.rmtree(me)
    table = tmp_path / "people" / "metadata.jsonl"
    kept = [line for line in table.read_text().splitlines(keepends=True) if json.loads(line)["subject"] != me.name]
    table.write_text("".join(kept))
    pipeline("sd15").save_pretrained(tmp_path / "base")
    program = tmp_path / "bin" / "lorasynth"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m lorasynth "$@"\n')
    program.chmod(0o755)
    return tmp_path


def test_five_lines_are_shown_and_each_word_of_reader_is_in_them():
    words = [line.split() for line in LINES.splitlines()]
    assert [line[:2] for line in words] == [["lorasynth", v] for v in ("data", "zoo", "train", "synthesize", "render")]
    assert TINY.keys() <= {word for line in words for word in line}
    assert "people/" in LINES.split()


@pytest.mark.slow
@pytest.mark.integration
def test_lines_make_a_lora_that_plain_diffusers_draws_with(place):
    environment = {**os.environ, "PATH": f"{place / 'bin'}:{os.environ['PATH']}"}
    command = ["bash", "-euc", with_tiny(LINES)]
    ran = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=800)
    assert ran.returncode == 0, ran.stderr[-2_000:]
    assert (place / "check.html").stat().st_size > 1_000
    low, high = Image.open(place / "me.png").convert("L").getextrema()
    assert low < high
    pipe = pipeline("sd15")

    plain = drawn(pipe)
    pipe.load_lora_weights(place, weight_name="me.safetensors")
    assert (drawn(pipe) - plain).abs().max() > 1e-4
