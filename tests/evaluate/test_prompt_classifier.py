"""Who judges prompts. The base says by which a picture is likeliest: by its own loss, rightly, and never of no picture."""

import pytest
import torch

from lorasynth.base import denoising_loss
from lorasynth.base.opening import as_base
from lorasynth.devices import noise_on_cpu
from lorasynth.evaluate.prompt_classifier import PROMPT, PromptClassifier, drawn_obedience, prompt_judge, spread
from lorasynth.subjects.drawn import DrawnSubjects
from lorasynth.worlds.world import get_world

from ..tiny_pipelines import FAMILIES, SIZE, pipeline

PROMPTS = ["a photo of sks person", "a painting of sks person", "a photo in the garden"]
REAL = list(range(60_000, 60_024))


@pytest.fixture(scope="module")
def world():
    return get_world("portraits")


@pytest.fixture(scope="module")
def photos(world):
    """One photo of each of some people, and what its caption says of the background alone."""
    numbers = [0] * len(REAL)
    said = [caption.split(", ")[2] for caption in world.domain.captions(REAL, numbers)]
    return world.draw(REAL, numbers, 64)[None], [f"a photo of sks person, {background}" for background in said]


@pytest.mark.integration
def test_real_photos_show_the_background_that_their_captions_say(world, photos):
    pictures, prompts = photos
    judge = PromptClassifier(base=world.base)
    right, wrong = (judge.obeyed(pictures, asked)[PROMPT] for asked in (prompts, prompts[1:] + prompts[:1]))
    assert right > 0.9  # by chance one in four
    same = sum(a == b for a, b in zip(prompts, prompts[1:] + prompts[:1], strict=True)) / len(prompts)
    assert wrong < same + 0.15


@pytest.mark.integration
@pytest.mark.parametrize("family", FAMILIES)
def test_least_loss_of_the_base_alone_wins(family):
    base, generator = as_base(pipeline(family), f"tiny-{family}", SIZE), torch.Generator().manual_seed(1)
    pictures = torch.rand(5, 3, 3, SIZE, SIZE, generator=generator)
    judge = PromptClassifier(base=base, levels=(0.4, 0.8))
    noise, expected = noise_on_cpu(2, *base.latent_shape, seed=0), torch.zeros(5, 3, 3)
    with torch.no_grad():
        for n, k, asked in torch.cartesian_prod(torch.arange(5), torch.arange(3), torch.arange(3)).tolist():
            x, prompt = base.encode(pictures[n, k][None]), base.prompts(PROMPTS)[[asked]]
            for place, its_noise in zip(judge.levels, noise, strict=True):
                level = base.schedule.level(torch.tensor([place]))
                expected[n, k, asked] += denoising_loss(base, x, its_noise[None], level, prompt)[0]
    assert (judge.wins(pictures, PROMPTS) == (expected.argmin(2) == torch.arange(3))).all()


@pytest.mark.slow
def test_picture_of_no_numbers_shows_nothing_asked():
    judge = PromptClassifier(base=as_base(pipeline("sd15"), "tiny", SIZE))
    assert judge.obeyed(torch.full((1, 3, 3, SIZE, SIZE), float("nan")), PROMPTS) == {PROMPT: 0.0}


@pytest.mark.parametrize("prompts", [[], ["a photo"], ["a photo", "a photo"]])
def test_one_prompt_has_no_rival(prompts):
    judge = PromptClassifier(base=as_base(pipeline("sd15"), "tiny", SIZE))
    assert judge.obeyed(torch.zeros(1, len(prompts), 3, SIZE, SIZE), prompts) == {}


@pytest.mark.integration
def test_world_judges_by_its_probe_and_photographs_by_the_base(world):
    subjects = DrawnSubjects(world)
    extras = subjects.extras()
    assert prompt_judge(subjects.base, extras) is extras.probe
    assert prompt_judge(subjects.base, None) == PromptClassifier(base=subjects.base)


def test_what_is_shown_least_often_counts():
    class TwoParts:
        def obeyed(self, pictures, prompts):
            assert pictures.shape[:2] == (2, 3)
            assert prompts == PROMPTS
            return {"background": 0.9, "expression": 0.4}

    base = as_base(pipeline("sd15"), "tiny", SIZE)
    layout = base.layout(2)
    nobody = torch.zeros(2, layout.num_parameters)
    assert drawn_obedience(TwoParts(), base, PROMPTS, layout, nobody) == 0.4


def test_rivals_are_spread_over_the_list():
    assert spread(list(range(16)), 4) == [0, 4, 8, 12]
    assert spread([1, 2], 3) == [1, 2]
