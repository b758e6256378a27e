"""Estimates follow from what was measured, recipes fit into 80 GB by them, and the page says the same."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from lorasynth.lora import bases
from lorasynth.recipes import get_recipe
from lorasynth.recipes.estimate import SHAPES, estimate, estimates

PERFORMANCE = (Path(__file__).parents[2] / "docs" / "results" / "performance.md").read_text()


def test_measured_step_is_given_back():
    """32 LoRAs of one picture each: 107.0 steps a second and 38.5 GB beside the UNet alone, on an H100."""
    recipe = get_recipe("sd15")
    zoo = replace(
        recipe.zoo, bank=32, pilot_rounds=0, pilot_people=1, adapt=replace(recipe.zoo.adapt, batch_size=1, steps=1)
    )
    found = estimate(replace(recipe, zoo=zoo), loras=32_000)
    assert found.zoo_hours * 3_600 == pytest.approx(32_000 / 107.0, rel=0.05)
    text_encoder_and_vae = 0.123 * 2 + 0.34
    assert found.memory_gb == pytest.approx(38.5 + text_encoder_and_vae, rel=0.02)


@pytest.mark.parametrize("family", SHAPES)
def test_parameters_are_those_of_the_true_shape(family):
    """By the tables of modules, which leave out norms, biases and embeddings."""
    weights = sum(inputs * outputs for inputs, outputs, _ in bases.of(family)[0].modules.values())
    assert weights / 1e6 == pytest.approx(SHAPES[family].denoiser_M, rel=0.01)


@pytest.mark.parametrize("family", SHAPES)
def test_recipe_fits_with_gradient_checkpointing(family):
    assert estimate(get_recipe(family)).fits


def test_page_says_the_estimates():
    rows = re.findall(
        r"^\| `(\w+)` \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) GB \| ([\d.]+) GB \|", PERFORMANCE, re.MULTILINE
    )
    said = {name: [float(value) for value in values] for name, *values in rows}
    assert said == {name: list(values.values()) for name, values in estimates().items()}


def test_recipes_of_shipped_models_draw_as_these_were_trained():
    """Recipes made later draw fewer steps, by `benchmarks/through_base.py`."""
    for name, steps in {"portraits": 10, "portraits128": 4, "portraits128_gpu": 6, "sd15": 6, "sdxl": 6}.items():
        assert get_recipe(name).end_to_end.through.drawing_steps == steps, name
