"""What a synthesizer's card says: its base (a hub id with its address, a folder's name alone), another default prior."""

import pytest

from lorasynth.pipeline.card import _base_fields, _base_link, _instead_of


def test_base_of_the_hub_is_named_with_its_address():
    assert _base_fields("owner/name") == {"base_model": "owner/name", "base_model_relation": "adapter"}
    assert _base_link("owner/name") == "[owner/name](https://huggingface.co/owner/name)"


@pytest.mark.parametrize("there", [True, False])
def test_base_in_a_folder_gives_no_path_away(there, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if there:
        (tmp_path / "models/mine").mkdir(parents=True)
    for base in ("models/mine", str(tmp_path / "models/mine")) if there else (str(tmp_path / "models/mine"),):
        assert _base_fields(base) == {}
        assert _base_link(base) == "`mine`"


@pytest.mark.parametrize(("record", "by"), [({}, "error was lower"), ({"end_to_end": {}}, "similarity was higher")])
def test_another_default_prior_is_better_by_what_chose_it(record, by):
    assert _instead_of("adalora", "adalora", record) == ""
    assert (
        _instead_of("adalora", "ridge", record) == f", whose {by} than that of the recipe's adalora by more than 0.01"
    )
