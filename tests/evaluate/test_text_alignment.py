"""CLIP text alignment: transformers' own cosines of pictures and prompts, and what is no whole CLIP model is refused."""

import shutil

import pytest
import torch
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPVisionModelWithProjection

from lorasynth.encoders import to_image
from lorasynth.errors import ModelError, UsageError
from lorasynth.evaluate.text_alignment import TextAlignment

from ..tiny_pipelines import clip_folder

PROMPTS = ["a photo of sks person", "a painting in the garden"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return clip_folder(tmp_path_factory.mktemp("clip") / "tiny-clip")


def test_cosines_are_those_of_transformers(clip):
    pictures = torch.rand(2, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    alignment = TextAlignment(str(clip))
    model, tokens = CLIPModel.from_pretrained(clip), alignment._tokenizer(PROMPTS, padding=True, return_tensors="pt")
    pixels = CLIPImageProcessorPil.from_pretrained(clip)(
        images=[to_image(picture) for picture in pictures.flatten(0, 1)], return_tensors="pt"
    )
    with torch.no_grad():
        cosines = model(**tokens, **pixels).logits_per_image / model.logit_scale.exp()
    expected = cosines.unflatten(0, (2, 2)).diagonal(dim1=1, dim2=2).mean(1)
    torch.testing.assert_close(alignment(pictures, PROMPTS), expected, atol=1e-5, rtol=0)
    assert (alignment.name, TextAlignment(f"clip:{clip}").name) == ("tiny-clip", "tiny-clip")
    assert expected.std() > 1e-3


def test_long_prompt_is_cut(clip):
    alignment = TextAlignment(str(clip))
    embedded = alignment.embed(["a photo", " ".join(["person"] * 200)])
    torch.testing.assert_close(embedded.norm(dim=1), torch.ones(2))


def test_what_is_no_whole_clip_is_refused(clip, tmp_path):
    with pytest.raises(UsageError, match="expected an encoder"):
        TextAlignment(str(tmp_path / "nothing"))
    bare = shutil.copytree(clip, tmp_path / "bare")
    for name in ("tokenizer.json", "vocab.json", "merges.txt"):
        (bare / name).unlink(missing_ok=True)
    with pytest.raises(ModelError, match=r"bare: expected CLIP's tokenizer\.json, got none; take it"):
        TextAlignment(str(bare))
    few = shutil.copytree(clip, tmp_path / "few")
    config = CLIPConfig.from_pretrained(few)
    config.text_config.vocab_size = 40
    CLIPModel(config).save_pretrained(few)
    with pytest.raises(ModelError, match=r"few: expected at most 40 words, got \d+; get its own tokenizer"):
        TextAlignment(str(few))
    vision = shutil.copytree(clip, tmp_path / "vision")
    model = CLIPModel.from_pretrained(clip)
    config = model.config.vision_config
    config.projection_dim = model.config.projection_dim
    CLIPVisionModelWithProjection(config).save_pretrained(vision)
    with pytest.raises(
        ModelError, match="expected CLIP with its text tower, got 'clip_vision_model' alone; give the whole"
    ):
        TextAlignment(str(vision))
