"""Copies of the zoo's LoRAs are found, in any gauge and size; new LoRAs are not taken for copies."""

import pytest
import torch

import lorasynth.evaluate.memorisation as memorisation
from lorasynth.canonical import Canonicalizer
from lorasynth.errors import LayoutError, ZooError
from lorasynth.evaluate.memorisation import Memorisation, nearest
from lorasynth.lora.layout import Layout
from lorasynth.zoo.store import Zoo

from ..making import sd15_layout

LAYOUT = sd15_layout(rank=2)
P = LAYOUT.num_parameters
ZERO = torch.zeros(P)


def loras(count, seed):
    return torch.randn(count, P, generator=torch.Generator().manual_seed(seed))


def make_zoo(folder, vectors, persons=None, split="train", layout=LAYOUT):
    """A zoo of shards of five."""
    zoo, persons = Zoo.create(folder, layout, {}, None), persons or list(range(len(vectors)))
    for start in range(0, len(vectors), 5):
        part = slice(start, start + 5)
        rows, who = vectors[part], persons[part]
        names = [f"item-{start + i}" for i in range(len(rows))]
        faces = torch.ones(len(rows), 1, 8)
        zoo.append(f"shard-{start:03d}", who, [split] * len(rows), rows, faces, "made up", "CC0", ids=names)
    return Zoo.open(folder)


@pytest.fixture
def zoo(tmp_path):
    return make_zoo(tmp_path / "zoo", loras(33, 1))


def updates(vectors):
    return torch.cat([(B @ A).flatten(1) for A, B in LAYOUT.split(vectors.double()).values()], dim=1)


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_nearest_is_that_of_updates_formed_in_full(zoo, monkeypatch, chunk):
    monkeypatch.setattr(memorisation, "_CHUNK_NUMBERS", chunk * P)
    vectors, mean = loras(11, 2), loras(1, 3)[0]
    found = nearest(zoo, mean, vectors)
    theirs = updates(torch.cat([row[None] for s in sorted({i.shard for i in zoo.items}) for _, row, _ in zoo.rows(s)]))
    distance = torch.cdist(updates(vectors), theirs)
    unit = [torch.nn.functional.normalize(u - updates(mean[None]), dim=1) for u in (updates(vectors), theirs)]
    torch.testing.assert_close(found.distance, distance.min(1).values)
    torch.testing.assert_close(found.cosine, (unit[0] @ unit[1].T).max(1).values)
    assert found.ids == [f"item-{i}" for i in distance.argmin(1).tolist()]


def test_copies_are_found_in_another_gauge_and_in_another_size(zoo):
    measure = fitted(zoo)
    copies = zoo.load("train")[1][:8]
    g = torch.tensor([[2.0, 1.0], [0.0, -1.0]])
    turned = LAYOUT.join({name: (g @ A, B @ g.inverse()) for name, (A, B) in LAYOUT.split(copies).items()})
    larger = LAYOUT.join({name: (A, 3 * B) for name, (A, B) in LAYOUT.split(copies).items()})
    near = measure.of(turned)
    assert (near["too_near"], near["too_aligned"]) == (1, 1)
    assert near["distance"]["p99"] < 1e-4
    assert nearest(zoo, ZERO, turned).ids == [f"item-{i}" for i in range(8)]
    far = measure.of(larger)
    assert (far["too_near"], far["too_aligned"]) == (0, 1)


@pytest.mark.slow
def test_new_loras_of_the_same_kind_are_no_copies(tmp_path):
    measure = fitted(make_zoo(tmp_path / "zoo", loras(400, 1)))
    found = measure.of(loras(400, 2))
    assert found["too_near"] < 0.03
    assert found["too_aligned"] < 0.03
    assert found["distance"]["p50"] == pytest.approx(memorisation.quantiles(measure.own.distance)["p50"], rel=0.05)


def test_lora_that_is_the_mean_has_no_direction(zoo):
    mean = loras(1, 5)[0]
    assert nearest(zoo, mean, mean[None]).cosine.tolist() == [0]


def test_another_lora_of_the_same_person_is_no_neighbour(tmp_path):
    once = loras(10, 1)
    twice = make_zoo(tmp_path / "zoo", torch.cat([once, once + 1e-3]), persons=list(range(10)) * 2)
    assert nearest(twice, ZERO, *reversed(memorisation._sample(twice, list(twice.items)))).distance.min() > 1


def test_people_held_back_stand_beside_the_methods(tmp_path):
    make_zoo(tmp_path / "zoo", loras(20, 1))
    held = loras(3, 2)
    zoo = Zoo.open(tmp_path / "zoo")
    zoo.append("held", [97, 98, 99], ["validation"] * 3, held, torch.ones(3, 1, 8), "made up", "CC0")
    measure = fitted(Zoo.open(tmp_path / "zoo"))
    record = measure.record({"adalora": measure.of(held)})
    assert record["zoo_loras"] == record["sampled"] == 20
    assert record["methods"]["held_back"]["distance"] == pytest.approx(
        record["methods"]["adalora"]["distance"], rel=1e-2
    )


def test_zoo_that_model_cannot_have_learned_from_is_refused(tmp_path):
    form = form_of(LAYOUT)
    with pytest.raises(LayoutError, match=r"expected a zoo of the model's layout, got another .*rank 1"):
        Memorisation.fit(
            form, make_zoo(tmp_path / "other", torch.ones(2, sd15_layout(1).num_parameters), layout=sd15_layout(1))
        )
    with pytest.raises(ZooError, match="expected training LoRAs of at least two people"):
        Memorisation.fit(form, make_zoo(tmp_path / "held", loras(3, 1), split="held_out"))


def form_of(layout: Layout):
    """A canonical form of which only layout and mean are looked at; its mean is nothing."""
    nothing = torch.zeros(layout.num_parameters)
    return Canonicalizer(
        layout=layout, gauge="procrustes", reference=nothing, mean=nothing, scale=nothing, active=nothing == 0
    )


def fitted(zoo):
    return Memorisation.fit(form_of(LAYOUT), zoo, report=lambda _: None)
