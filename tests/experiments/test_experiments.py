"""Every experiment runs for real on a tiny zoo, and every claim can come out either way."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from claims import bootstrapping
from claims.conditioning import RIVALS, equal_width, parameters
from claims.gauge import explained_of_products, plain_form, scrambled
from claims.law import PowerLaw
from claims.metric import in_metric
from evidence import experiment_names, get_experiment
from evidence.context import ExperimentContext
from evidence.runner import load
from lorasynth.errors import ModelError, UsageError
from lorasynth.prior import Denoiser
from lorasynth.worlds.world import World

pytestmark = pytest.mark.integration

EXPERIMENTS = experiment_names()
every_experiment = pytest.mark.parametrize("name", EXPERIMENTS)

SMALL = {  # some cells of each, as small as the zoo
    "targets": ("canonical", "pca"),
    "conditioning": ("adanorm", "adalora-r2"),
    "parameterisation": ("x0", "noise-sampled"),
    "bottleneck": ("m32", "beta1"),
    "sampler": ("guidance2", "temperature1"),
    "guidance": ("lora", "base", "mean"),
    "gauge": ("svd-signs", "products"),
    "initialisation": ("rank1-own", "rank4-shared"),
    "vae-kinds": ("ours-m32", "whole-m32", "tokens-m256", "ours-delta_W-m32"),
    "metric": ("canonical", "delta_W"),
    "heads": ("basis", "modules", "modules-of-base", "response", "angles", "spectra"),
    "vae-shape": ("linear-principal-m32", "mlp-predictable-m32"),
    "zoo-size": ("n64", "all"),
    "memorisation": ("adalora", "nearest"),
    "baselines": ("nearest", "neighbours5", "gaussian", "ridge", "mlp", "principal32", "zoo", "adalora", "shipped"),
    "seconds": ("zero-shot", "refined-5", "tuned-5", "tuned-one-photo-50"),
    "bootstrapping": ("first-third", "mean-45", "predicted-0", "predicted-5"),
}


def smaller(config):
    few = {"latent_dim": 6, "num_components": 8, "loras": 12, "people": 3, "fitting_steps": 2, "first": 10,
        "hidden_dim": 8, "token_width": 4}  # fmt: skip
    return {key: few[key] if key in few and value else value for key, value in config.items()}


SHORT = ("gauge", "sampler", "memorisation")
"""Experiments whose cells take seconds; those of the others are for `make test-all`."""
every_cell = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in SHORT else pytest.mark.slow) for n in EXPERIMENTS]
)


OF_A_SYNTHESIZER = ("baselines", "seconds")
"""Experiments that score the synthesizer beside the world's models. At 64 pixels none is shipped."""


@every_cell
def test_cells_give_figures_of_people(name, context, monkeypatch, request):
    if name in OF_A_SYNTHESIZER:
        monkeypatch.setitem(context.__dict__, "synthesizer", request.getfixturevalue("trained"))
    monkeypatch.setattr("evidence.context.SCALES", (1.0, 2.0))
    experiment = get_experiment(name)
    for cell in SMALL[name]:
        figures = experiment.run(context, smaller(experiment.cells[cell]), 0)
        lists = [values for values in figures.values() if isinstance(values, list)]
        assert lists
        assert all(np.isfinite(v).all() for v in figures.values())
        if "similarity" in figures:
            assert len(figures["similarity"]) == len(figures["similarity2"]) == 2
            assert max(map(abs, figures["similarity"])) <= 1


@pytest.mark.parametrize(("name", "cell"), [("baselines", "shipped"), ("seconds", "zero-shot")])
def test_world_without_a_synthesizer_is_said_to_have_none(name, cell, context, tmp_path):
    alone = replace(context, world=World(domain=context.world.domain, folder=tmp_path))
    experiment = get_experiment(name)
    with pytest.raises(ModelError, match="expected a synthesizer of the world 'portraits', got none"):
        experiment.run(alone, experiment.cells[cell], 0)


def test_rest_of_a_bootstrapped_zoo_shares_the_zoos_noise(context, monkeypatch):
    """With another, the rest would differ from the first third by what the noise does to all LoRAs."""
    seen = []

    def trained(context, starts, rows, settings):
        seen.append(settings)
        return starts.expand(len(rows), -1), 0.0

    monkeypatch.setattr(bootstrapping, "_trained", trained)
    config = {"loras": 12, "first": 6, "start": "mean", "fitting_steps": 2, "learning_rate": 0.1}
    bootstrapping._rest(context, context, torch.tensor([0, 1]), config, 3)
    assert [settings.seed for settings in seen] == [context.zoo.recipe["adapt"]["seed"]]


@every_experiment
def test_names_and_claims_are_in_order(name):
    experiment = get_experiment(name)
    assert experiment.name == name
    assert experiment.claims
    assert len({claim.text for claim in experiment.claims}) == len(experiment.claims)


class Anything(dict):
    """A run's figures: a number that rises or falls with what is asked (by the letters of its name), and the size of a zoo."""

    def __init__(self, value, loras, slope=0.0):
        super().__init__()
        self.value, self.loras, self.slope = float(value), float(loras), slope

    def __contains__(self, name):
        return True

    def __getitem__(self, name):
        return self.loras if name == "loras" else [self.value + self.slope * sum(map(ord, name))] * 2


@every_experiment
def test_no_claim_is_decided_before_the_figures_are_seen(name):
    """Of made-up figures (rising and falling from cell to cell, all 0, all 1, a power law) some confirm it, some refute it; of
    a claim that compares figures of one cell, figures that rise and fall from one to the other do."""
    experiment = get_experiment(name)
    n = len(experiment.cells)
    rising, sizes = [1.5**i for i in range(n)], [64 * 2**i for i in range(n)]
    law = [1 - 2 * size**-0.2 for size in sizes]
    for claim in experiment.claims:

        def word(values, slope=0.0, claim=claim):
            runs = [[Anything(value, size, slope)] * 2 for value, size in zip(values, sizes, strict=True)]
            return claim.criterion.judge(dict(zip(experiment.cells, runs, strict=True))).word

        by_cell = {word(values) for values in (rising, rising[::-1], [0.0] * n, [1.0] * n, law)}
        by_figure = {word([0.0] * n, slope) for slope in (-1.0, 1.0)}
        assert {"confirmed", "refuted"} in (by_cell & {"confirmed", "refuted"}, by_figure), claim.text


def test_experiment_that_is_not_there_is_named():
    with pytest.raises(UsageError, match=r"expected an experiment among \['targets', .*\], got 'nonsense'"):
        get_experiment("nonsense")


# --- The context -----------------------------------------------------------------------------------------------------------


def test_nobody_who_is_scored_has_a_say(context):
    parts = [set(rows.tolist()) for rows in (context.train, context.choosing, context.scored)]
    assert sum(map(len, parts)) == len(set().union(*parts)) == len(context.persons)
    assert (len(context.choosing), len(context.scored)) == (4, 4)


def test_true_loras_explain_all_and_the_mean_nothing(context):
    own, mean = context.vectors[context.scored], context.canonicalizer.mean.expand(4, -1)
    assert context.explained(own) == pytest.approx([1.0] * 4, abs=1e-4)
    assert np.mean(context.explained(mean)) == pytest.approx(0, abs=1e-5)
    # The same LoRA in another gauge is the same LoRA.
    other = scrambled(context.zoo.layout, context.vectors, 0)[context.scored]
    assert (other - own).abs().max() > 0.1
    assert context.explained(other) == pytest.approx([1.0] * 4, abs=1e-4)


def test_explained_is_of_updates_formed_by_hand(context):
    layout, rows = context.zoo.layout, context.scored
    predicted = context.canonicalizer.invert(0.5 * context.x[rows])

    def updates(vectors):
        return torch.cat([(B @ A).flatten(1) for A, B in layout.split(vectors.double()).values()], dim=1)

    true, mean = updates(context.vectors[rows]), updates(context.canonicalizer.mean[None])
    deviation = (true - mean).square().sum(1).mean()
    expected = 1 - (updates(predicted) - true).square().sum(1) / deviation
    assert context.explained(predicted) == pytest.approx(expected.tolist(), abs=1e-4)


def test_cells_count_entries_unless_they_say_updates(context):
    updates = in_metric(context, "delta_W")
    assert (context.recipe.metric, updates.recipe.metric) == ("entries", "updates")
    mean = updates.canonicalizer.mean.expand(4, -1)
    assert np.mean(updates.explained(mean)) == pytest.approx(0, abs=1e-4)
    # One half of the deviation is one half of it in either form.
    halves = [part.explained(part.canonicalizer.invert(0.5 * part.x[part.scored])) for part in (context, updates)]
    assert halves[0] == pytest.approx(halves[1], abs=1e-3)
    assert not torch.allclose(context.x, updates.x, atol=0.1)


def test_part_of_people_is_drawn_by_seed_and_scored_on_the_same(context):
    parts = [context.with_training_people(10, seed) for seed in (0, 0, 1)]
    chosen = [set(part.train.tolist()) for part in parts]
    assert chosen[0] == chosen[1] != chosen[2]
    assert all(len(c) == 10 and c <= set(context.train.tolist()) for c in chosen)
    assert torch.equal(parts[0].scored, context.scored)


# --- What cells are made of ------------------------------------------------------------------------------------------------


def test_conditionings_are_compared_at_equal_parameters(context):
    goal = parameters(context, "adalora", 64, 2)
    for name in ("adanorm", "film", "adalora-r2"):
        assert parameters(context, name, equal_width(context, name, 2, goal), 2) == pytest.approx(goal, rel=0.02)
    with pytest.raises(UsageError, match=r"expected 10,000 parameters.* for cross_attention of 2 blocks"):
        equal_width(context, "cross_attention", 2, 10_000)


@pytest.mark.parametrize("conditioning", ["adalora", "adalora-r2", "adalora-r32", "adalora-depth4", *RIVALS])
def test_equal_parameters_are_equal_multiplications(conditioning):
    """What the page says of the cost, at the widths of its cells."""
    results, _ = load(get_experiment("conditioning"), Path(__file__).parents[2] / "experiments/results")
    name, _, depth = conditioning.partition("-depth")
    denoiser = Denoiser(256, 512, int(results[conditioning][0]["width"]), int(depth or 2), name).eval()
    with FlopCounterMode(display=False) as counted:
        denoiser(torch.zeros(3, 256), torch.zeros(3, dtype=torch.long), torch.zeros(3, 512))
    numbers = sum(p.numel() for p in denoiser.parameters())
    expected = 1.22 if name == "cross_attention" else 1.0
    assert counted.get_total_flops() / 2 / 3 / numbers == pytest.approx(expected, rel=0.01)


def test_products_are_predicted_as_anchored_with_shared_lora_A(context):
    """Two ways to the same ridge regression: of updates by inner products, and of a form that is linear in the update."""
    assert context.zoo.recipe["adapt"]["lora_A"] == "frozen"
    ridge = context.ridge(context.x)
    anchored = context.explained(context.canonicalizer.invert(ridge.predict(context.photo(context.scored))))
    assert explained_of_products(context) == pytest.approx(anchored, abs=2e-3)


def test_plain_form_gives_vectors_back(context):
    form = plain_form(context.zoo.layout, context.vectors)
    scaled = (context.vectors - form.mean) / form.scale
    torch.testing.assert_close(form.invert(scaled), context.vectors)
    assert scaled.square().mean(0).max() > 0


def test_power_law_is_continued():
    sizes = torch.tensor([64.0, 128, 256, 512, 1024, 2000], dtype=torch.float64)
    laws = [(0.2, 1.0, 0.5), (0.0, 2.0, 0.3), (0.4, 0.0, 1.0)]
    error = torch.stack([floor + b * sizes**-c for floor, b, c in laws], dim=1)
    expected = [floor + b * 64_000**-c for floor, b, c in laws]
    fitted = PowerLaw.fit(sizes, error)
    assert fitted(64_000).tolist() == pytest.approx(expected, abs=2e-3)
    assert fitted.floor.tolist() == pytest.approx([0.2, 0, 0.4], abs=2e-3)
    assert fitted.exponent[:2].tolist() == pytest.approx([0.5, 0.3], abs=1e-9)
    # What gets worse with size has no such law: the nearest is a constant.
    assert PowerLaw.fit(sizes, sizes[:, None] / 2000)(64_000).item() == pytest.approx((sizes / 2000).mean().item())


def grown(law):
    """Figures of zoo-size's cells by a function of their LoRAs, of two seeds and two people."""
    loras = (64, 128, 256, 512, 1024, 1400)
    names = ("vae explained", "ridge explained", "adalora explained", "ridge similarity", "adalora similarity")
    return {
        cell: [{"loras": float(n)} | {name: [law(n), law(n)] for name in names}] * 2
        for cell, n in zip(get_experiment("zoo-size").cells, loras, strict=True)
    }


def test_law_that_smaller_zoos_do_not_bear_out_decides_nothing():
    experiment = get_experiment("zoo-size")
    claim = next(c for c in experiment.claims if c.text.startswith("With the paper's 64,000 LoRAs the VAE"))
    sound = claim.criterion.judge(grown(lambda n: 1 - 2 * n**-0.25))
    assert (sound.word, sound.interval.mean) == (
        "confirmed",
        pytest.approx(2 * 1400**-0.25 - 2 * 64_000**-0.25, abs=1e-6),
    )
    bent = claim.criterion.judge(grown(lambda n: 1 - 2 * min(n, 512) ** -0.25))  # grows no more
    assert bent.word == "not decidable here"
    missed = 2 * 512**-0.25 - 2 * 1400**-0.25
    assert bent.figure.startswith(
        f"a law of up to 512 LoRAs misses by {missed:.3f} ({missed:.3f} to {missed:.3f}); vae explained"
    )


def test_table_of_laws_holds_what_they_foretell():
    head, _, names, _, vae, *others = get_experiment("zoo-size").further(grown(lambda n: 0.9 - 2 * n**-0.25))
    assert "floor + b · LoRAs^-c" in head
    assert names.endswith("| at 64,000 LoRAs | at 1,000,000 LoRAs |")
    values = [
        0.1,
        0.25,
        0.9 - 2 * 1400**-0.25,
        0.9 - 2 * 1400**-0.25,
        0.9 - 2 * 64_000**-0.25,
        0.9 - 2 * 1_000_000**-0.25,
    ]
    assert vae == "| vae explained | " + " | ".join(f"{v:.3f} ({v:.3f} to {v:.3f})" for v in values) + " |"
    assert len(others) == 4


def test_lab_needs_people_on_both_sides(zoo):
    from lorasynth.errors import ZooError
    from lorasynth.recipes import get_recipe

    few = replace(zoo, items=tuple(i for i in zoo.items if i.split == "train"))
    with pytest.raises(ZooError, match=r"expected at least 8 training and 8 validation people.* got 24 and 0"):
        ExperimentContext.open(few, get_recipe("portraits_tiny"))
