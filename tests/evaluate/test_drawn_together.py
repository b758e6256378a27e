"""Pictures that several processes draw for an evaluation are those of one."""

from concurrent.futures import ProcessPoolExecutor

import pytest
import torch

from lorasynth.evaluate.methods import EvaluationConfig, draw_pictures, evaluate, lora_vectors
from lorasynth.evaluate.pictures import draw_part, open_for_pictures
from lorasynth.gallery import Split
from lorasynth.workers.helpers import process_pool

FEW = EvaluationConfig(people=18, methods=("mean", "nearest"), num_inference_steps=1)


class SameProcess(ProcessPoolExecutor):
    """A pool that counts what it is given and does it here."""

    def __init__(self):
        self.sizes = []

    def map(self, work, parts):
        for part in parts:
            self.sizes.append(len(part))
            yield work(part)


@pytest.fixture(scope="module")
def opened():
    with open_for_pictures("portraits128", None, None) as found:
        yield found


@pytest.fixture(scope="module")
def vectors(opened):
    people = opened.subjects.people(Split.HELD_OUT, FEW.people)
    return opened.model.synthesize(opened.subjects.given(people)[:, 0], prior="nearest")


def test_parts_are_the_whole_bit_for_bit(opened, vectors):
    pool = SameProcess()
    pictures, seconds = opened._draw_together(pool, FEW, vectors)
    alone, _ = draw_pictures(opened.subjects, opened.model.canonicalizer.layout, vectors, FEW)
    assert pool.sizes == [16, 2]
    assert pictures.shape == (18, len(opened.subjects.prompts), 3, 128, 128)
    assert torch.equal(pictures, alone)
    assert 0 < seconds < 900


def test_part_is_drawn_by_the_settings_that_are_asked_for(opened, vectors):
    few = vectors[:2].numpy()
    drawn, _ = draw_part(opened.folder, None, opened.place, FEW, few)
    other, _ = draw_part(opened.folder, None, opened.place, EvaluationConfig(num_inference_steps=1, seed=1), few)
    assert drawn.shape == other.shape
    assert abs(drawn - other).max() > 0.1


def lora_of(opened, people, photos):
    config = EvaluationConfig(photos=photos, methods=("ridge",))
    return lora_vectors(opened.subjects, opened.model, people, opened.fine_tuning, config, None, print)["ridge"]


def test_lora_of_several_photos_is_that_of_their_mean_direction(opened):
    people = opened.subjects.people(Split.HELD_OUT, 2)
    given = opened.subjects.given(people, 3)
    mean = given.sum(1) / given.sum(1).norm(dim=1, keepdim=True)
    expected = opened.model.synthesize(mean, prior="ridge")
    torch.testing.assert_close(lora_of(opened, people, 3), expected, rtol=1e-4, atol=1e-6)
    assert (lora_of(opened, people, 1) - expected).norm() > 0.05 * expected.norm()


def test_scale_that_is_asked_for_replaces_the_chosen_one(opened):
    people, model = opened.subjects.people(Split.HELD_OUT, 2), opened.model
    config = EvaluationConfig(scale=0.5, methods=("ridge",))
    found = lora_vectors(opened.subjects, model, people, opened.fine_tuning, config, None, print)["ridge"]
    given = opened.subjects.given(people)[:, 0]
    torch.testing.assert_close(found, model.synthesize(given, prior="ridge", scale=0.5))
    assert model.settings["ridge"]["scale"] != 0.5


def test_photo_that_is_there_once_counts_once(opened, monkeypatch):
    """A folder's subject of two photos, asked for three."""
    people = opened.subjects.people(Split.HELD_OUT, 1)
    two, given = lora_of(opened, people, 2), opened.subjects.given
    monkeypatch.setattr(opened.subjects, "given", lambda people, count: given(people, 2)[:, [0, 1, 0]])
    torch.testing.assert_close(lora_of(opened, people, 3), two, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_record_is_of_whoever_draws(opened, vectors):
    blank = torch.zeros(18, len(opened.subjects.prompts), 3, 128, 128)
    record, pictures = evaluate(
        opened.subjects, opened.model, opened.fine_tuning, FEW, draw=lambda _: (blank, 9.0), report=lambda _: None
    )
    assert record["seconds"]["picture"] == 9.0 / blank[:, :, 0, 0, 0].numel()
    assert torch.equal(pictures["nearest"], blank[:8])
    assert record["methods"]["nearest"]["similarity"]["mean"] < 0.3


def test_no_process_is_started_before_there_is_work():
    with process_pool(2, torch.set_num_threads, 1) as pool:
        assert not pool._processes
