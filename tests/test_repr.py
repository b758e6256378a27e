"""What a notebook prints of our objects: a line that says which one it is, and none of its numbers."""

import pytest

from lorasynth import LoRA, Synthesizer
from lorasynth.zoo.store import Zoo


@pytest.fixture(scope="module")
def model():
    return Synthesizer.from_pretrained()


@pytest.fixture(scope="module")
def lora(model):
    return LoRA.random(model.canonicalizer.layout, seed=0)


def test_synthesizer_says_its_base_and_priors(model):
    assert repr(model).startswith("Synthesizer('portraits128', priors adalora, adanorm, ")
    assert repr(model).endswith(", default 'adalora')")


def test_lora_says_its_layout(lora):
    assert repr(lora) == "LoRA(Layout('portraits128', 28 modules, 41,472 numbers))"


def test_zoo_says_where_it_is_and_how_large(lora, tmp_path):
    zoo = Zoo.create(tmp_path / "zoo", lora.layout, {}, None)
    assert repr(zoo) == f"Zoo('{tmp_path / 'zoo'}', 0 LoRAs, {lora.layout!r})"


def test_no_object_of_a_world_is_longer_than_a_line(model):
    world = model.encoder.world
    for thing in (model, model.canonicalizer, world, world.base, world.base.schedule, model.encoder):
        assert len(repr(thing)) < 200, type(thing)
        assert "\n" not in repr(thing)


def test_schedule_says_sampler_and_prediction(model):
    schedule = model.encoder.world.base.schedule
    assert repr(schedule) == "Schedule(DDIMScheduler, 'v_prediction', 1000 levels)"
    assert len(schedule.time) == len(schedule.alpha) == 1000
