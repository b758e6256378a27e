"""From nothing to scores in one go, every stage for a few steps; and what is there is not made again."""

import json
import os
import subprocess
import sys

import pytest

from lorasynth.prior import BASELINES


def reproduce(folder):
    command = [sys.executable, "-m", "lorasynth.recipes.reproduce", "--recipe", "portraits_tiny", "--run-dir", folder]
    result = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_everything_is_made_from_nothing_and_only_once(tmp_path):
    reproduce(tmp_path)
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
    reproduce(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")} == made
    assert (tmp_path / "scores.json").stat().st_mtime_ns == scores_at
