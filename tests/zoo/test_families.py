"""A zoo of photographs on a tiny base of every family, each LoRA a file that plain diffusers draws another picture with."""

from dataclasses import replace

import pytest
import torch

from lorasynth.drawn.export import export_people
from lorasynth.lora.factors import LoRA
from lorasynth.recipes import get_zoo_config
from lorasynth.worlds.world import get_domain
from lorasynth.zoo.build import build_zoo
from lorasynth.zoo.materials import FromPhotos

from ..tiny_pipelines import SIZE, pipeline

PEOPLE, PHOTOS = 10, 5


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos") / "people"
    export_people(get_domain("portraits"), PEOPLE, PHOTOS, folder, size=64, report=lambda _: None)
    return folder


@pytest.mark.parametrize("family", ["sd2", "sdxl", "sd3", "flux"])
def test_zoo_of_photographs_is_built_and_its_files_draw(family, people, tmp_path):
    config, pipe = get_zoo_config(f"{family}_tiny"), pipeline(family)
    pipe.save_pretrained(tmp_path / family)
    short = replace(config.adapt, steps=3, batch_size=2, learning_rate=0.3)
    config = replace(config, adapt=short, pilot=replace(config.pilot, steps=2, batch_size=2), pilot_rounds=1)
    photos = FromPhotos(
        data=str(people), base=str(tmp_path / family), encoder="portraits", licence="CC0", resolution=SIZE,
        gradient_checkpointing=True,
    )  # fmt: skip
    zoo = build_zoo(config, str(tmp_path / "zoo"), photos=photos, report=None)
    assert (zoo.layout.base, zoo.verify()) == (family, [])
    _, vectors, _ = zoo.load()
    assert len(vectors) >= 2
    assert (vectors[0] - vectors[1]).abs().max() > 1e-3

    def drawn():
        return pipe(
            ["a photo of sks person"], num_inference_steps=2, generator=torch.Generator().manual_seed(0), output_type="pt",
            height=SIZE, width=SIZE,
        ).images  # fmt: skip

    plain = drawn()
    file = LoRA(zoo.layout, vectors[0]).save(tmp_path / "one.safetensors", "diffusers")
    pipe.load_lora_weights(tmp_path, weight_name=file.name)
    assert (drawn() - plain).abs().max() > 1e-3
