"""`lorasynth demo`: the main job, and its report."""

import json

import pytest
from PIL import Image

from lorasynth.demo import OUTPUTS, check_person, run_demo
from lorasynth.errors import OutputExistsError, UsageError

from .making import real_synthesizer


@pytest.mark.integration
def test_folder_of_the_worlds_name_is_not_taken_for_the_default(tmp_path, monkeypatch):
    (tmp_path / "portraits").mkdir()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "photo.png").touch()
    with pytest.raises(OutputExistsError, match="give --force"):  # said after the model is read
        run_demo(tmp_path / "demo")


@pytest.mark.integration
@pytest.mark.slow
def test_demo_brings_an_unseen_person_back(tmp_path):
    record = run_demo(tmp_path / "demo", person=7, report=lambda _: None)
    assert {p.name for p in (tmp_path / "demo").iterdir()} == set(OUTPUTS)
    assert json.loads((tmp_path / "demo" / "report.json").read_text()) == record
    for score in ("similarity", "similarity2"):
        s = record[score]
        assert s["base"] < 0.3
        assert s["zero_shot"] > s["base"] + 0.25
        assert s["real"] > s["zero_shot"]
        assert s["fine_tuned_one_photo"] > s["base"] + 0.25
    assert set(record["seconds"]) == {"synthesize", "fine_tuned_one_photo", "fine_tuned", "render"}
    with Image.open(tmp_path / "demo" / "report.png") as image:
        assert image.size[0] > 400
    with pytest.raises(OutputExistsError, match="give --force"):
        run_demo(tmp_path / "demo", person=7)


def test_model_of_a_real_base_is_refused_and_nothing_is_written(tmp_path):
    real_synthesizer({"kind": "unknown", "name": "unknown", "dim": 512}).save_pretrained(tmp_path / "model")
    with pytest.raises(UsageError, match="expected a synthesizer of a drawn world, got one of"):
        run_demo(tmp_path / "demo", tmp_path / "model")
    assert not (tmp_path / "demo").exists()


def test_people_whom_training_has_seen_are_refused():
    check_person(9999, allow_seen=False)
    with pytest.raises(UsageError, match="belongs to the zoo people"):
        check_person(100_000, allow_seen=False)
    check_person(100_000, allow_seen=True)
    with pytest.raises(UsageError, match="expected a person number from 0"):
        check_person(-1, allow_seen=False)
