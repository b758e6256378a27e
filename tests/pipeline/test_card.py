"""What a synthesizer's card says of its base: a hub id with its address, and of a folder here its name alone."""

import pytest

from lorasynth.pipeline.card import _base_fields, _base_link


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
