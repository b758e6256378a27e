"""The best scale first, then the best sampler at that scale; the mean has nothing to choose. Then the best prior."""

import pytest
import torch

from lorasynth.pipeline import assembling
from lorasynth.pipeline.choosing import SAMPLERS, choose_default, choose_settings
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

    def score(name, settings):
        """Best at scale 2; of samplers, at temperature 0.5, which is not the one that scales are tried with."""
        return -abs(settings["scale"] - 2) - abs(settings.get("temperature", 0.5) - 0.5)

    tried = choose_settings(model, (1.0, 2.0, 3.0), score)
    assert model.settings == {
        "a": {"scale": 2.0, "temperature": 0.5, "guidance_scale": 1.0, "num_inference_steps": 8},
        "ridge": {"scale": 2.0}, "mean": {"scale": 7},
    }  # fmt: skip
    assert tried["ridge"] == {"scale=1": -1.0, "scale=2": 0.0, "scale=3": -1.0}
    assert len(tried["a"]) == 3 + len(SAMPLERS) - 1  # the sampler that scales were tried with is tried once more
    assert tried["a"]["scale=2 temperature=0.5 guidance_scale=1 num_inference_steps=8"] == 0.0
    assert "mean" not in tried


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
    tried = {"adalora": {"scale=1": 0.3, "scale=2": 0.5}, "ridge": {"scale=1": ridge}, "kernel": {"scale=1": kernel}}
    choose_default(model, tried, report=said.append)
    assert model.default_prior == default
    assert said == ([f"default prior: ridge ({ridge:.3f}) instead of adalora (0.500)"] if default == "ridge" else [])


def test_worlds_default_prior_is_chosen_by_likeness(monkeypatch):
    tried = {"adalora": {"scale=1": 0.5}, "adanorm": {"scale=1": 0.6}}
    monkeypatch.setattr(assembling, "choose_settings", lambda *_: tried)
    model = Synthesizer.from_pretrained()
    assert model.default_prior == "adalora"
    assert assembling.tune_by_pictures(DrawnSubjects(get_world("portraits")), model, 2, report=lambda _: None) == tried
    assert model.default_prior == "adanorm"
