"""Numbers that no change of structure may move: the base's loss, pictures, both losses through it, a zoo, a synthesised LoRA.

They were computed on another machine, hence the tolerance of 1e-4 (relative): CPUs differ in the last digits of float32.
"""

from dataclasses import replace

import pytest
import torch

from lorasynth.base import denoising_loss, render
from lorasynth.encoders.images import to_image
from lorasynth.lora.factors import LoRA
from lorasynth.recipes import get_recipe
from lorasynth.refining import Judge, RefineConfig
from lorasynth.synthesizer import Synthesizer
from lorasynth.training import Share
from lorasynth.worlds.recogniser import LatentNet
from lorasynth.worlds.world import get_world
from lorasynth.zoo.build import build_zoo

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def world():
    return get_world("portraits")


@pytest.fixture(scope="module")
def layout(world):
    return world.base.layout(2)


@pytest.fixture(scope="module")
def vectors(layout):
    return torch.stack([LoRA.random(layout, seed=seed, std=0.05).vector for seed in range(2)])


@pytest.fixture(scope="module")
def photos(world):
    return world.photos([7, 21], 3, first=100)


def norm(x):
    """The length of all numbers together, as something to compare with."""
    return pytest.approx(x.double().norm().item(), rel=1e-4)


def test_base_loss_is_as_it_was(world, photos):
    x, prompts, _ = photos.batch(torch.arange(2)[:, None], torch.tensor([[0, 1], [0, 1]]))
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    level = world.base.schedule.row(torch.tensor([100, 400, 700, 999]))
    with torch.no_grad():
        losses = denoising_loss(world.base, x, noise, level, prompts)
    assert norm(losses) == 0.4750697926955967
    assert losses[:3].tolist() == pytest.approx([0.18989091, 0.13123266, 0.15748101], rel=1e-4)


@pytest.mark.parametrize(("guidance_scale", "expected"), [(1.0, 120.11147097692293), (2.0, 123.54790049169979)])
def test_pictures_are_as_they_were(world, layout, vectors, guidance_scale, expected):
    prompts = list(world.prompts[:2])
    pictures = render(
        world.base, prompts, layout, vectors, seed=3, guidance_scale=guidance_scale, num_inference_steps=4
    )
    assert norm(pictures) == expected


@pytest.mark.parametrize(
    ("states", "loss", "gradient"),
    [("photo", 0.9566206932067871, 0.039291804342764025), ("drawn", 0.9195376634597778, 0.02943773892869666)],
)
def test_losses_through_the_base_are_as_they_were(world, layout, vectors, photos, states, loss, gradient):
    torch.manual_seed(0)
    critic = LatentNet(16).eval().requires_grad_(False)
    learned = vectors.clone().requires_grad_()
    judge = Judge(world.base, layout, critic, RefineConfig(states=states, drawing_steps=4))
    value = judge.loss(learned, photos, Share(torch.Generator().manual_seed(3)))
    value.backward()
    assert value.item() == pytest.approx(loss, rel=1e-4)
    assert norm(learned.grad) == gradient


def test_zoo_is_as_it_was(tmp_path):
    tiny = get_recipe("portraits_tiny").zoo
    zoo = build_zoo(
        replace(tiny, people=6, validation_people=2, bank=4, pilot_people=4), str(tmp_path / "zoo"), report=None
    )
    _, vectors, _ = zoo.load()
    assert len(vectors) == 8
    assert norm(vectors) == 15.251744749397497


def test_synthesised_lora_is_as_it_was(world, tmp_path):
    photo = tmp_path / "photo.png"
    to_image(world.draw([7], [0], 256)[0]).save(photo)
    lora = Synthesizer.from_pretrained()(photo, seed=0)
    assert norm(lora.vector) == 45.706547775351545
    assert lora.vector[-3:].tolist() == pytest.approx([-0.29091108, -0.03575964, 0.1198194], rel=1e-4)  # of lora_B
