"""Settings of a zoo as a file: what is written is read, and anything else is refused with what to do."""

import json
from dataclasses import replace

import pytest

from lorasynth.errors import LorasynthError
from lorasynth.recipes import get_zoo_config
from lorasynth.zoo.config import zoo_recipe
from lorasynth.zoo.settings import ZooSettings, read_settings

CONFIG = get_zoo_config("portraits")
FOUND = ZooSettings(steps=90, learning_rate=0.15, adam_epsilon=2e-4, rank=2, targets=("attn1.to_v",))
GOOD = {"format": 1, "family": "portraits", **FOUND.to_dict()}


def test_settings_of_a_recipe_change_nothing_of_it():
    assert ZooSettings.of(CONFIG).applied(CONFIG) == CONFIG
    assert "targets" not in zoo_recipe(CONFIG)


def test_settings_are_read_as_they_were_written(tmp_path):
    FOUND.write(tmp_path / "settings.json", "portraits")
    assert read_settings(tmp_path / "settings.json", "portraits") == FOUND
    assert json.loads((tmp_path / "settings.json").read_text()) == GOOD


def test_pilot_of_a_zoo_changes_in_proportion():
    config = FOUND.applied(CONFIG)
    assert (config.adapt.steps, config.adapt.learning_rate, config.adapt.adam_epsilon) == (90, 0.15, 2e-4)
    assert (config.pilot.steps, config.pilot.learning_rate, config.pilot.adam_epsilon) == (120, 0.12, 2e-4)
    assert (config.rank, config.targets, config.adapt.strength) == (2, ("attn1.to_v",), CONFIG.adapt.strength)
    assert zoo_recipe(config)["targets"] == ["attn1.to_v"]
    assert json.loads(json.dumps(zoo_recipe(config))) == zoo_recipe(config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps: expected a whole number from 1 to 1000000, got 0"),
        ({"steps": True}, "steps: expected a whole number from 1 to 1000000, got True"),
        ({"learning_rate": "0.1"}, "learning_rate: expected a number from"),
        ({"learning_rate": -1}, "learning_rate: expected a number from"),
        ({"rank": 1.5}, "rank: expected a whole number from 1 to 256, got 1.5"),
        ({"targets": "to_q"}, "targets: expected a list"),
        ({"targets": ["to q"]}, "expected the end of a module's name"),
        ({"format": 2}, "format: expected 1, got 2"),
        ({"strength": 2}, "expected fields among"),
        ({"adam_epsilon": None}, "adam_epsilon: expected a number from"),
        ({"family": "sdxl"}, "expected settings for a base of family 'portraits', got 'sdxl'"),
    ],
)
def test_wrong_settings_are_refused(change, message, tmp_path):
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(GOOD | change))
    with pytest.raises(LorasynthError) as caught:
        read_settings(path, "portraits")
    assert message in str(caught.value)
    assert "zoo pilot" in str(caught.value)


@pytest.mark.parametrize("missing", sorted(set(GOOD) - {"format"}))
def test_missing_setting_is_refused(missing, tmp_path):
    path = tmp_path / "settings.json"
    path.write_text(json.dumps({name: value for name, value in GOOD.items() if name != missing}))
    with pytest.raises(LorasynthError, match=f"{missing}: expected a value, got nothing; give the settings.json"):
        read_settings(path, "portraits")


def test_what_is_no_json_is_refused(tmp_path):
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(LorasynthError, match="expected JSON"):
        read_settings(tmp_path / "settings.json", "")
    with pytest.raises(LorasynthError, match="not found"):
        read_settings(tmp_path / "nothing.json", "")


def test_steps_of_a_zoo_are_never_none():
    short = replace(CONFIG, pilot=replace(CONFIG.pilot, steps=2), adapt=replace(CONFIG.adapt, steps=45))
    assert replace(ZooSettings.of(short), steps=1).applied(short).pilot.steps == 1
