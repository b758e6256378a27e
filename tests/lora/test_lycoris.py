"""LoHa and LoKr files of LyCORIS and of PEFT: the update against plain linear algebra, and against PEFT's own layers."""

import json

import pytest
import torch
from peft import LoHaConfig, LoKrConfig, PeftModel, get_peft_model
from safetensors.torch import save
from torch import nn

from lorasynth.errors import LoRAFileError
from lorasynth.lora.factors import LoRA
from lorasynth.lora.gate import inspect_file

from .making import KOHYA_Q, Q, loha, numbers, write

CONV, CONV_NAME = "lora_unet_down_blocks_0_resnets_0_conv1", "down_blocks.0.resnets.0.conv1"


def kron(first, second):
    """The Kronecker product by its definition: block (i, j) is first[i, j] * second."""
    return torch.cat([torch.cat([x * second for x in row], 1) for row in first])


def factors(name, **shapes):
    return {f"{name}.{part}": numbers(*shape, seed=i) for i, (part, shape) in enumerate(shapes.items())}


def made(kind):
    """A module's name, ours, its tensors, and the update that they mean at alpha 1."""
    n = KOHYA_Q
    if kind == "loha":
        t = loha(n, 24, 20, rank=3)
        return n, Q, t, (t[f"{n}.hada_w1_a"] @ t[f"{n}.hada_w1_b"]) * (t[f"{n}.hada_w2_a"] @ t[f"{n}.hada_w2_b"]) / 3
    if kind == "loha-conv":
        t = loha(CONV, 4 * 9, 8, rank=2)
        (a, b, c, d) = (t[f"{CONV}.hada_{p}"] for p in ("w1_a", "w1_b", "w2_a", "w2_b"))
        return CONV, CONV_NAME, t, (a @ b) * (c @ d) / 2
    if kind == "loha-tucker":
        shapes = {"t": (2, 2, 3, 3), "a": (2, 8), "b": (2, 4)}
        t = factors(
            CONV,
            **{f"hada_t{i}": shapes["t"] for i in (1, 2)},
            **{f"hada_w{i}_{h}": shapes[h] for i in (1, 2) for h in "ab"},
        )
        one, two = (
            torch.einsum("rskl,ro,si->oikl", *(t[f"{CONV}.hada_{p}"] for p in (f"t{i}", f"w{i}_a", f"w{i}_b")))
            for i in (1, 2)
        )
        return CONV, CONV_NAME, t, (one * two).flatten(1) / 2
    if kind == "lokr-full":  # alpha means nothing where nothing is factorised
        t = factors(n, lokr_w1=(4, 3), lokr_w2=(5, 8))
        return n, Q, t, kron(t[f"{n}.lokr_w1"], t[f"{n}.lokr_w2"])
    if kind == "lokr-second":
        t = factors(n, lokr_w1=(4, 3), lokr_w2_a=(5, 2), lokr_w2_b=(2, 8))
        return n, Q, t, kron(t[f"{n}.lokr_w1"], t[f"{n}.lokr_w2_a"] @ t[f"{n}.lokr_w2_b"]) / 2
    if kind == "lokr-both":
        t = factors(n, lokr_w1_a=(4, 2), lokr_w1_b=(2, 3), lokr_w2_a=(5, 2), lokr_w2_b=(2, 8))
        return n, Q, t, kron(*(t[f"{n}.lokr_w{i}_a"] @ t[f"{n}.lokr_w{i}_b"] for i in (1, 2))) / 2
    assert kind == "lokr-conv"
    t = factors(CONV, lokr_w1=(2, 2), lokr_w2=(4, 2, 3, 3))
    return CONV, CONV_NAME, t, kron(t[f"{CONV}.lokr_w1"], t[f"{CONV}.lokr_w2"].flatten(1))


KINDS = ["loha", "loha-conv", "loha-tucker", "lokr-full", "lokr-second", "lokr-both", "lokr-conv"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_lycoris_file_is_read_as_the_update_that_it_means(tmp_path, kind, dtype):
    theirs, ours, tensors, update = made(kind)
    alpha = 1.0 if kind not in ("lokr-full", "lokr-conv") else 1e10
    tensors = {k: v.to(dtype) for k, v in tensors.items()} | {f"{theirs}.alpha": torch.tensor(alpha)}
    header = {"ss_network_module": "lycoris.kohya", "ss_network_dim": "99", "ss_network_args": '{"algo": "loha"}'}
    path = write(tmp_path, save(tensors, header))
    lora, seen = LoRA.load(path), inspect_file(path)
    (module,) = lora.layout.modules
    assert module.name == ours
    assert module.kernel == ((3, 3) if theirs == CONV else None)
    difference = (lora.delta_W(ours) - update).norm() / update.norm()
    assert difference < (0.004 if dtype == torch.float32 else 0.03)
    (note,) = [fault for fault in seen.faults if not fault.code.startswith("base-")]
    assert (note.code, note.fatal) == ("converted", False)
    assert "in 1 modules, read with a squared relative error of" in note.actual
    assert float(note.actual.rpartition(" ")[2]) < 1.1e-5


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.mid_block = nn.ModuleDict({"to_q": nn.Linear(24, 20, bias=False), "to_k": nn.Linear(24, 20, bias=False)})


@pytest.mark.parametrize("config", [LoHaConfig, LoKrConfig])
def test_pefts_own_folder_is_read_at_pefts_scale(tmp_path, config):
    torch.manual_seed(0)
    kind = config(
        r=2,
        alpha=6,
        target_modules=["to_q", "to_k"],
        init_weights=False,
        rank_pattern={"to_k": 3},
        alpha_pattern={"t._k": 1},
    )
    get_peft_model(Net(), kind).save_pretrained(tmp_path)
    model = PeftModel.from_pretrained(Net(), tmp_path)
    lora = LoRA.load(tmp_path)
    for name in ("mid_block.to_q", "mid_block.to_k"):
        theirs = model.base_model.model.get_submodule(name).get_delta_weight("default").detach()
        assert (lora.delta_W(name) - theirs).norm() / theirs.norm() < 0.004


def test_configuration_of_another_rank_is_refused(tmp_path):
    get_peft_model(Net(), LoHaConfig(r=2, alpha=6, target_modules=["to_q"])).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"r": 5}))
    with pytest.raises(LoRAFileError, match=r"r of mid_block\.to_q: expected 2, as its tensors are, got 5"):
        LoRA.load(tmp_path)
