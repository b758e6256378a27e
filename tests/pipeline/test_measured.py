"""What stages wrote of their results may say anything when it is read again: the answer is a ModelError."""

import json

import pytest

from lorasynth.errors import ModelError
from lorasynth.evaluate.pictures import fine_tuning_recipe
from lorasynth.pipeline.measured import read_measured

VAE = {"delta_W_error": 0.1, "delta_W_error_of_the_mean": 0.4, "active_units": 8.0, "seconds": 3}
PRIORS = {"adalora": {"explained": 0.5, "ridge_explained": 0.4}, "ridge": {"lambda": 3.0}}
PHASE = {"loss_before": 1.0, "loss_after": 0.9}
LAST = {**VAE, "likeness_before": 0.5, "likeness_after": 0.6, "ridge": {"lambda": 3.0}}
FILES = {
    "vae.json": VAE, "priors.json": PRIORS, "refined/adalora.json": {"photo": PHASE, "drawn": PHASE},
    "end-to-end/metrics.json": LAST,
}  # fmt: skip
DEEP = "[" * 100_000
HOSTILE = [
    "", "null", "[]", "{}", "3", '"x"', '{"a": NaN}', DEEP, "\0", "{" + '"a":{' * 900 + "}" * 901, '{"a": 1, "a": 2}',
]  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    for name, value in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(value))
    return tmp_path


def read(folder):
    return read_measured(folder, ["adalora"], refined=True, end_to_end=True)


def test_what_stages_wrote_is_read_back(folder):
    refined = {"adalora": FILES["refined/adalora.json"]}
    assert read(folder) == {"vae": VAE, "priors": PRIORS, "refined": refined, "end_to_end": LAST}


def test_prior_around_zero_has_no_figure_of_ridge(folder):
    (folder / "priors.json").write_text(json.dumps({"adalora": {"explained": 0.5}}))
    assert read(folder)["priors"] == {"adalora": {"explained": 0.5}}


@pytest.mark.parametrize("name", FILES)
def test_hostile_figures_end_in_a_model_error(folder, name):
    for text in HOSTILE:
        (folder / name).write_text(text)
        with pytest.raises(ModelError, match=r"expected .*, got"):
            read(folder)
    (folder / name).unlink()
    with pytest.raises(ModelError, match="not found"):
        read(folder)


@pytest.mark.parametrize("name", FILES)
def test_no_figure_is_anything_but_a_number(folder, name):
    def spoiled(value, bad):
        """The same with one number after the other replaced."""
        for key, inner in value.items():
            for other in spoiled(inner, bad) if isinstance(inner, dict) else [bad]:
                yield {**value, key: other}

    for bad in ("0.1", None, True, [0.1], float("inf"), float("nan"), 10**400):
        for said in spoiled(FILES[name], bad):
            (folder / name).write_text(json.dumps(said))
            with pytest.raises(ModelError, match=r"expected .*, got"):
                read(folder)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", "45"),
        ("steps", 0),
        ("steps", 1.5),
        ("lora_A", "all"),
        ("beta1", 2),
        ("unknown", 1),
        ("strength", None),
    ],
)
def test_fine_tuning_of_a_model_is_read_strictly(tmp_path, field, value):
    (tmp_path / "config.json").write_text(json.dumps({"format": 1, "fine_tuning": {field: value}}))
    with pytest.raises(ModelError, match=r"fine_tuning.*expected .*, got"):
        fine_tuning_recipe(tmp_path)
