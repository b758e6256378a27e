"""Where LoRAs start."""

from dataclasses import replace

import pytest
import torch

from lorasynth.errors import LayoutError, UsageError, ZooError
from lorasynth.lora.factors import LoRA
from lorasynth.synthesizer import Synthesizer
from lorasynth.zoo.adapt import AdaptConfig
from lorasynth.zoo.build import build_zoo
from lorasynth.zoo.config import ZooConfig
from lorasynth.zoo.initial_vectors import predictor, with_lora_A


@pytest.fixture
def few(tiny):
    layout = tiny[1]
    return layout, torch.stack([LoRA.random(layout, seed=i).vector for i in range(3)])


def delta_W(layout, vectors, name):
    A, B = layout.split(vectors)[name]
    return B.double() @ A.double()


def test_another_lora_A_of_the_same_rows_changes_no_update(few):
    layout, vectors = few
    turned = layout.split(vectors[:1])
    G = torch.randn(2, 2, generator=torch.Generator().manual_seed(3)) + 2 * torch.eye(2)
    init = layout.join({name: (G @ A, torch.zeros_like(B)) for name, (A, B) in turned.items()})[0]
    moved = with_lora_A(layout, vectors[:1], init)
    for m in layout.modules:
        a, _ = layout.slices[m.name]
        assert torch.equal(moved[0, a], init[a])
        torch.testing.assert_close(
            delta_W(layout, moved, m.name), delta_W(layout, vectors[:1], m.name), rtol=1e-4, atol=1e-6
        )


def test_with_other_rows_the_update_is_the_nearest_one(few):
    layout, vectors = few
    init = LoRA.random(layout, seed=9).vector
    moved = with_lora_A(layout, vectors, init)
    for m in layout.modules:
        A, _ = layout.split(init[None])[m.name]
        rows = A[0].double()
        projection = rows.T @ torch.linalg.solve(rows @ rows.T, rows)
        expected = delta_W(layout, vectors, m.name) @ projection
        torch.testing.assert_close(delta_W(layout, moved, m.name), expected, rtol=1e-4, atol=1e-6)


def test_zero_and_mean_are_the_shared_initialisation(few):
    layout, vectors = few
    init, embeddings = vectors[0], torch.zeros(2, 3, 8)
    assert torch.equal(predictor("mean", "", layout)(init, embeddings), init.expand(2, -1))
    zero = predictor("zero", "", layout)(init, embeddings)
    for a, b in layout.slices.values():
        assert torch.equal(zero[:, a], init[a].expand(2, -1))
        assert not zero[:, b].any()
    assert init[layout.slices[layout.modules[0].name][1]].any()  # a copy was emptied


def test_prior_predicts_from_a_persons_mean_embedding():
    model = Synthesizer.from_pretrained()
    layout = model.canonicalizer.layout
    embeddings = torch.nn.functional.normalize(
        torch.randn(2, 3, 1024, generator=torch.Generator().manual_seed(0)), dim=2
    )
    predicted = model.synthesize(torch.nn.functional.normalize(embeddings.mean(1), dim=1), prior="ridge")
    starts = predictor("ridge", "", layout)(predicted[0], embeddings)
    name = layout.modules[0].name
    torch.testing.assert_close(
        delta_W(layout, starts[:1], name), delta_W(layout, predicted[:1], name), rtol=1e-3, atol=1e-6
    )
    assert (starts[0] - starts[1]).abs().max() > 1e-3


def test_start_of_a_person_does_not_depend_on_the_bank(tmp_path):
    """Of a model whose own settings ask for noise, which is another one in each row of a batch."""
    model = Synthesizer.from_pretrained()
    model.settings["adalora"] = {"temperature": 1.0, "num_inference_steps": 2}
    model.save_pretrained(tmp_path / "noisy")
    layout, embeddings = model.canonicalizer.layout, torch.randn(3, 2, 1024, generator=torch.Generator().manual_seed(0))
    predict, init = predictor("adalora", str(tmp_path / "noisy"), layout), model.canonicalizer.mean
    torch.testing.assert_close(predict(init, embeddings)[2:], predict(init, embeddings[2:]), rtol=1e-4, atol=1e-6)


def test_unknown_prior_and_another_layout_are_refused(tiny):
    with pytest.raises(UsageError, match=r"or a prior among .*'ridge'.*got 'oracle'"):
        predictor("oracle", "portraits128", tiny[1])
    with pytest.raises(LayoutError, match="expected a synthesizer of the zoo's layout"):
        predictor("ridge", "portraits128", tiny[1])
    with pytest.raises(UsageError, match="expected start_model, the folder of a synthesizer for 'sd15', got none"):
        predictor("ridge", "", tiny[1])


@pytest.mark.slow
def test_zoo_built_from_predictions_says_so_and_holds_them(tmp_path):
    """With no step of training worth the name, what is stored is what was predicted."""
    still = AdaptConfig(steps=1, batch_size=1, learning_rate=1e-12)
    config = ZooConfig(
        world="portraits128", people=2, validation_people=1, photos=1, embedding_photos=2, bank=2, pilot_people=2, pilot_rounds=1,
        pilot=replace(still, lora_A="shared"), adapt=still, start="ridge",
    )  # fmt: skip
    zoo = build_zoo(config, str(tmp_path / "zoo"), report=None)
    assert zoo.recipe["start"] == "ridge"
    _, vectors, embeddings = zoo.load("train")
    expected = predictor("ridge", "", zoo.layout)(zoo.init(), embeddings)
    name = zoo.layout.modules[0].name
    stored = delta_W(zoo.layout, vectors, name)
    assert stored.norm() > 0.1
    assert (stored - delta_W(zoo.layout, expected, name)).norm() < 0.02 * stored.norm()  # shards are float16
    with pytest.raises(ZooError, match="another recipe"):
        build_zoo(replace(config, start="zero"), str(tmp_path / "zoo"), report=None)
    # Zoos of the default start have the recipe that they had before there was a choice, and can be gone on with.
    mean = build_zoo(replace(config, start="mean"), str(tmp_path / "mean"), report=None)
    assert not {"start", "start_model"} & mean.recipe.keys()
