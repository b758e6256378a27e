"""Layouts against PEFT's own choice of modules, and against the public layout of weights2weights."""

import hashlib
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from lorasynth.errors import LayoutError, UsageError
from lorasynth.lora import base_models
from lorasynth.lora.layout import Layout, Module
from lorasynth.lora.names import natural_order


# NOTE: plain rows, made into layouts inside the tests: beartype draws random numbers, which a strategy must not.
@st.composite
def rows(draw):
    names = st.from_regex(r"[a-z]{1,3}(\.[0-9]{1,3}){0,2}", fullmatch=True)
    sides = st.integers(1, 9)
    table = []
    for name in draw(st.lists(names, min_size=1, max_size=5, unique=True)):
        i, o = draw(sides), draw(sides)
        table.append((name, i, o, draw(st.integers(1, min(i, o)))))
    return table


def build(table):
    return Layout(
        base="any", modules=tuple(Module(name=n, in_features=i, out_features=o, rank=r) for n, i, o, r in table)
    )


def test_modules_are_those_that_peft_adapts(unet, layout):
    config = LoraConfig(
        r=2, target_modules=["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "time_emb_proj"]
    )
    adapted = inject_adapter_in_model(config, unet)
    names = {n.removesuffix(".lora_A.default") for n, _ in adapted.named_modules() if n.endswith("lora_A.default")}
    assert {m.name for m in layout.modules} == names
    trainable = sum(p.numel() for n, p in adapted.named_parameters() if ".lora_" in n)
    assert layout.num_parameters == trainable


@pytest.mark.parametrize(
    ("name", "modules", "rank_1", "rank_4"),
    [
        ("sd15-w2w", 64, 99_648, 398_592),
        ("sd15-attn", 128, 199_296, 797_184),
        ("sd15-kohya", 192, 423_936, 1_695_744),
        ("sdxl-attn", 560, 1_451_520, 5_806_080),
        ("sdxl-kohya", 722, 2_659_840, 10_639_360),
        ("sd3", 191, 586_752, 2_347_008),
        ("flux", 190, 1_167_360, 4_669_440),
        ("flux-full", 342, 2_801_664, 11_206_656),
    ],
)
def test_presets_have_the_size_of_loras_of_the_real_models(name, modules, rank_1, rank_4):
    layout = Layout.preset(name)
    assert (len(layout.modules), layout.num_parameters) == (modules, rank_1)
    assert Layout.preset(name, rank=4).num_parameters == rank_4
    assert name.startswith(layout.base)


@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        (base_models.sd15_unet, 859_520_964),
        (base_models.sdxl_unet, 2_567_463_684),
        (base_models.sd3_transformer, 2_028_328_000),
        (base_models.flux_transformer, 11_901_408_320),
    ],
)
def test_presets_are_read_off_models_of_the_published_size(model, parameters):
    assert sum(p.numel() for p in model().parameters()) == parameters
    assert all(p.is_meta for p in model().parameters())


def test_output_layers_that_transformers_lack_are_not_in_presets():
    # SD3's last block throws its text away; FLUX's single blocks have one output layer for attention and feed-forward.
    sd3, flux = ({m.name for m in Layout.preset(name).modules} for name in ("sd3", "flux-full"))
    assert "transformer_blocks.22.attn.to_add_out" in sd3
    assert "transformer_blocks.23.attn.to_add_out" not in sd3
    assert "single_transformer_blocks.37.attn.to_v" in flux
    assert not any(name.startswith("single_") and "to_out" in name for name in flux)


def test_w2w_preset_cuts_vectors_where_published_zoo_does():
    slices = Layout.preset("sd15-w2w").slices
    block = "down_blocks.0.attentions.0.transformer_blocks.0"
    # Rows of weights2weights' weight_dimensions: start and end of each tensor.
    assert slices[f"{block}.attn1.to_q"] == (slice(0, 320), slice(320, 640))
    assert slices[f"{block}.attn2.to_v"] == (slice(1920, 2688), slice(2688, 3008))
    last = "up_blocks.3.attentions.2.transformer_blocks.0.attn2.to_v"
    assert slices[last][1] == slice(99_328, 99_648)


def test_w2w_preset_is_the_published_table_row_for_row():
    layout = Layout.preset("sd15-w2w")
    table = "start\tend\tkey\tshape\n"
    for m in layout.modules:
        shapes = {"A": [1, m.in_features], "B": [m.out_features, 1]}
        for (half, shape), part in zip(shapes.items(), layout.slices[m.name], strict=True):
            table += f"{part.start}\t{part.stop}\t{m.name}.lora_{half}.weight\t{shape}\n"
    # The sha256 of weights2weights' weight_dimensions written out in this form, 128 rows.
    assert table.count("\n") == 129
    assert (
        hashlib.sha256(table.encode()).hexdigest() == "2df241627887ec71b11aa3e2d2c3138620715a92755580b25035af0ef9d81dfc"
    )


@given(rows(), st.integers(1, 3))
@pytest.mark.slow
def test_join_undoes_split(table, n):
    layout = build(table)
    vectors = torch.arange(n * layout.num_parameters, dtype=torch.float32).reshape(n, -1)
    factors = layout.split(vectors)
    for m in layout.modules:
        A, B = factors[m.name]
        assert (A.shape, B.shape) == ((n, m.rank, m.in_features), (n, m.out_features, m.rank))
    assert torch.equal(layout.join(factors), vectors)


@given(st.data())
def test_order_in_which_modules_are_given_does_not_matter(data):
    table = data.draw(rows())
    layout, again = build(table), build(data.draw(st.permutations(table)))
    assert again == layout
    assert again.hash == layout.hash


def test_numbers_in_names_are_ordered_as_numbers():
    assert sorted(["b.10", "b.2", "a.3"], key=natural_order) == ["a.3", "b.2", "b.10"]


@given(rows())
def test_from_dict_undoes_to_dict(table):
    layout = build(table)
    assert Layout.from_dict(layout.to_dict()) == layout


def test_stored_layout_in_another_order_is_refused(layout):
    record = layout.to_dict()
    record["modules"].reverse()
    with pytest.raises(LayoutError, match="natural order"):
        Layout.from_dict(record)


@pytest.mark.parametrize("record", [{}, {"base": "x", "modules": [["a", 1]]}, {"base": "x", "modules": 3}])
def test_record_of_another_form_is_refused(record):
    with pytest.raises(LayoutError, match="expected a layout with 'base'"):
        Layout.from_dict(record)


def test_hash_changes_with_everything_that_matters(layout):
    first = layout.modules[0]
    others = [
        replace(layout, base="other"),
        replace(layout, modules=layout.modules[1:]),
        replace(layout, modules=(replace(first, rank=1), *layout.modules[1:])),
    ]
    assert len({layout.hash, *(other.hash for other in others)}) == 4


def test_diff_says_each_difference_in_a_sentence(layout):
    first, second, *rest = layout.modules
    extra = Module(name="extra", in_features=4, out_features=4, rank=1)
    other = Layout(base="other", modules=(replace(first, rank=1), extra, *rest))
    assert layout.diff(layout) == []
    said = " | ".join(layout.diff(other))
    assert f"{second.name} is missing" in said
    assert "extra is not expected" in said
    assert f"{first.name} is {first.in_features} -> {first.out_features} rank 1, expected" in said
    assert "base is 'other', expected 'tiny'" in said


def test_convolution_is_a_module_whose_rows_are_its_kernel():
    layout = Layout.from_model(nn.Sequential(nn.Conv2d(3, 5, (3, 1)), nn.Linear(3, 5)), ["0", "1"], rank=2)
    convolution, linear = layout.modules
    assert (convolution.in_features, convolution.out_features, convolution.kernel) == (9, 5, (3, 1))
    assert linear.kernel is None
    assert Layout.from_dict(layout.to_dict()) == layout
    turned = Layout.from_model(nn.Sequential(nn.Conv2d(3, 5, (1, 3)), nn.Linear(3, 5)), ["0", "1"], rank=2)
    assert turned.hash != layout.hash
    assert layout.diff(turned) == [
        "0 is a Conv2d of kernel 1 x 3, 9 -> 5 rank 2, expected a Conv2d of kernel 3 x 1, 9 -> 5 rank 2"
    ]


@pytest.mark.parametrize(
    "layer", [nn.Conv2d(4, 4, 1, groups=2), nn.Conv2d(4, 4, 3, dilation=2), nn.Conv1d(4, 4, 1), nn.Embedding(4, 4)]
)
def test_layer_that_cannot_be_adapted_is_refused_by_name(layer):
    with pytest.raises(LayoutError, match=f"0: expected a Linear layer, or a Conv2d .*got {type(layer).__name__}"):
        Layout.from_model(nn.Sequential(layer), ["0"], rank=1)


def test_targets_that_match_nothing_are_refused(unet):
    # "q" ends no name after a dot: PEFT would not match to_q by it either.
    with pytest.raises(LayoutError, match="no module of the model ends in"):
        Layout.from_model(unet, ["q"], rank=1)


def test_impossible_rank_is_refused(unet):
    with pytest.raises(LayoutError, match="expected a rank from 1 to 32, got 33"):
        Layout.from_model(unet, ["attn2.to_k"], rank=33)


def test_unknown_preset_is_refused_with_the_known_ones():
    with pytest.raises(UsageError, match="sd15-w2w"):
        Layout.preset("sd99")


def test_vectors_of_another_length_are_refused(layout):
    with pytest.raises(LayoutError, match=f"expected vectors of {layout.num_parameters} numbers"):
        layout.split(torch.zeros(1, 7))
