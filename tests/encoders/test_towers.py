"""CLIP and DINOv2 by tiny random models, saved as transformers saves them."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from lorasynth.encoders import Encoder, same_encoder
from lorasynth.errors import ModelError
from lorasynth.opening import open_encoder

VISION = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION |= {"image_size": 32, "patch_size": 8}
TEXT = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
IMAGENET = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
TEXT |= {"vocab_size": 50, "bos_token_id": 0, "eos_token_id": 1}


def save(model, processor, folder):
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def clip_processor():
    from transformers import CLIPImageProcessorPil

    return CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})


def clip_model(seed=0):
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(seed)
    return CLIPModel(CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=12)).eval()


@pytest.fixture
def clip(tmp_path):
    return save(clip_model(), clip_processor(), tmp_path / "clip")


@pytest.fixture
def dinov2(tmp_path):
    from transformers import BitImageProcessorPil, Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    sizes = {k: v for k, v in VISION.items() if k != "intermediate_size"} | {"image_size": 56, "patch_size": 14}
    sides = {"size": {"shortest_edge": 32}, "crop_size": {"height": 28, "width": 28}}
    processor = BitImageProcessorPil(**sides, image_mean=IMAGENET[0], image_std=IMAGENET[1])
    return save(Dinov2Model(Dinov2Config(**sizes)), processor, tmp_path / "dinov2")


def photo(size=(100, 80)):
    return Image.effect_noise(size, 80).convert("RGB")


def by_hand(image, mean, std, size, resample=Image.Resampling.BICUBIC):
    """A photo as CLIP's and DINOv2's papers prepare it: shorter side, centre, scaled by the colours' mean and spread."""
    ratio = size[0] / min(image.size)
    small = image.resize((int(image.width * ratio), int(image.height * ratio)), resample)
    left, top = (small.width - size[1]) // 2, (small.height - size[1]) // 2
    crop = small.crop((left, top, left + size[1], top + size[1]))
    values = torch.from_numpy(np.array(crop, np.float32)).permute(2, 0, 1) / 255
    return ((values - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None])[None]


def test_clip_embedding_equals_image_features_of_transformers(clip):
    encoder, image = open_encoder(f"clip:{clip}"), photo()
    pixels = by_hand(image, [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711], (32, 32))
    with torch.no_grad():
        expected = F.normalize(clip_model().get_image_features(pixel_values=pixels).pooler_output)[0]
    (reading,) = encoder.read([image])
    torch.testing.assert_close(reading.embedding, expected, atol=1e-5, rtol=0)
    assert reading.notes == ("of 100 x 80 pixels only the central square was looked at",)
    assert (encoder.dim, encoder.image_size, encoder.record["kind"]) == (12, 32, "clip")
    assert isinstance(encoder, Encoder)


def test_dinov2_embedding_equals_its_normed_class_token(dinov2):
    from transformers import Dinov2Model

    encoder, image = open_encoder(f"dinov2:{dinov2}"), photo((80, 80))
    pixels = by_hand(image, *IMAGENET, (32, 28))
    with torch.no_grad():
        expected = Dinov2Model.from_pretrained(dinov2)(pixel_values=pixels).last_hidden_state[:, 0]
    (reading,) = encoder.read([image])
    torch.testing.assert_close(reading.embedding, F.normalize(expected)[0], atol=1e-5, rtol=0)
    assert reading.notes == ()
    assert (encoder.dim, encoder.image_size) == (16, 28)


def test_photos_in_parts_are_the_photos_one_by_one(clip):
    encoder, images = open_encoder(f"clip:{clip}"), [photo() for _ in range(18)]
    torch.testing.assert_close(encoder.embed(images), torch.cat([encoder.embed([image]) for image in images]))
    assert encoder.embed([]).shape == (0, 12)
    assert encoder.read([]) == []


def test_tower_without_its_text_side_is_the_same_network(clip, tmp_path):
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(**VISION, projection_dim=12)
    vision = CLIPVisionModelWithProjection(config)
    whole = clip_model()
    vision.vision_model.load_state_dict(whole.vision_model.state_dict())
    vision.visual_projection.load_state_dict(whole.visual_projection.state_dict())
    alone = open_encoder(f"clip:{save(vision, clip_processor(), tmp_path / 'vision')}")
    image = photo()
    torch.testing.assert_close(alone.embed([image]), open_encoder(f"clip:{clip}").embed([image]))


def test_encoder_of_other_weights_or_preparation_is_another(clip, tmp_path):
    first = open_encoder(f"clip:{clip}").record
    assert set(first["files"]) == {"config.json", "preprocessor_config.json", "model.safetensors"}
    again = open_encoder(f"clip:{save(clip_model(), clip_processor(), tmp_path / 'again')}").record
    assert same_encoder(first, again)
    other = open_encoder(f"clip:{save(clip_model(1), clip_processor(), tmp_path / 'other')}").record
    assert not same_encoder(first, other)
    path = clip / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "image_mean": [0.5, 0.5, 0.5]}))
    assert not same_encoder(first, open_encoder(f"clip:{clip}").record)


def test_card_says_the_licence(clip):
    (clip / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    assert open_encoder(f"clip:{clip}").record["licence"].endswith("; the model card says: apache-2.0")


def test_weights_that_a_file_lacks_are_not_made_up(tmp_path):
    from transformers import CLIPVisionConfig, CLIPVisionModel

    bare = save(CLIPVisionModel(CLIPVisionConfig(**VISION)), clip_processor(), tmp_path / "bare")
    # transformers 5.17 writes a bare tower under other names, so that all of its weights are missed.
    with pytest.raises(ModelError, match=r"got none for (visual_projection\.weight|vision_model\.\S+ \(and 39 more\))"):
        open_encoder(f"clip:{bare}")


def test_what_is_no_tower_is_named(clip, dinov2, tmp_path):
    with pytest.raises(ModelError, match="expected a model of type dinov2 or dinov2_with_registers, got 'clip'"):
        open_encoder(f"dinov2:{clip}")
    with pytest.raises(ModelError, match="expected a model of type clip or clip_vision_model, got 'dinov2'"):
        open_encoder(f"clip:{dinov2}")
    with pytest.raises(ModelError, match="expected a folder of a clip model, got a file"):
        open_encoder(f"clip:{clip / 'config.json'}")
    (clip / "model.safetensors").rename(clip / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin.*no safetensors.*Pickled weights \(\.bin\) are not read"):
        open_encoder(f"clip:{clip}")
    (clip / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ModelError, match=r"transformers cannot open it") as caught:
        open_encoder(f"clip:{clip}")
    assert "\n" not in str(caught.value)
    (dinov2 / "preprocessor_config.json").unlink()
    with pytest.raises(ModelError, match=r"\(no preprocessor_config\.json\)"):
        open_encoder(f"dinov2:{dinov2}")
    (tmp_path / "list").mkdir()
    for name in ("config.json", "preprocessor_config.json", "model.safetensors"):
        (tmp_path / "list" / name).write_text("[]")
    with pytest.raises(ModelError, match="of type clip or clip_vision_model, got None"):
        open_encoder(f"clip:{tmp_path / 'list'}")


def test_preparation_of_older_versions_is_read_others_refused(clip):
    encoder, image, path = open_encoder(f"clip:{clip}"), photo(), clip / "preprocessor_config.json"
    new = json.loads(path.read_text())
    old = {k: v for k, v in new.items() if k != "image_processor_type"}
    path.write_text(json.dumps(old | {"feature_extractor_type": "CLIPFeatureExtractor", "size": 32, "crop_size": 32}))
    torch.testing.assert_close(open_encoder(f"clip:{clip}").embed([image]), encoder.embed([image]))
    for foreign in (new | {"image_processor_type": "ViTImageProcessor"}, ["a list"]):
        path.write_text(json.dumps(foreign))
        with pytest.raises(ModelError, match="expected photos prepared by CLIPImageProcessor, as clip is trained, got"):
            open_encoder(f"clip:{clip}")


def test_folders_own_code_is_neither_run_nor_asked_about(clip, tmp_path, monkeypatch):
    def asked(*_):
        raise AssertionError("a question on the terminal")

    monkeypatch.setattr("builtins.input", asked)
    (clip / "own.py").write_text(f"open({str(tmp_path / 'run')!r}, 'w')\nclass Own: pass\n")
    for name, what in (("config.json", "AutoModel"), ("preprocessor_config.json", "AutoImageProcessor")):
        path = clip / name
        path.write_text(json.dumps({**json.loads(path.read_text()), "auto_map": {what: "own.Own"}}))
    open_encoder(f"clip:{clip}")
    assert not (tmp_path / "run").exists()


def test_embedding_without_a_direction_is_named(tmp_path):
    model = clip_model()
    torch.nn.init.zeros_(model.visual_projection.weight)
    encoder = open_encoder(f"clip:{save(model, clip_processor(), tmp_path / 'zero')}")
    with pytest.raises(ModelError, match="the embedding of photo 1 of 2 has norm 0"):
        encoder.embed([photo(), photo()])


def test_tower_is_opened_quietly_and_logging_is_restored(clip, capfd):
    from transformers.utils import logging

    logging.set_verbosity_warning()
    logging.enable_progress_bar()
    open_encoder(f"clip:{clip}")  # whose text side is not loaded into anything
    assert capfd.readouterr() == ("", "")
    assert logging.get_verbosity() == logging.WARNING
    assert logging.is_progress_bar_enabled()
