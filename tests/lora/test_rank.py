"""Ranks above a layer's width, as trainers of whole models write them for its narrow layers."""

import pytest
import torch
from safetensors.torch import save

from lorasynth.lora.factors import LoRA
from lorasynth.lora.gate import inspect_file
from lorasynth.lora.layout import Module

from .making import numbers, write

Q = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"


def notes(seen):
    """All but those of the base: layers this small are no model's."""
    return [fault for fault in seen.faults if not fault.code.startswith("base-")]


def pair(name, rank, inputs, out, kernel=()):
    end = (1,) * len(kernel)
    return {
        f"{name}.lora_down.weight": numbers(rank, inputs, *kernel), f"{name}.lora_up.weight": numbers(out, rank, *end, seed=1),
        f"{name}.alpha": torch.tensor(rank / 4),
    }  # fmt: skip


CASES = {
    "linear": ("lora_unet_" + Q.replace(".", "_"), Q, 48, 40, 32, ()),
    "linear-wider-out": ("lora_unet_" + Q.replace(".", "_"), Q, 48, 32, 40, ()),
    "conv_out": ("lora_unet_conv_out", "conv_out", 8, 16, 4, (3, 3)),
    "one-by-one": (
        "lora_unet_down_blocks_0_attentions_0_proj_in",
        "down_blocks.0.attentions.0.proj_in",
        9,
        4,
        8,
        (1, 1),
    ),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("case", CASES)
def test_rank_above_the_width_is_read_as_the_width(tmp_path, case, dtype):
    theirs, ours, rank, inputs, out, kernel = CASES[case]
    tensors = {k: v.to(dtype) for k, v in pair(theirs, rank, inputs, out, kernel).items()}
    path = write(tmp_path, save(tensors))
    lora, seen = LoRA.load(path), inspect_file(path)
    size = inputs * (9 if kernel == (3, 3) else 1)
    width = min(size, out)
    assert lora.layout.modules == (
        Module(name=ours, in_features=size, out_features=out, rank=width, kernel=kernel or None),
    )
    down, up = (tensors[f"{theirs}.lora_{half}.weight"].flatten(1).double() for half in ("down", "up"))
    torch.testing.assert_close(lora.delta_W(ours).double(), up @ down / 4, rtol=1e-5, atol=1e-5)
    assert seen.rank == width
    (note,) = notes(seen)
    assert (note.code, note.fatal, note.key) == ("wide-rank", False, ours)
    assert (note.expected, note.actual) == (
        f"a rank of at most {width}, the layer's width", f"{rank} for {size} -> {out}",
    )  # fmt: skip
    # One factor is a power of two times the identity: half precision holds it exactly.
    one = lora.lora_A(ours) if size <= out else lora.lora_B(ours)
    assert torch.equal(one.half().float(), one)
    again = LoRA.load(lora.save(tmp_path / "again.safetensors"))
    assert torch.equal(again.vector, lora.vector)


def test_rank_above_the_width_is_no_changed_file(tmp_path):
    """The header says the rank that the trainer was given, and the file's tensors have it."""
    tensors = pair("lora_unet_conv_out", 8, 16, 4, (3, 3)) | pair("lora_unet_" + Q.replace(".", "_"), 8, 32, 32)
    header = {"ss_network_dim": "8", "ss_network_alpha": "2"}
    assert [f.code for f in notes(inspect_file(write(tmp_path, save(tensors, header))))] == ["wide-rank"]


def test_parts_of_a_fused_layer_narrower_than_its_rank_are_read(tmp_path):
    name = "lora_unet_double_blocks_0_img_attn_qkv"
    tensors = pair(name, 4, 8, 9)
    path = write(tmp_path, save(tensors))
    lora, block = LoRA.load(path, base="flux"), "transformer_blocks.0.attn"
    formed = tensors[f"{name}.lora_up.weight"] @ tensors[f"{name}.lora_down.weight"] / 4
    for part, rows in zip("qkv", formed.split(3), strict=True):
        torch.testing.assert_close(lora.delta_W(f"{block}.to_{part}"), rows)
    assert [f.actual for f in notes(inspect_file(path, base="flux")) if f.code == "wide-rank"] == [
        "4 for 8 -> 3, and 2 more"
    ]
