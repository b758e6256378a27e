"""From nothing to scores in one go, every stage for a few steps; and what is there is not made again."""

import json
import os
import subprocess
import sys

import pytest

from lorasynth.encoders.images import to_image
from lorasynth.lora.factors import LoRA
from lorasynth.prior import BASELINES
from lorasynth.worlds.world import get_domain


def reproduce(recipe, folder):
    command = [sys.executable, "-m", "lorasynth.recipes.reproduce", "--recipe", recipe, "--run-dir", folder]
    result = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_everything_is_made_from_nothing_and_only_once(tmp_path):
    reproduce("portraits_tiny", tmp_path)
    for name in ("encoder.safetensors", "recogniser.safetensors", "base/model_index.json"):
        assert (tmp_path / "portraits" / name).is_file()
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert set(scores["methods"]) == {"real", "fine_tuned", "base", "adalora", "adanorm", *BASELINES}
    assert scores["people"] == 2
    assert {"adalora", "nearest"} <= set(scores["memorisation"]["methods"])
    assert "zero-shot, ADALoRA" in (tmp_path / "scores.html").read_text()
    made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    assert len(made) > 20
    scores_at = (tmp_path / "scores.json").stat().st_mtime_ns
    reproduce("portraits_tiny", tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")} == made
    assert (tmp_path / "scores.json").stat().st_mtime_ns == scores_at


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("world", ["emblems", "brushes"])
def test_other_worlds_go_the_same_way(world, tmp_path):
    reproduce(f"{world}_tiny", tmp_path)
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert set(scores["methods"]) == {"real", "fine_tuned", "base", "adalora", "adanorm", *BASELINES}
    assert scores["prompts"] == list(get_domain(world).prompts)
    assert len(scores["methods"]["adalora"]["obeyed"]) >= 2
    card = (tmp_path / "fit" / "synthesizer" / "README.md").read_text()
    assert get_domain(world).about in card
    # The folder is a synthesizer like any other: its own world's encoder, guard and words.
    photo, lora = tmp_path / "photo.png", tmp_path / "lora.safetensors"
    to_image(get_domain(world).photos([3], [0], 128)[0]).save(photo)
    command = ["synthesize", photo, "--model", tmp_path / "fit" / "synthesizer", "--consent", "synthetic", "-o", lora]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "LORASYNTH_ASSETS": str(tmp_path)}
    subprocess.run([sys.executable, "-m", "lorasynth", *command], check=True, env=environment)
    assert LoRA.load(lora).metadata["modelspec.trigger_phrase"] == get_domain(world).subject
