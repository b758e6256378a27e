"""What the gate says of a good file, and of one with several faults; test_corpus.py holds each fault by itself."""

import pytest
import torch
from safetensors.torch import save, save_file

from lorasynth.errors import LoRAFileError
from lorasynth.lora.gate import inspect_file, read_lora, read_lora_file

from .making import (
    ALPHA,
    ALPHA_K,
    KOHYA_K,
    KOHYA_Q,
    NEW_B,
    UP,
    K,
    Q,
    kohya,
    kohya_but,
    new_style,
    numbers,
    peft,
    spoiled,
    write,
)


def test_all_faults_of_a_file_are_listed(tmp_path):
    tensors = kohya_but(down=spoiled(torch.nan), alpha=torch.tensor(-1.0)) | {"strange": numbers(2)}
    path = tmp_path / "bad.safetensors"
    save_file(tensors, path)
    seen = inspect_file(path)
    assert {fault.code for fault in seen.faults} == {"not-finite", "alpha", "unknown-key"}
    assert (seen.format, seen.num_modules, seen.rank, seen.norm) == ("kohya", 2, 2, None)
    with pytest.raises(LoRAFileError, match=r"\(2 more: `lorasynth inspect` lists them\)"):
        read_lora(path)


def test_a_good_file_is_described(tmp_path):
    path = tmp_path / "good.safetensors"
    save_file(kohya(), path, {"lorasynth.base": "tiny", "note": "<script>"})
    seen = inspect_file(path)
    assert seen.ok
    assert (seen.format, seen.base, seen.rank, seen.num_modules, seen.modules) == ("kohya", "tiny", 2, 2, [Q, K])
    formed = [kohya()[f"{n}.lora_up.weight"] @ kohya()[f"{n}.lora_down.weight"] for n in (KOHYA_Q, KOHYA_K)]
    assert seen.norm == pytest.approx(sum(w.square().sum().item() for w in formed) ** 0.5)
    tensors, metadata, again = read_lora_file(path)
    assert tensors.keys() == kohya().keys()
    assert metadata == {"lorasynth.base": "tiny", "note": "<script>"}
    assert again == seen


@pytest.mark.parametrize(("width", "base"), [(768, "sd15"), (1024, "sd2"), (2048, "sdxl"), (96, "")])
def test_the_base_model_is_told_by_the_width_of_its_text(tmp_path, width, base):
    path = tmp_path / "x.safetensors"
    save_file(kohya() | {f"{KOHYA_K}.lora_down.weight": numbers(2, width)}, path)
    assert inspect_file(path).base == base


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_types_are_read_as_float32(tmp_path, dtype):
    path = tmp_path / "x.safetensors"
    save_file({k: v.to(dtype) for k, v in kohya().items()}, path)
    pairs, _, _ = read_lora(path)
    torch.testing.assert_close(pairs[Q][1], kohya()[UP], rtol=1e-2, atol=1e-2)
    assert pairs[Q][1].dtype == torch.float32


def test_the_weights_of_a_peft_folder_are_read_as_the_folder(tmp_path):
    folder = peft({"lora_alpha": 6})(tmp_path)
    pairs, _, _ = read_lora(folder / "adapter_model.safetensors")
    torch.testing.assert_close(pairs[Q][1], 3 * new_style()[NEW_B])
    assert torch.equal(pairs[Q][1], read_lora(folder)[0][Q][1])


def test_alphas_are_recorded(tmp_path):
    for alphas, changes in {
        (2.0,): {}, (2.0, 16.0): {"alpha": torch.tensor(16.0)}, (): {ALPHA: None, ALPHA_K: None},
    }.items():  # fmt: skip
        assert inspect_file(write(tmp_path, save(kohya_but(**changes)))).alphas == list(alphas)
