"""The tables of known base models against diffusers' own models, its converters, and each other."""

import itertools
import json

import pytest
import torch

from lorasynth.lora import base_models, base_names, base_tables, bases
from lorasynth.lora.layout import Layout
from lorasynth.lora.presets import PRESETS

pytestmark = pytest.mark.filterwarnings("ignore:.*FluxPosEmbed:FutureWarning")  # diffusers' own, as Chroma is built
VARIANTS = {variant.name: variant for variant in bases.variants()}


def test_tables_cover_the_models_that_can_be_built():
    assert {(v.base, v.name) for v in bases.variants()} == {
        (b, v) for b, made in base_models.MODELS.items() for v in made
    }


@pytest.mark.parametrize("name", VARIANTS)
def test_table_is_the_library_model(name):
    """Every layer that a LoRA can adapt, in its shape, as diffusers builds the model."""
    variant = VARIANTS[name]
    model = base_models.MODELS[variant.base][name]()
    assert base_models.shapes_of(model) == variant.modules


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_other_names_are_the_library_converter_s(name):
    variant = VARIANTS[name]
    assert base_names.table_of(variant.base, name) == (variant.modules, variant.layers)


@pytest.mark.parametrize("name", VARIANTS)
def test_no_name_means_two_modules(name):
    """Underscores for dots lose nothing: of two modules, or fused layers, never both have one flat name."""
    variant = VARIANTS[name]
    dotted = [*variant.modules, *variant.layers]
    assert len({key.replace(".", "_") for key in dotted}) == len(set(dotted))
    for parts in variant.spelled.values():
        rows = sorted(ends for _, ranges in parts for ends in ranges)
        assert rows[0][0] == 0  # without a hole and without an overlap
        assert all(last == first for (_, last), (first, _) in itertools.pairwise(rows))


def test_tables_are_stored_as_they_are_made():
    stored = json.loads(bases.PATH.read_text())
    assert base_tables.text_of(stored) == bases.PATH.read_text()
    rows = {name: [*shape[:2], *(shape[2] or ())] for name, shape in VARIANTS["sdxl"].modules.items()}
    assert base_tables.compressed(rows) == stored["sdxl"]["sdxl"]["modules"]


@pytest.mark.parametrize("preset", PRESETS)
def test_preset_is_the_layout_that_peft_gives_the_model(preset):
    layout = Layout.preset(preset, 2)
    model = next(iter(base_models.MODELS[layout.base].values()))()
    targets = [m.name for m in layout.modules]
    assert Layout.from_model(model, targets, 2, base=layout.base) == layout
    assert bases.takes(layout.base, layout.shapes)
    assert torch.tensor([m.rank for m in layout.modules]).eq(2).all()


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("down_blocks_9_attentions_11_proj_out", "down_blocks.9.attentions.11.proj_out"),
        ("up_blocks.7.resnets.4.time_emb_proj", "up_blocks.7.resnets.4.time_emb_proj"),
        ("mid_block_resnets_1_conv2", "mid_block.resnets.1.conv2"),
        ("input_blocks_4_1_proj_in", "down_blocks.1.attentions.0.proj_in"),
        ("down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q_", ""),
        ("blocks_0_self_attn_q", ""),
    ],
)  # fmt: skip
def test_names_of_any_unet_are_known_by_their_grammar(spelling, name):
    assert bases.unet_name(spelling) == name


@pytest.mark.parametrize("name", [name for name, variant in VARIANTS.items() if not variant.is_unet])
def test_transformers_table_stays_closed_for_modules_of_a_unet(name):
    known = VARIANTS[name]
    fresh = bases.Variant(known.base, known.name, known.rows)
    unet = bases.of("sd15")[0].modules
    assert not fresh.takes(unet)
    assert not fresh.is_unet
    assert "modules" not in vars(fresh)  # no name of its thousands was written out
    assert fresh.takes(fresh.modules)


def test_unets_are_those_with_conv_in():
    assert {name for name, v in VARIANTS.items() if v.is_unet} == {
        n for n, v in VARIANTS.items() if "conv_in" in v.modules
    }
