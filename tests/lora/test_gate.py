"""What the gate says of a good file, and of one with several faults; test_corpus.py holds each fault by itself."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save, save_file

from lorasynth.errors import LayoutError, LoRAFileError
from lorasynth.lora.factors import LoRA
from lorasynth.lora.gate import inspect_file, read_lora
from lorasynth.lora.layout import Layout
from lorasynth.lora.writing import FileLoRA
from lorasynth.storage.arrays import as_array, largest_of_each

from .making import (
    ALPHA,
    ALPHA_K,
    BLOCK,
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
    assert {fault.code for fault in seen.faults} == {"not-finite", "alpha", "unknown-key", "base-unknown"}
    assert (seen.format, seen.num_modules, seen.rank, seen.norm) == ("kohya", 2, 2, None)
    with pytest.raises(LoRAFileError, match=r"\(2 more: `lorasynth inspect` lists them\)"):
        read_lora(path)


def test_good_file_is_described(tmp_path):
    path = tmp_path / "good.safetensors"
    save_file(kohya(), path, {"lorasynth.base": "tiny", "note": "<script>"})
    seen = inspect_file(path)
    assert seen.ok
    assert (seen.format, seen.base, seen.rank, seen.num_modules, seen.modules) == ("kohya", "tiny", 2, 2, [Q, K])
    formed = [kohya()[f"{n}.lora_up.weight"] @ kohya()[f"{n}.lora_down.weight"] for n in (KOHYA_Q, KOHYA_K)]
    assert seen.norm == pytest.approx(sum(w.square().sum().item() for w in formed) ** 0.5)
    pairs, metadata, again = read_lora(path)
    assert list(pairs) == [Q, K]
    assert metadata == {"lorasynth.base": "tiny", "note": "<script>"}
    assert replace(again, norm=seen.norm) == seen


@pytest.mark.parametrize("stated", [{"lorasynth.base": "sd15"}, {"ss_base_model_version": "sd_v1"}])
def test_inspect_shows_what_a_lora_of_a_small_base_does(tmp_path, stated):
    """It is for a base of sd15's names and of its own shapes: not usable as sd15's, but no reason to say nothing of it."""
    path = write(tmp_path, save(kohya(), stated))
    seen, plain = inspect_file(path), inspect_file(write(tmp_path, save(kohya()), "plain.safetensors"))
    assert (seen.ok, [fault.code for fault in seen.faults]) == (False, ["base"])
    assert (seen.modules, seen.norm, seen.rank) == ([Q, K], plain.norm, 2)
    with pytest.raises(LoRAFileError, match=r"expected modules of sd15.*--force-base"):
        LoRA.load(path)
    assert inspect_file(path, base="sd15").ok


@pytest.mark.parametrize(
    ("block", "width", "out", "base"),
    [
        (0, 768, 320, "sd15"), (0, 1024, 320, "sd2"), (1, 2048, 640, "sdxl"), (1, 1280, 768, "sdxl-refiner"), (0, 96, 320, ""),
        (0, 768, 640, ""), (7, 768, 320, ""),
    ],
)  # fmt: skip
def test_base_is_the_one_that_has_every_module(tmp_path, block, width, out, base):
    path, name = tmp_path / "x.safetensors", KOHYA_K.replace("0", str(block), 1)
    save_file({f"{name}.lora_down.weight": numbers(2, width), f"{name}.lora_up.weight": numbers(out, 2)}, path)
    seen = inspect_file(path)
    assert (seen.base, seen.modules) == (base, [K.replace("0", str(block), 1)])
    assert [fault.code for fault in seen.faults] == ([] if base else ["base-unknown"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_types_are_read_as_float32(tmp_path, dtype):
    path = tmp_path / "x.safetensors"
    save_file({k: v.to(dtype) for k, v in kohya().items()}, path)
    pairs, _, _ = read_lora(path)
    torch.testing.assert_close(pairs[Q][1], kohya()[UP], rtol=1e-2, atol=1e-2)
    assert pairs[Q][1].dtype == torch.float32


def test_weights_of_a_peft_folder_are_read_as_the_folder(tmp_path):
    folder = peft({"lora_alpha": 6})(tmp_path)
    pairs, _, _ = read_lora(folder / "adapter_model.safetensors")
    torch.testing.assert_close(pairs[Q][1], 3 * new_style()[NEW_B])
    assert torch.equal(pairs[Q][1], read_lora(folder)[0][Q][1])


def test_alphas_are_recorded(tmp_path):
    for alphas, changes in {
        (2.0,): {}, (2.0, 16.0): {"alpha": torch.tensor(16.0)}, (): {ALPHA: None, ALPHA_K: None},
    }.items():  # fmt: skip
        assert inspect_file(write(tmp_path, save(kohya_but(**changes)))).alphas == list(alphas)


@pytest.mark.parametrize("metadata", [{}, {"lorasynth.base": "other"}])
def test_base_given_stands_above_all_that_a_file_says(tmp_path, metadata):
    path = write(tmp_path, save(kohya(), metadata))
    layout = LoRA.load(path, base="sd15").layout
    assert layout.base == "sd15"
    if metadata:
        with pytest.raises(LayoutError, match="base is 'other', expected 'sd15'"):
            LoRA.load(path, layout)
    assert LoRA.load(path, layout, base="sd15").layout == layout


@pytest.mark.parametrize(
    ("dtype", "style", "use"),
    [
        (torch.float16, "kohya", inspect_file),
        (torch.float32, "diffusers", inspect_file),
        (torch.float16, "diffusers", LoRA.load),
        (torch.float32, "kohya", LoRA.load),
    ],
    ids=["inspect-F16", "inspect-F32", "load-F16", "load-F32"],
)
@pytest.mark.slow
def test_file_takes_memory_of_twice_its_size(tmp_path, dtype, style, use):
    """With small tensors, whose memory malloc would keep; the bound is twice the size and 50 MB."""
    names = [
        f"lora_unet_{BLOCK.replace('.', '_')}_x_{i}" if style == "kohya" else f"unet.{BLOCK}.x.{i}" for i in range(900)
    ]
    down, up = ("lora_down", "lora_up") if style == "kohya" else ("lora_A", "lora_B")
    A, B = numbers(32, 1024).to(dtype), numbers(1024, 32).to(dtype)
    tensors = {f"{n}.{half}.weight": t.clone() for n in names for half, t in ((down, A), (up, B))}
    path = write(
        tmp_path, save(tensors | ({f"{n}.alpha": torch.tensor(8.0) for n in names} if style == "kohya" else {}))
    )
    del tensors
    use(write(tmp_path, save(kohya()), "small.safetensors"))
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    before = memory_mb("VmRSS")
    assert use(path)
    size = path.stat().st_size / 2**20
    assert size > 110
    assert memory_mb("VmHWM") - before < 2 * size + 50


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "times"), [(torch.float16, 2), (torch.float32, 3)])
def test_conversion_takes_memory_of_old_and_new_file(tmp_path, dtype, times):
    """Of a float16 file: as much again as float16, twice as much as float32."""
    from lorasynth.lora.conversion import read_back

    path = LoRA.random(Layout.preset("sdxl-attn", 32)).save(tmp_path / "x.safetensors", dtype=torch.float16)
    FileLoRA.read(write(tmp_path, save(kohya()), "small.safetensors"))
    Path("/proc/self/clear_refs").write_text("5")
    before = memory_mb("VmRSS")
    lora, _ = FileLoRA.read(path)
    assert lora.norm() > 0
    assert read_back(lora, "kohya", dtype)[0] == 0
    lora.save(tmp_path / "y.safetensors", dtype=dtype)
    size = path.stat().st_size / 2**20
    assert size > 80
    assert memory_mb("VmHWM") - before < times * size + 40


def memory_mb(field):
    """A field of this process's status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def test_rank_of_the_width_takes_no_more_memory(tmp_path):
    """Sums over all ranks are taken in parts: a square pair of factors needs no copy of itself."""
    square = torch.full((1_500, 1_500), 0.01)
    path = write(tmp_path, save({"unet.a.lora_A.weight": square, "unet.a.lora_B.weight": square.clone()}))
    LoRA.load(write(tmp_path, save(kohya()), "small.safetensors"))
    Path("/proc/self/clear_refs").write_text("5")
    before = memory_mb("VmRSS")
    lora = LoRA.load(path)
    assert lora.norm() == pytest.approx(1_500 * (1_500 * 1e-4), rel=1e-5)
    assert memory_mb("VmHWM") - before < 2 * path.stat().st_size / 2**20 + 50


def test_values_are_looked_at_in_every_file_of_one_header(tmp_path):
    """What names and shapes say is remembered from file to file, what numbers say is not."""
    tensors = kohya()
    key = next(key for key in tensors if key.endswith("lora_up.weight"))
    alpha = next((key for key in tensors if key.endswith("alpha")), None)
    assert alpha is not None
    for number in range(3):
        good = {name: tensor * (number + 1) for name, tensor in tensors.items()}
        before = LoRA.load(write(tmp_path, save(tensors), "first.safetensors"))
        after = LoRA.load(write(tmp_path, save(good), f"{number}.safetensors"))
        # lora_A, lora_B and alpha are each so many times as large.
        assert bool(after.vector.norm() > before.vector.norm()) == (number > 0)
        bad = {**tensors, key: tensors[key].clone().index_fill_(0, torch.tensor([0]), float("nan"))}
        with pytest.raises(LoRAFileError, match="expected finite numbers"):
            LoRA.load(write(tmp_path, save(bad), f"bad-{number}.safetensors"))
        with pytest.raises(LoRAFileError, match="alpha / rank from"):
            LoRA.load(write(tmp_path, save({**tensors, alpha: tensors[alpha] * 1e9}), "alpha.safetensors"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_largest_of_each_is_that_of_torch(dtype):
    g = torch.Generator().manual_seed(0)
    tensors = [torch.randn(n, 7, generator=g).to(dtype) * 10.0 ** (n % 5 - 2) for n in range(1, 40)]
    tensors[3][0, 0], tensors[5][0, 0], tensors[7] = float("nan"), -float("inf"), torch.zeros(2, 7, dtype=dtype)
    found = largest_of_each(map(as_array, tensors))
    for tensor, largest in zip(tensors, found, strict=True):
        assert largest == tensor.abs().max().item() or (tensor.isnan().any() and largest != largest)
