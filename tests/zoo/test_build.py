"""How many people are trained at once: a zoo keeps the number that it was begun with, wherever that came from."""

from dataclasses import replace

import pytest
from typer.testing import CliRunner

from lorasynth.cli.app import app
from lorasynth.errors import UsageError, ZooError
from lorasynth.recipes import get_recipe
from lorasynth.zoo import calibration
from lorasynth.zoo.adapt import AdaptConfig
from lorasynth.zoo.build import build_zoo
from lorasynth.zoo.calibration import Calibration
from lorasynth.zoo.config import MEASURED, ZooConfig
from lorasynth.zoo.store import Zoo


@pytest.fixture
def config():
    still = AdaptConfig(steps=1, batch_size=1)
    return ZooConfig(
        people=3, validation_people=1, photos=1, embedding_photos=2, bank=MEASURED, pilot_people=2, pilot_rounds=1, rank=1,
        pilot=replace(still, lora_A="shared"), adapt=still,
    )  # fmt: skip


@pytest.fixture
def clock(monkeypatch):
    """What calibrations find, one after the other; the budgets that they were given."""
    found, budgets = [], []

    def calibrate(*_, sample_budget):
        budgets.append(sample_budget)
        n = found.pop(0)
        return Calibration(places=n, seconds={1: 0.004, n: 0.001})

    monkeypatch.setattr(calibration, "calibrate", calibrate)
    return found, budgets


@pytest.mark.slow
def test_measured_number_is_measured_once_and_kept(tmp_path, config, clock):
    found, budgets = clock
    found.append(2)
    said, folder = [], str(tmp_path / "zoo")
    zoo = build_zoo(config, folder, report=said.append)
    assert zoo.recipe["bank"] == 2
    assert said[0] == "people at once: 2 (milliseconds of a LoRA's step by people at once: 1: 4.0, 2: 1.0)"
    assert [sum(item.shard == shard for item in zoo.items) for shard in {i.shard for i in zoo.items}] == [2, 2]
    # Who goes on, and who comes late, takes the zoo's; nothing is left to calibrate with.
    assert len(build_zoo(replace(config, people=5), folder, report=None)) == 6
    assert build_zoo(replace(config, bank=2), folder, report=None).recipe["bank"] == 2
    with pytest.raises(ZooError, match=r"another recipe \(\['bank'\]\)"):
        build_zoo(replace(config, bank=3), folder, report=None)
    assert budgets == [256]


@pytest.mark.slow
def test_measurement_itself_gives_a_number_within_the_budget(tmp_path, config, monkeypatch):
    monkeypatch.setitem(calibration._BUDGET, "cpu", 2)
    zoo = build_zoo(config, str(tmp_path / "zoo"), report=None)
    assert zoo.recipe["bank"] in (1, 2)


@pytest.mark.slow
def test_verb_takes_a_number_or_auto(tmp_path, config, clock, monkeypatch):
    recipe = replace(get_recipe("portraits_tiny"), zoo=replace(config, bank=4))
    monkeypatch.setattr("lorasynth.recipes.get_recipe", lambda name: recipe)
    clock[0].append(2)

    def run(folder, *options):
        result = CliRunner().invoke(app, ["zoo", "build", "portraits_tiny", "--out", str(tmp_path / folder), *options])
        if result.exception:
            raise result.exception
        return Zoo.open(tmp_path / folder).recipe["bank"]

    assert run("plain") == 4
    assert run("given", "--bank", "3") == 3
    assert run("measured", "--bank", "auto") == 2
    assert run("measured") == 2  # without the option the zoo's own number, not the recipe's
    with pytest.raises(ZooError, match="another recipe"):
        run("measured", "--bank", "4")
    for wrong in ("0", "-1", "many", "1.5", "100001"):
        with pytest.raises(UsageError, match=f"expected --bank auto or a number from 1 to 100000, got '{wrong}'"):
            run("wrong", "--bank", wrong)
    assert not (tmp_path / "wrong").exists()
