"""Sets of modules are found in a base itself, whatever its family."""

import pytest
import torch
from torch import nn

from lorasynth.lora.layout import Layout
from lorasynth.zoo.module_sets import group_of, module_sets

from ..tiny_pipelines import FAMILIES


@pytest.fixture(scope="module", params=FAMILIES)
def denoiser(request):
    torch.manual_seed(0)
    pipe = FAMILIES[request.param]()
    return pipe.unet if hasattr(pipe, "unet") else pipe.transformer


def adapted(denoiser, targets):
    return {module.name for module in Layout.from_model(denoiser, targets, 1).modules}


def linear(denoiser):
    return {name for name, layer in denoiser.named_modules() if isinstance(layer, nn.Linear)}


def test_widest_set_is_every_linear_layer(denoiser):
    assert adapted(denoiser, module_sets(denoiser)["linear"]) == linear(denoiser)


def test_attention_is_every_projection_and_nothing_else(denoiser):
    found = adapted(denoiser, module_sets(denoiser)["attention"])
    assert found == {name for name in linear(denoiser) if ".attn" in name}
    wider = adapted(denoiser, module_sets(denoiser)["attention+ff"])
    assert wider == found | {name for name in linear(denoiser) if ".ff" in name}


def test_network_without_attention_has_no_set_of_it():
    sets = module_sets(nn.ModuleDict({"blocks": nn.ModuleList([nn.Linear(2, 2)])}))
    assert set(sets) == {"usual", "linear"}


@pytest.mark.parametrize(
    ("preset", "groups"),
    [
        ("sd15-attn", {"attn1", "attn2"}),
        ("sd15-kohya", {"attn1", "attn2", "ff", "proj_in", "proj_out"}),
        ("sdxl-attn", {"attn1", "attn2"}),
        ("sd3", {"attn"}),
        ("flux-full", {"attn", "ff", "ff_context"}),
    ],
)
def test_groups_are_parts_of_a_block_at_true_shape(preset, groups):
    assert {group_of(module.name) for module in Layout.preset(preset).modules} == groups


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("mid_block.attentions.0.transformer_blocks.12.attn2.to_out.0", "attn2"),
        ("down_blocks.0.resnets.1.time_emb_proj", "time_emb_proj"),
        ("single_transformer_blocks.37.proj_mlp", "proj_mlp"),
        ("time_embedding.linear_1", "time_embedding"),
        ("conv_in", "conv_in"),
    ],
)
def test_group_is_named_after_its_part_of_the_block(name, group):
    assert group_of(name) == group
