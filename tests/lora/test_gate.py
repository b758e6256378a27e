"""What is in a LoRA file: everything that other loaders pass on in silence is refused, or noted, by name."""

import ast
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file

import lorasynth
from lorasynth.errors import LoRAFileError
from lorasynth.lora.factors import LoRA
from lorasynth.lora.gate import inspect_file, read_lora, read_lora_file
from lorasynth.lora.layout import Layout

BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0"
Q, K = f"{BLOCK}.attn1.to_q", f"{BLOCK}.attn2.to_k"
KOHYA_Q, KOHYA_K = (f"lora_unet_{n.replace('.', '_')}" for n in (Q, K))
DOWN, UP, ALPHA = f"{KOHYA_Q}.lora_down.weight", f"{KOHYA_Q}.lora_up.weight", f"{KOHYA_Q}.alpha"
NEW_A, NEW_B = f"unet.{Q}.lora_A.weight", f"unet.{Q}.lora_B.weight"


def numbers(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def kohya():
    return {
        DOWN: numbers(2, 8), UP: numbers(6, 2, seed=1), ALPHA: torch.tensor(2.0),
        f"{KOHYA_K}.lora_down.weight": numbers(2, 4), f"{KOHYA_K}.lora_up.weight": numbers(6, 2, seed=2),
        f"{KOHYA_K}.alpha": torch.tensor(2.0),
    }  # fmt: skip


def new_style():
    return {NEW_A: numbers(2, 8), NEW_B: numbers(6, 2, seed=1)}


def kohya_but(**changes):
    """The good file with tensors replaced (or removed, by None); names are those of the constants above."""
    names = {"down": DOWN, "up": UP, "alpha": ALPHA}
    tensors = kohya() | {names.get(k, k): v for k, v in changes.items()}
    return {k: v.contiguous() for k, v in tensors.items() if v is not None}


def spoiled(value):
    tensor = numbers(2, 8)
    tensor[1, 3] = value
    return tensor


def renamed(old, new):
    return {k.replace(old, new): v for k, v in kohya().items()}


def adapter_metadata(**config):
    return {"lora_adapter_metadata": json.dumps({f"unet.{k}": v for k, v in config.items()})}


def with_key(key, shape=(2, 8)):
    return kohya() | {key: numbers(*shape)}


# code, what the message must say, tensors, header metadata
BAD = {
    "A-missing": ("missing-half", [KOHYA_Q, "lora_A"], kohya_but(down=None), {}),
    "B-missing": ("missing-half", [KOHYA_Q, "lora_B"], kohya_but(up=None), {}),
    "alpha-alone": ("missing-half", [KOHYA_Q, "lora_A"], kohya_but(down=None, up=None), {}),
    "new-style-half": ("missing-half", [Q, "lora_B", NEW_A], {NEW_A: numbers(2, 8)}, {}),
    "ranks-differ": ("rank", [DOWN, UP, "ranks 2 and 3"], kohya_but(up=numbers(6, 3)), {}),
    "rank-above-both-sides": ("rank", [DOWN, "at most 6", "7"], kohya_but(down=numbers(7, 8), up=numbers(6, 7)), {}),
    "transposed": ("rank", [DOWN, "(8, 2) and (2, 6)"], kohya_but(down=numbers(8, 2), up=numbers(2, 6)), {}),
    "rank-0": ("zero-size", [DOWN, "size 0", "(0, 8)"], kohya_but(down=torch.zeros(0, 8), up=torch.zeros(6, 0)), {}),
    "zero-by-a-billion": ("zero-size", [UP, "(0, 1000000000)"], kohya_but(up=torch.zeros(0, 10**9)), {}),
    "convolution": ("convolution", [DOWN, "(2, 8, 1, 1)"], kohya_but(down=numbers(2, 8, 1, 1)), {}),
    "one-dimension": ("dimensions", [DOWN, "2 dimensions", "(8,)"], kohya_but(down=numbers(8)), {}),
    "five-dimensions": ("dimensions", [DOWN, "(1, 1, 1, 2, 8)"], kohya_but(down=numbers(1, 1, 1, 2, 8)), {}),
    "nan": ("not-finite", [DOWN, "finite", "1 NaN or infinite", "(1, 3)"], kohya_but(down=spoiled(torch.nan)), {}),
    "inf": ("not-finite", [DOWN, "(1, 3)"], kohya_but(down=spoiled(torch.inf)), {}),
    "nan-in-half-precision": ("not-finite", [DOWN], kohya_but(down=spoiled(torch.nan).half()), {}),
    "F64-beyond-F32": ("too-large", [DOWN, "1e+200"], kohya_but(down=spoiled(1.0).double() * 0 + 1e200), {}),
    "alpha-1e30": ("alpha", [ALPHA, "1e-3 to 1e3", "1e+30"], kohya_but(alpha=torch.tensor(1e30)), {}),
    "alpha-nan": ("alpha", [ALPHA, "nan"], kohya_but(alpha=torch.tensor(torch.nan)), {}),
    "alpha-negative": ("alpha", [ALPHA, "-1"], kohya_but(alpha=torch.tensor(-1.0)), {}),
    "alpha-0": ("alpha", [ALPHA, "alpha 0"], kohya_but(alpha=torch.tensor(0)), {}),
    "alpha-vector": ("alpha", [ALPHA, "one number", "(3,)"], kohya_but(alpha=torch.ones(3)), {}),
    "int8": ("dtype", [DOWN, "F16, BF16 or F32", "int8"], kohya_but(down=torch.ones(2, 8, dtype=torch.int8)), {}),
    "int32": ("dtype", [DOWN, "int32"], kohya_but(down=torch.ones(2, 8, dtype=torch.int32)), {}),
    "bool": ("dtype", [DOWN, "bool"], kohya_but(down=torch.ones(2, 8, dtype=torch.bool)), {}),
    "fp8": ("dtype", [DOWN, "float8"], kohya_but(down=torch.ones(2, 8).to(torch.float8_e4m3fn)), {}),
    "dora": ("kind", ["dora_scale", "DoRA"], with_key(f"{KOHYA_Q}.dora_scale"), {}),
    "loha": ("kind", ["hada_w1_a", "LoHa"], with_key(f"{KOHYA_Q}.hada_w1_a"), {}),
    "lokr": ("kind", ["lokr_w1", "LoKr"], with_key(f"{KOHYA_Q}.lokr_w1"), {}),
    "bias": ("kind", ["lora_B.bias", "a bias"], new_style() | {f"unet.{Q}.lora_B.bias": numbers(6)}, {}),
    "set-weight": ("kind", ["set_weight", "base weight"], with_key(f"{KOHYA_Q}.set_weight"), {}),
    "diff": ("kind", [".diff", "base weight"], with_key(f"{KOHYA_Q}.diff"), {}),
    "reshape-weight": ("kind", ["reshape_weight"], with_key(f"{KOHYA_Q}.reshape_weight", (2,)), {}),
    "extra-lora-key": ("unknown-key", ["lora_strange"], with_key(f"{KOHYA_Q}.lora_strange.weight"), {}),
    "extra-tensor": ("unknown-key", ["embedding"], with_key("embedding"), {}),
    "no-lora-at-all": ("no-lora", ["conv_in.weight"], {"conv_in.weight": numbers(4, 4)}, {}),
    "text-encoder": (
        "text-encoder", ["lora_te_text_model", "UNet only"],
        with_key("lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight"), {},
    ),
    "text-encoder-2": (
        "text-encoder", ["text_encoder_2."],
        new_style() | {"text_encoder_2.x.lora_A.weight": numbers(2, 4)}, {},
    ),
    "two-styles": ("mixed-styles", [NEW_A, "kohya"], kohya() | new_style(), {}),
    "one-module-two-names": (
        "duplicate-module", [Q],
        {**new_style(), f"{Q}.lora_A.weight": numbers(2, 8), f"{Q}.lora_B.weight": numbers(6, 2)}, {},
    ),
    "flux": (
        "base", ["transformer", "FLUX"],
        {f"transformer.single_transformer_blocks.0.attn.to_q.lora_{h}.weight": numbers(4, 4) for h in "AB"}, {},
    ),
    "sd3": (
        "base", ["Stable Diffusion 3"],
        {f"transformer.transformer_blocks.0.attn.to_q.lora_{h}.weight": numbers(4, 4) for h in "AB"}, {},
    ),
    "not-a-unet": ("unknown-key", ["lora_transformer_x"], renamed("lora_unet_", "lora_transformer_x_"), {}),
    "metadata-not-json": ("bad-metadata", ["lora_adapter_metadata", "JSON"], new_style(), {"lora_adapter_metadata": "{"}),
    "metadata-a-list": ("bad-metadata", ["lora_adapter_metadata", "list"], new_style(), {"lora_adapter_metadata": "[]"}),
    "metadata-rank": ("rank", ["lora_adapter_metadata r", "2, as its tensors are", "4"], new_style(), adapter_metadata(r=4)),
    "metadata-alpha-text": ("bad-metadata", ["lora_alpha", "a number"], new_style(), adapter_metadata(lora_alpha="8")),
    "metadata-alpha-1e30": ("alpha", ["lora_alpha", "1e+30"], new_style(), adapter_metadata(lora_alpha=1e30)),
    "metadata-dora": ("kind", ["use_dora"], new_style(), adapter_metadata(use_dora=True)),
    "metadata-pattern": ("bad-metadata", ["alpha_pattern", "(a+)+"], new_style(), adapter_metadata(alpha_pattern={"(a+)+": 1})),
    "two-scales": ("two-scales", ["lora_adapter_metadata"], kohya(), adapter_metadata(r=2)),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_content_is_refused_with_file_key_expected_and_actual(tmp_path, case):
    code, said, tensors, metadata = BAD[case]
    path = tmp_path / "bad.safetensors"
    save_file(tensors, path, metadata)
    with pytest.raises(LoRAFileError) as error:
        LoRA.load(path)
    message = str(error.value)
    assert error.value.code == code
    assert message.startswith(f"{path}: ")
    assert "expected" in message
    assert ", got " in message
    assert "Fix: " in message
    assert not [part for part in said if part not in message], message
    seen = inspect_file(path)
    assert code in [fault.code for fault in seen.faults]
    assert not seen.ok
    json.dumps(seen.to_dict(), allow_nan=False)


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


def notes(path):
    seen = inspect_file(path)
    assert seen.ok
    return [fault.code for fault in seen.faults]


def test_what_is_odd_but_legal_is_accepted_with_a_note(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({k: v if k.endswith("alpha") else 0 * v for k, v in kohya().items()}, path)
    assert notes(path) == ["all-zero"]
    save_file(kohya_but(down=0 * numbers(2, 8)), path)
    assert notes(path) == []
    save_file(kohya_but(down=numbers(2, 8) * 1e-12), path)
    assert notes(path) == ["vanishing"]
    save_file(kohya(), path, {"lorasynth.layout": "0123456789abcdef"})
    assert notes(path) == ["layout"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_types_are_read_as_float32(tmp_path, dtype):
    path = tmp_path / "x.safetensors"
    save_file({k: v.to(dtype) for k, v in kohya().items()}, path)
    pairs, _, _ = read_lora(path)
    torch.testing.assert_close(pairs[Q][1], kohya()[UP], rtol=1e-2, atol=1e-2)
    assert pairs[Q][1].dtype == torch.float32


@pytest.mark.parametrize("alpha", [None, torch.tensor(2), torch.tensor([2.0]), torch.tensor(2.0).bfloat16()])
def test_alpha_may_be_absent_or_any_one_number(tmp_path, alpha):
    path = tmp_path / "x.safetensors"
    save_file(kohya_but(alpha=alpha), path)
    assert torch.equal(read_lora(path)[0][Q][1], kohya()[UP])


def test_alphas_of_modules_are_folded_in_one_by_one(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file(kohya_but(alpha=torch.tensor(16.0)), path)
    pairs, _, _ = read_lora(path)
    torch.testing.assert_close(pairs[Q][1], 8 * kohya()[UP])
    assert torch.equal(pairs[K][1], kohya()[f"{KOHYA_K}.lora_up.weight"])


@pytest.mark.parametrize(
    ("config", "code"),
    [
        (None, "no-config"),
        ("{", "bad-metadata"),
        ("[]", "bad-metadata"),
        ('{"r": 2}', "bad-metadata"),
        ('{"r": 2, "lora_alpha": 2, "peft_type": "LOHA"}', "kind"),
        ('{"r": 2, "lora_alpha": 2, "bias": "all"}', "kind"),
        ('{"r": 4, "lora_alpha": 2}', "rank"),
    ],
)
def test_a_peft_folder_without_a_sound_configuration_is_refused(tmp_path, config, code):
    tensors = {f"base_model.model.{k.removeprefix('unet.')}": v for k, v in new_style().items()}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    if config is not None:
        (tmp_path / "adapter_config.json").write_text(config)
    for path in (tmp_path, tmp_path / "adapter_model.safetensors"):
        with pytest.raises(LoRAFileError, match=r"adapter_config\.json") as error:
            LoRA.load(path)
        assert error.value.code == code


def test_a_peft_folder_with_a_pickle_is_refused_unopened(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(LoRAFileError, match=r"adapter_model.bin: .*pickle.*never opened"):
        LoRA.load(tmp_path)


GOOD = save(kohya())


@settings(max_examples=150)
@given(st.data())
def test_a_mutated_file_is_refused_or_read_as_finite_numbers_of_the_layout(tmp_path_factory, data):
    broken = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 3))):
        match data.draw(st.sampled_from(["flip", "cut", "splice"])):
            case "flip" if broken:
                broken[data.draw(st.integers(0, len(broken) - 1))] ^= 1 << data.draw(st.integers(0, 7))
            case "cut":
                del broken[data.draw(st.integers(0, len(broken))) :]
            case "splice":
                at = data.draw(st.integers(0, len(broken)))
                broken[at:at] = GOOD[data.draw(st.integers(0, len(GOOD))) :][:16]
    path = tmp_path_factory.getbasetemp() / "mutated.safetensors"
    path.write_bytes(bytes(broken))
    refusal = None
    try:
        pairs, _, seen = read_lora(path)
    except LoRAFileError as error:
        refusal = str(error)
    if refusal is not None:
        assert refusal.startswith(str(path))
        return
    assert seen.ok
    for A, B in pairs.values():
        assert A.shape[0] == B.shape[1]
        assert torch.isfinite(A).all()
        assert torch.isfinite(B).all()
    Layout.from_factors(pairs)


def test_no_module_of_the_package_can_unpickle():
    forbidden = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    for path in Path(lorasynth.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not forbidden & {name.partition(".")[0] for name in names}, path
            if isinstance(node, ast.Attribute) and node.attr in ("load", "save") and isinstance(node.value, ast.Name):
                assert node.value.id != "torch", path
