"""The best scale that obeys first, then the best sampler at that scale; the mean has nothing to choose. Then the best prior."""

import pytest
import torch

from lorasynth.errors import ModelError
from lorasynth.pipeline import tuning
from lorasynth.pipeline.choosing import (
    LESS_OBEDIENT,
    SAMPLERS,
    choose_default,
    choose_settings,
    format_settings,
    tolerance,
)
from lorasynth.prior import Denoiser, DiffusionPrior, KernelPrior, MeanPrior, RidgePrior
from lorasynth.subjects.drawn import DrawnSubjects
from lorasynth.synthesizer import Synthesizer
from lorasynth.worlds.world import get_world


def test_scale_then_sampler_are_chosen_and_all_tries_told():
    ridge = RidgePrior(torch.zeros(2, 8), torch.zeros(2))
    priors = {
        "a": DiffusionPrior(Denoiser(2, 8, width=8, depth=1)),
        "ridge": ridge,
        "mean": MeanPrior(torch.ones(3, 2)),
    }
    model = Synthesizer.__new__(Synthesizer)  # with nothing but what settings are chosen for
    model.priors, model.settings = priors, {"mean": {"scale": 7}}

    asked = []

    def score(name, settings):
        """Best at scale 2; of samplers, at temperature 0.5, which is not the one that scales are tried with."""
        asked.append((name, format_settings(settings)))
        return -abs(settings["scale"] - 2) - abs(settings.get("temperature", 0.5) - 0.5)

    tried = choose_settings(model, (1.0, 2.0, 3.0), score)
    assert model.settings == {
        "a": {"scale": 2.0, "temperature": 0.5, "guidance_scale": 1.0, "num_inference_steps": 8},
        "ridge": {"scale": 2.0}, "mean": {"scale": 7},
    }  # fmt: skip
    assert tried["ridge"] == {"scale=1": -1.0, "scale=2": 0.0, "scale=3": -1.0}
    assert len(tried["a"]) == 3 + len(SAMPLERS) - 1  # one of them is the sampler that scales were tried with
    assert len(set(asked)) == len(asked)  # pictures are drawn once
    assert tried["a"]["scale=2 temperature=0.5 guidance_scale=1 num_inference_steps=8"] == 0.0
    assert "mean" not in tried


def test_prior_keeps_the_steps_that_it_was_trained_with():
    model = Synthesizer.__new__(Synthesizer)
    model.priors = {"a": DiffusionPrior(Denoiser(2, 8, width=8, depth=1))}
    model.settings = {"a": {"num_inference_steps": 3}}
    asked = []
    choose_settings(model, (1.0, 2.0), lambda _, settings: asked.append(settings["num_inference_steps"]) or 0.0)
    assert set(asked) == {model.settings["a"]["num_inference_steps"]} == {3}


def with_ridge(**priors):
    """A synthesizer that holds nothing but what settings are chosen for."""
    model = Synthesizer.__new__(Synthesizer)
    model.priors, model.settings = {"ridge": RidgePrior(torch.zeros(2, 8), torch.zeros(2)), **priors}, {}
    return model


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_score_that_is_no_number_is_refused(score):
    model = with_ridge()
    with pytest.raises(ModelError, match=f"ridge, scale=2: expected a score that is a number, got {score}; weights of"):
        choose_settings(model, (1.0, 2.0), lambda _, settings: score if settings["scale"] == 2 else 0.5)
    assert model.settings == {}


@pytest.mark.parametrize(
    ("obeys", "chosen", "asked"),
    [
        ({0.0: 0.8, 1.0: 0.8, 2.0: 0.8, 3.0: 0.8}, 3.0, [3.0, 0.0]),
        ({0.0: 0.8, 1.0: 0.8, 2.0: 0.8, 3.0: 0.8 - LESS_OBEDIENT + 1e-6}, 3.0, [3.0, 0.0]),
        ({0.0: 0.8, 1.0: 0.8, 2.0: 0.8, 3.0: 0.77}, 2.0, [3.0, 0.0, 2.0]),
        ({0.0: 0.8, 1.0: 0.8, 2.0: 0.5, 3.0: 0.3}, 1.0, [3.0, 0.0, 2.0, 1.0]),
        ({0.0: 0.9, 1.0: 0.6, 2.0: 0.6, 3.0: 0.3}, 2.0, [3.0, 0.0, 2.0, 1.0]),  # none obeys as nobody does
        ({0.0: 0.9, 1.0: 0.3, 2.0: 0.5, 3.0: 0.3}, 3.0, [3.0, 0.0, 2.0, 1.0]),  # then scale 1 counts, not the best
    ],
)
def test_most_similar_scale_that_obeys_is_chosen(obeys, chosen, asked):
    model, seen = with_ridge(), []

    def obeyed(name, settings):
        if settings["scale"] not in seen:
            seen.append(settings["scale"])
        return obeys[settings["scale"]]

    tried = choose_settings(model, (1.0, 2.0, 3.0), lambda _, settings: settings["scale"] / 10, obeyed)
    assert model.settings == {"ridge": {"scale": chosen}}
    assert seen == asked
    assert tried["ridge"] == {"scale=1": 0.1, "scale=2": 0.2, "scale=3": 0.3}


@pytest.mark.parametrize(
    ("subjects", "lost", "chosen"),
    [(8, 1, 2.0), (24, 1, 3.0), (24, 2, 2.0), (56, 1, 3.0), (200, 4, 3.0), (200, 5, 2.0)],
)
def test_one_subjects_picture_does_not_decide(subjects, lost, chosen):
    model = with_ridge()

    def obeyed(name, settings):
        return (subjects - lost * (settings["scale"] == 3)) / subjects

    choose_settings(model, (2.0, 3.0), lambda _, settings: settings["scale"], obeyed, less=tolerance(subjects))
    assert model.settings == {"ridge": {"scale": chosen}}


def test_sampler_that_does_not_obey_is_refused():
    model = with_ridge(a=DiffusionPrior(Denoiser(2, 8, width=8, depth=1)))

    def obeyed(name, settings):
        return 0.1 if settings.get("temperature") == 1.0 else 0.6

    choose_settings(model, (1.0, 2.0), lambda _, settings: settings.get("temperature", 0) + settings["scale"], obeyed)
    assert model.settings["a"] == {
        "scale": 2.0,
        "temperature": 0.5,
        "guidance_scale": 1.0,
        "num_inference_steps": 8,
    }


@pytest.mark.parametrize(("obeys", "default"), [(0.6, "ridge"), (0.4, "adalora")])
def test_default_prior_has_to_obey_as_the_usual_one_does(obeys, default):
    model = with_ridge(adalora=DiffusionPrior(Denoiser(2, 8, width=8, depth=1)))
    model.default_prior, model.settings = "adalora", {"adalora": {"scale": 1}, "ridge": {"scale": 1}}
    tried = {"adalora": {"scale=1": 0.5}, "ridge": {"scale=1": 0.7}}
    obeyed = {"adalora": 0.6, "ridge": obeys}
    choose_default(model, tried, lambda name, _: obeyed[name], report=lambda _: None)
    assert model.default_prior == default


@pytest.mark.parametrize(
    ("ridge", "kernel", "default"),
    [
        (0.515, 0.0, "ridge"),
        (0.505, 0.0, "adalora"),  # not clearly better
        (0.4, 0.0, "adalora"),
        (0.515, 0.9, "ridge"),  # kernel regression holds embeddings of the zoo's people
    ],
)
def test_default_prior_changes_for_a_clearly_better_one_alone(ridge, kernel, default):
    model = Synthesizer.__new__(Synthesizer)
    model.priors = {
        "adalora": DiffusionPrior(Denoiser(2, 8, width=8, depth=1)),
        "ridge": RidgePrior(torch.zeros(2, 8), torch.zeros(2)),
        "kernel": KernelPrior.fit(torch.eye(3, 8), torch.eye(3, 2), 1.0),
    }
    model.default_prior, said = "adalora", []
    model.settings = {"adalora": {"scale": 2}, "ridge": {"scale": 1}, "kernel": {"scale": 1}}
    tried = {"adalora": {"scale=1": 0.3, "scale=2": 0.5}, "ridge": {"scale=1": ridge}, "kernel": {"scale=1": kernel}}
    choose_default(model, tried, report=said.append)
    assert model.default_prior == default
    better = f"default prior: ridge instead of adalora, better by {ridge - 0.5:.3f}"
    assert said == ([better] if default == "ridge" else [])


def test_worlds_default_prior_is_chosen_by_likeness(monkeypatch):
    tried = {"adalora": {"scale=1": 0.5}, "adanorm": {"scale=1": 0.6}}
    monkeypatch.setattr(tuning, "choose_settings", lambda *_: tried)
    monkeypatch.setattr(tuning, "drawn_obedience", lambda *_: 0.5)
    model = Synthesizer.from_pretrained()
    model.settings = {"adalora": {"scale": 1}, "adanorm": {"scale": 1}}
    assert model.default_prior == "adalora"
    chosen = tuning.TuningByPictures(DrawnSubjects(get_world(model.base)), model, 2, report=lambda _: None)
    chosen.choose(["adalora", "adanorm"])
    chosen.choose_default()
    assert (chosen.tried, chosen.asked) == (tried, {name: {"scale=1": 0.5} for name in tried})
    assert model.default_prior == "adanorm"


def test_settings_of_named_priors_alone_are_chosen():
    model = with_ridge(kernel=RidgePrior(torch.zeros(2, 8), torch.zeros(2)))
    tried = choose_settings(model, (1.0, 2.0), lambda _, settings: settings["scale"], names=["kernel"])
    assert tried == {"kernel": {"scale=1": 1.0, "scale=2": 2.0}}
    assert model.settings == {"kernel": {"scale": 2.0}}


@pytest.mark.slow
@pytest.mark.integration
def test_absurd_scale_is_refused_by_pictures(monkeypatch):
    """On the shipped base, where a score of scales themselves would take the largest."""
    model = Synthesizer.from_pretrained()
    model.priors, model.default_prior = {"ridge": model.priors["ridge"]}, "ridge"
    monkeypatch.setattr(tuning, "PICTURE_SCALES", (1.0, 20.0))
    monkeypatch.setattr(tuning, "likeness", lambda _, layout, vectors, __: vectors.norm().item())
    chosen = tuning.TuningByPictures(DrawnSubjects(get_world(model.base)), model, 4, report=lambda _: None)
    chosen.choose(["ridge"])
    tried, asked = chosen.tried, chosen.asked
    assert tried["ridge"]["scale=20"] > tried["ridge"]["scale=1"]
    assert asked["ridge"]["scale=20"] < asked["ridge"]["scale=1"] - LESS_OBEDIENT
    assert model.settings["ridge"] == {"scale": 1.0}
