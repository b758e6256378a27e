"""A base by name: the folders that diffusers writes, what is refused before anything large is read, and why."""

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

from lorasynth.base import sample
from lorasynth.base.opening import FAMILIES, PRECISIONS, open_pipeline
from lorasynth.errors import ModelError, UsageError
from lorasynth.opening import open_base

from ..tiny_pipelines import SIZE, pipeline
from .ldm import checkpoint


@pytest.fixture
def folder(tmp_path):
    """Function from a family to the folder of its tiny pipeline."""

    def saved(family, **options):
        pipeline(family).save_pretrained(tmp_path / family, **options)
        return tmp_path / family

    return saved


def test_folder_opens_as_its_family_and_predicts_the_same(bases, base, folder):
    opened = open_base(str(folder(base.family)), resolution=SIZE)
    assert (type(opened), opened.family, opened.name) == (type(base), base.family, opened.name)
    noise = torch.randn(1, *base.latent_shape, generator=torch.Generator().manual_seed(0))
    pictures = [sample(b, noise, b.prompts(["a photo"]), num_inference_steps=2) for b in (opened, base)]
    torch.testing.assert_close(*pictures)


def test_half_precision_keeps_the_vae_in_float32(folder):
    opened = open_base(str(folder("sdxl")), precision="bf16")
    kinds = {
        name: next(part.parameters()).dtype
        for name, part in opened.pipe.components.items()
        if hasattr(part, "parameters")
    }
    assert kinds == {
        "vae": torch.float32, "unet": torch.bfloat16, "text_encoder": torch.bfloat16, "text_encoder_2": torch.bfloat16
    }  # fmt: skip


@pytest.mark.parametrize("family", ["sd15", "flux"])
def test_folder_of_the_half_variant_opens_in_float32(family, tmp_path):
    pipeline(family).to(torch.float16).save_pretrained(tmp_path, variant="fp16")
    assert not list(tmp_path.glob("vae/diffusion_pytorch_model.safetensors"))
    opened = open_base(str(tmp_path))
    assert {next(part.parameters()).dtype for part in (opened.denoiser, opened.pipe.vae)} == {torch.float32}


def test_drawn_world_opens_by_its_name():
    base = open_base("portraits")
    assert (base.name, base.family, base.latent_shape) == ("portraits", "portraits", (16, 8, 8))


@pytest.mark.parametrize("options", [{"resolution": 128}, {"precision": "bf16"}])
def test_drawn_world_of_other_settings_is_refused(options):
    with pytest.raises(UsageError, match="expected resolution 64 and precision fp32 for the drawn world portraits"):
        open_base("portraits", **options)


def test_unknown_precision_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"expected a precision among \['bf16', 'fp32'\], got 'fp8'"):
        open_pipeline(str(tmp_path), precision="fp8")


def test_name_of_nothing_is_refused(tmp_path):
    for name in (str(tmp_path / "missing"), "no such thing", "a/b/c"):
        with pytest.raises(ModelError, match=r"expected a pipeline's folder, a \.safetensors checkpoint or a hub id"):
            open_base(name)


def test_hub_id_that_cannot_be_had_is_refused():
    with pytest.raises(ModelError, match="nobody/nothing: no such folder, and the hub could not give it"):
        open_base("nobody/nothing")


def test_folder_of_a_part_is_refused(folder):
    with pytest.raises(ModelError, match=r"got one without model_index\.json; give the folder above"):
        open_base(str(folder("sd15") / "unet"))


def test_pipeline_of_another_family_is_refused_before_it_is_read(tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "WanPipeline"}))
    with pytest.raises(
        ModelError, match=r"expected a pipeline among \['AuraFlowPipeline', 'FluxPipeline', .*got WanPipeline"
    ):
        open_base(str(tmp_path))


@pytest.mark.parametrize("index", ["", "[]", "{}", '{"_class_name": 3}'])
def test_broken_index_is_refused(tmp_path, index):
    (tmp_path / "model_index.json").write_text(index)
    with pytest.raises(
        ModelError, match=r"expected JSON|expected a pipeline's table of parts|expected a pipeline among"
    ):
        open_base(str(tmp_path))


def test_missing_weights_are_refused(folder):
    place = folder("sd15")
    next(place.glob("unet/*.safetensors")).unlink()
    with pytest.raises(ModelError, match="cannot be opened as a pipeline"):
        open_base(str(place))


@pytest.mark.parametrize(
    ("lacking", "named"),
    [
        ("scheduler", "expected scheduler/,"),
        ("unet", "expected unet/,"),
        ("tokenizer", "expected tokenizer/tokenizer_config.json,"),
        ("tokenizer/tokenizer_config.json", "expected tokenizer/tokenizer_config.json,"),
        ("tokenizer/tokenizer.json", "expected tokenizer/tokenizer.json or vocab.json"),
    ],
)
def test_folder_without_a_part_names_the_part(lacking, named, folder):
    place = folder("sd15")
    shutil.rmtree(place / lacking) if (place / lacking).is_dir() else (place / lacking).unlink()
    with pytest.raises(ModelError, match=f"{named}.*got none; take it from where the base is from"):
        open_base(str(place))


@pytest.mark.slow
def test_weights_as_a_pickle_are_not_read(folder):
    with pytest.raises(ModelError, match="cannot be opened as a pipeline"):
        open_base(str(folder("sd15", safe_serialization=False)))


@pytest.mark.parametrize("name", ["model_index.json", "me.png", "checkpoint"])
def test_file_that_is_no_checkpoint_is_refused(tmp_path, name):
    (tmp_path / name).write_text("{}")
    with pytest.raises(ModelError, match=r"expected a pipeline's folder or a \.safetensors checkpoint, got a file"):
        open_base(str(tmp_path / name))


@pytest.mark.parametrize("name", ["model.ckpt", "model.pt", "model.bin"])
def test_pickled_checkpoint_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x80\x04.")
    with pytest.raises(ModelError, match=r"expected a \.safetensors checkpoint; pickles are not opened"):
        open_base(str(tmp_path / name))


def test_missing_checkpoint_is_refused(tmp_path):
    with pytest.raises(ModelError, match="not found"):
        open_base(str(tmp_path / "model.safetensors"))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("lora_unet_mid_block_attn.lora_down.weight", "expected a whole checkpoint, got a LoRA"),
        ("some.weight", "expected a checkpoint of .*'xl_base'"),
        ("blocks.0.cross_attn.norm_k.weight", "expected a checkpoint of"),
    ],
)
def test_checkpoint_of_something_else_is_refused(tmp_path, name, words):
    save_file({name: torch.zeros(2, 2)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=words):
        open_base(str(tmp_path / "model.safetensors"))


def test_checkpoint_without_its_configuration_says_so(tmp_path):
    save_file(
        {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(8, 4, 3, 3)}, tmp_path / "model.safetensors"
    )
    with pytest.raises(
        ModelError, match=r"takes a checkpoint's configuration and tokenizers from the hub \(family v1\)"
    ):
        open_base(str(tmp_path / "model.safetensors"))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_checkpoint_opens_as_the_pipeline_that_it_was_written_of(bases, folder, tmp_path, monkeypatch, precision):
    """The one thing that is not the file's, its configuration, lies where the hub's would be."""
    from diffusers.loaders import single_file_utils

    config = {"pretrained_model_name_or_path": str(folder("sd15"))}
    monkeypatch.setitem(single_file_utils.DIFFUSERS_DEFAULT_PIPELINE_PATHS, "v1", config)
    base = bases("sd15")
    save_file(checkpoint(base.pipe), tmp_path / "model.safetensors")
    opened = open_base(str(tmp_path / "model.safetensors"), precision=precision)
    assert opened.family == "sd15"
    assert (opened.pipe.vae.dtype, opened.pipe.unet.dtype) == (torch.float32, PRECISIONS[precision])
    noise = torch.randn(1, *base.latent_shape, generator=torch.Generator().manual_seed(0))
    ours, theirs = (sample(b, noise, b.prompts(["a photo"]), num_inference_steps=2) for b in (opened, base))
    tolerance = 1e-6 if precision == "fp32" else 0.1
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance * theirs.abs().max().item())


def test_families_are_diffusers_pipelines():
    import diffusers

    assert all(hasattr(diffusers, name) for name in FAMILIES)
