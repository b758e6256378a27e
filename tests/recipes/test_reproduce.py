"""From nothing to scores in one go, every stage for a few steps; and what is there is not made again."""

import io
import json
import os
import subprocess
import sys
import tarfile

import pytest

from lorasynth.encoders.images import to_image
from lorasynth.lora.factors import LoRA
from lorasynth.prior import BASELINES
from lorasynth.recipes.packing import pack
from lorasynth.worlds.world import get_domain


def reproduce(recipe, folder):
    command = [sys.executable, "-m", "lorasynth.recipes.reproduce", "--recipe", recipe, "--run-dir", folder]
    result = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:]


def test_kept_parts_are_an_archive_of_what_is_worth_keeping(tmp_path, monkeypatch):
    monkeypatch.setattr("lorasynth.recipes.packing._PART", 4_096)
    run, kept = tmp_path / "run", tmp_path / "kept"
    contents = {
        "portraits128/reader.safetensors": b"r" * 9_000, "portraits128/vae/config.json": b"{}", "scores.json": b"[]",
        "portraits128/base/unet/config.json": b"{ }", "fit/synthesizer/priors/a.safetensors": b"a",
    }  # fmt: skip
    left = {"zoo/zoo.json": b"{}", "portraits128/run-base/config.json": b"{}", "portraits128/pool.npy": b"p"}
    for name, content in (contents | left).items():
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_bytes(content)
    kept.mkdir()
    (kept / "kept.tar.99").write_bytes(b"of an earlier, longer one")
    pack(run, kept)
    parts = sorted(kept.iterdir())
    assert len(parts) > 2
    assert all(part.stat().st_size <= 4_096 for part in parts)
    with tarfile.open(fileobj=io.BytesIO(b"".join(part.read_bytes() for part in parts))) as archive:
        assert {name: archive.extractfile(name).read() for name in archive.getnames()} == contents


def test_nothing_is_kept_where_no_folder_is_named(tmp_path):
    pack(tmp_path, None)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_everything_is_made_from_nothing_and_only_once(tmp_path):
    reproduce("portraits_tiny", tmp_path)
    for name in ("encoder.safetensors", "recogniser.safetensors", "base/model_index.json"):
        assert (tmp_path / "portraits" / name).is_file()
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert set(scores["methods"]) == {
        "real",
        "fine_tuned",
        "fine_tuned_one_photo",
        "base",
        "adalora",
        "adanorm",
        *BASELINES,
    }
    assert scores["people"] == 2
    assert {"adalora", "nearest"} <= set(scores["memorisation"]["methods"])
    assert "zero-shot, ADALoRA" in (tmp_path / "scores.html").read_text()
    beside, trained = tmp_path / "portraits" / "synthesizer", tmp_path / "fit" / "synthesizer"
    assert (beside / "prior.safetensors").read_bytes() == (trained / "prior.safetensors").read_bytes()
    made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    assert len(made) > 20
    scores_at = (tmp_path / "scores.json").stat().st_mtime_ns
    reproduce("portraits_tiny", tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")} == made
    assert (tmp_path / "scores.json").stat().st_mtime_ns == scores_at


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("world", ["emblems", "brushes", "portraits128"])
def test_other_worlds_go_the_same_way(world, tmp_path):
    reproduce(f"{world}_tiny", tmp_path)
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert set(scores["methods"]) == {
        "real",
        "fine_tuned",
        "fine_tuned_one_photo",
        "base",
        "adalora",
        "adanorm",
        *BASELINES,
    }
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
