"""Other ranks and sums of LoRAs, held against dense updates and torch's own SVD."""

import json

import pytest
import torch
from typer.testing import CliRunner

from lorasynth.canonical.resize import merge, resize
from lorasynth.cli.app import app
from lorasynth.errors import LayoutError, UsageError
from lorasynth.lora.factors import LoRA
from lorasynth.lora.layout import Layout, Module
from lorasynth.storage.reading import read_json


def layout(*ranks, base="toy", names="abc"):
    shapes = [(12, 20, None), (30, 8, None), (2 * 9, 10, (3, 3))]
    modules = [
        Module(name=n, in_features=i, out_features=o, rank=r, kernel=k)
        for n, r, (i, o, k) in zip(names, ranks, shapes, strict=False)
    ]
    return Layout(base=base, modules=tuple(modules))


def best(update, rank):
    """The nearest matrix of a rank, by the dense SVD."""
    U, S, Vh = torch.linalg.svd(update.double(), full_matrices=False)
    return U[:, :rank] * S[:rank] @ Vh[:rank]


def dense(lora):
    return {m.name: lora.delta_W(m.name).double() for m in lora.layout.modules}


def test_resized_lora_is_the_nearest_of_its_rank():
    lora = LoRA.random(layout(6, 4, 5))
    resized, error = resize(lora, rank=3)
    assert {m.rank for m in resized.layout.modules} == {3}
    lost2 = whole2 = 0.0
    for name, update in dense(lora).items():
        torch.testing.assert_close(dense(resized)[name], best(update, 3), atol=1e-7, rtol=1e-5)
        lost2 += (update - best(update, 3)).square().sum().item()
        whole2 += update.square().sum().item()
    assert error == pytest.approx((lost2 / whole2) ** 0.5, rel=1e-5)


def test_larger_rank_changes_no_update_and_fills_up():
    lora = LoRA.random(layout(2, 4, 5))
    resized, error = resize(lora, rank=9)
    # A module of 8 outputs has no ninth direction.
    assert [m.rank for m in resized.layout.modules] == [9, 8, 9]
    assert error == 0
    for name, update in dense(lora).items():
        torch.testing.assert_close(dense(resized)[name], update, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.9, 0.99, 1.0])
def test_kept_part_is_reached_by_the_smallest_rank(keep):
    lora = LoRA.random(layout(6, 6, 6))
    resized, error = resize(lora, keep=keep)
    rank = max(m.rank for m in resized.layout.modules)
    assert 1 - error**2 >= keep - 1e-9
    if rank > 1:
        assert 1 - resize(lora, rank=rank - 1)[1] ** 2 < keep


def test_whole_update_of_low_rank_needs_no_more():
    factors = {
        m.name: (torch.randn(1, m.rank, m.in_features), torch.randn(1, m.out_features, m.rank))
        for m in layout(6, 6, 6).modules
    }
    for A, B in factors.values():
        A[:, 2:], B[:, :, 2:] = 0, 0
    lora = LoRA(layout(6, 6, 6), layout(6, 6, 6).join(factors)[0])
    assert max(m.rank for m in resize(lora, keep=1.0)[0].layout.modules) == 2


def test_zero_lora_is_resized_to_zero():
    zero = LoRA(layout(2, 2, 2), torch.zeros(layout(2, 2, 2).num_parameters))
    resized, error = resize(zero, rank=1)
    assert error == 0
    assert not resized.vector.any()
    assert max(m.rank for m in resize(zero, keep=0.9)[0].layout.modules) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "expected either a rank or a part to keep"),
        ({"rank": 1, "keep": 0.5}, "expected either a rank or a part to keep"),
        ({"rank": 0}, "expected a rank of at least 1, got 0"),
        ({"keep": 1.5}, r"expected a part of ‖ΔW‖² above 0 and up to 1 to keep, got 1\.5"),
        ({"keep": float("nan")}, "got nan"),
    ],
)
def test_resize_refuses(options, message):
    with pytest.raises(UsageError, match=message):
        resize(LoRA.random(layout(1, 1, 1)), **options)


def test_merged_lora_is_the_weighted_sum():
    one, two = LoRA.random(layout(3, 2, 4), seed=1), LoRA.random(layout(2, 5, 1), seed=2)
    merged = merge([one, two], [0.7, -0.3])
    assert [m.rank for m in merged.layout.modules] == [5, 7, 5]
    wanted = {name: 0.7 * update - 0.3 * dense(two)[name] for name, update in dense(one).items()}
    for name, update in wanted.items():
        torch.testing.assert_close(dense(merged)[name], update, atol=1e-7, rtol=1e-5)
    small, _ = resize(merged, rank=2)
    for name, update in wanted.items():
        torch.testing.assert_close(dense(small)[name], best(update, 2), atol=1e-7, rtol=1e-5)


def test_merged_rank_stops_at_the_width_of_a_layer():
    one, two = LoRA.random(layout(10, 7, 10), seed=1), LoRA.random(layout(10, 7, 10), seed=2)
    merged = merge([one, two], [1.0, 1.0])
    assert [m.rank for m in merged.layout.modules] == [12, 8, 10]
    for name, update in dense(one).items():
        torch.testing.assert_close(dense(merged)[name], update + dense(two)[name], atol=1e-6, rtol=1e-5)


def test_module_of_one_lora_alone_is_in_the_sum():
    one, two = LoRA.random(layout(2, 2)), LoRA.random(layout(2, 2, 2), seed=2)
    merged = merge([one, two], [1.0, 0.5])
    torch.testing.assert_close(dense(merged)["c"], 0.5 * dense(two)["c"], atol=1e-7, rtol=1e-5)


def test_merge_keeps_marks_of_consent():
    one = LoRA(layout(1), LoRA.random(layout(1)).vector, {"lorasynth.consent": "self", "ss_sd_model_hash": "0"})
    two = LoRA(
        layout(1), LoRA.random(layout(1)).vector, {"lorasynth.consent": "subject", "lorasynth.synthetic": "true"}
    )
    assert merge([one, two], [1.0, 1.0]).metadata == {
        "lorasynth.consent": "self, subject",
        "lorasynth.synthetic": "true",
    }


def test_merge_refuses_what_does_not_fit():
    other = Layout(base="toy", modules=(Module(name="a", in_features=30, out_features=8, rank=1),))
    lora = LoRA.random(layout(1, 1, 1))
    with pytest.raises(LayoutError, match="expected LoRAs for one base model, got sd15, toy"):
        merge([lora, LoRA.random(layout(1, 1, 1, base="sd15"))], [1.0, 1.0])
    with pytest.raises(
        LayoutError, match="a: expected one shape in all LoRAs, got a Linear layer 12 -> 20 and a Linear layer 30 -> 8"
    ):
        merge([lora, LoRA.random(other)], [1.0, 1.0])
    for loras, weights in (([lora], [1.0]), ([lora, lora], [1.0])):
        with pytest.raises(UsageError, match="expected two LoRAs or more and a weight for each"):
            merge(loras, weights)
    with pytest.raises(UsageError, match="expected finite weights, got inf"):
        merge([lora, lora], [1.0, float("inf")])


# --- The verbs ---


def invoke(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.mark.parametrize("format", ["kohya", "diffusers", "peft"])
def test_resized_file_keeps_its_format_and_is_read_back(tmp_path, format):
    lora = LoRA.random(Layout.preset("sd15-w2w", rank=4))
    source = tmp_path / ("big" if format == "peft" else "big.safetensors")
    target = source.with_stem("small")
    lora.save(source, format)
    result = invoke("resize", source, "--rank", 2, "-o", target, "--dtype", "float32", "--json", tmp_path / "r.json")
    assert result.exit_code == 0, result.exception
    record = read_json(tmp_path / "r.json")
    assert (record["format"], record["base"], record["rank"]) == (format, "sd15", 2)
    back, expected = LoRA.load(target), resize(lora, rank=2)
    torch.testing.assert_close(back.vector, expected[0].vector, atol=1e-7, rtol=1e-5)
    assert record["relative_error"] == pytest.approx(expected[1])


def test_error_option_is_kept_to(tmp_path):
    LoRA.random(Layout.preset("sd15-w2w", rank=4)).save(tmp_path / "big.safetensors")
    invoke(
        "resize",
        tmp_path / "big.safetensors",
        "--error",
        0.6,
        "-o",
        tmp_path / "s.safetensors",
        "--json",
        tmp_path / "r.json",
    )
    record = read_json(tmp_path / "r.json")
    assert record["relative_error"] <= 0.6
    assert record["rank"] < 4


def test_merged_files_are_one_of_a_rank(tmp_path):
    files = [tmp_path / "one.safetensors", tmp_path / "two.safetensors"]
    loras = [LoRA.random(Layout.preset("sd15-w2w", rank=r), seed=r) for r in (1, 3)]
    for lora, file in zip(loras, files, strict=True):
        lora.save(file)
    result = invoke(
        "merge", *files, "--weights", "1,0.5", "--rank", 2, "--dtype", "float32", "-o", tmp_path / "m.safetensors"
    )
    assert result.exit_code == 0, result.exception
    expected, _ = resize(merge(loras, [1.0, 0.5]), rank=2)
    torch.testing.assert_close(LoRA.load(tmp_path / "m.safetensors").vector, expected.vector, atol=1e-7, rtol=1e-5)
    assert json.loads(result.stdout)["weights"] == [1.0, 0.5]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["resize", "IN"], "expected --rank R, --keep PART or --error E, got none"),
        (["resize", "IN", "--rank", "1", "--keep", "0.5"], "expected one of --rank, --keep and --error, got several"),
        (["resize", "IN", "--keep", "0"], "--keep: expected a part of ‖ΔW‖² above 0 and up to 1, got 0"),
        (["resize", "IN", "--error", "1"], "--error: expected a relative error from 0 to below 1, got 1"),
        (["merge", "IN"], "expected two files or more to merge, got 1"),
        (["merge", "IN", "IN", "--weights", "1"], "--weights: expected 2 numbers, one for each file, got 1"),
        (
            ["merge", "IN", "IN", "--weights", "0,0"],
            "expected an update, got zero everywhere; check the files and the weights",
        ),
        (["merge", "IN", "IN", "--weights", "1,-1"], "expected an update, got zero everywhere"),
        (
            ["merge", "IN", "IN", "--weights", "1,a"],
            "--weights: expected numbers with commas between, as 0.7,0.3, got '1,a'",
        ),
    ],
)
def test_verbs_refuse_in_one_sentence(tmp_path, words, message):
    source = tmp_path / "in.safetensors"
    LoRA.random(Layout.preset("sd15-w2w")).save(source)
    result = invoke(*[source if word == "IN" else word for word in words], "-o", tmp_path / "out.safetensors")
    assert message in str(result.exception)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.safetensors"]
