"""The hub without a network: what is uploaded, by a stand-in for its endpoint; what was downloaded, in the hub's own cache."""

import json
import shutil
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import DatasetCard, ModelCard, constants
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError
from huggingface_hub.utils import filter_repo_objects
from typer.testing import CliRunner

from lorasynth.cli.app import app
from lorasynth.errors import ModelError, UsageError, ZooError
from lorasynth.opening import open_encoder
from lorasynth.storage.hub import is_repo_id, local_copy
from lorasynth.synthesizer import Synthesizer
from lorasynth.zoo import Zoo
from lorasynth.zoo.card import zoo_card

from ..making import real_synthesizer, sd15_layout


class Endpoint:
    """The calls of `HfApi` that are made, with what the hub would keep: one folder a repository."""

    def __init__(self, folder):
        self.folder, self.made = folder, []

    def create_repo(self, repo_id, *, repo_type, private, exist_ok):
        assert exist_ok
        self.made.append((repo_id, repo_type, private))
        (self.folder / repo_id).mkdir(parents=True, exist_ok=True)
        return f"https://huggingface.co/{repo_id}"

    def upload_folder(self, *, repo_id, repo_type, folder_path, allow_patterns, delete_patterns, commit_message):
        repo = self.folder / repo_id
        files = [str(p.relative_to(folder_path)) for p in sorted(folder_path.rglob("*")) if p.is_file()]
        there = [str(p.relative_to(repo)) for p in repo.rglob("*") if p.is_file()]
        for name in filter_repo_objects(there, allow_patterns=delete_patterns):
            (repo / name).unlink()
        for name in filter_repo_objects(files, allow_patterns=allow_patterns):
            (repo / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder_path / name, repo / name)


@pytest.fixture
def endpoint(tmp_path):
    return Endpoint(tmp_path / "hub")


@pytest.fixture
def in_cache(tmp_path, monkeypatch):
    """Put a repository's folder where `huggingface_hub` keeps what it has downloaded."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))

    def put(repo, repo_id, kind):
        place = tmp_path / "cache" / f"{kind}s--{repo_id.replace('/', '--')}"
        (place / "refs").mkdir(parents=True)
        (place / "refs" / "main").write_text("0" * 40)
        shutil.copytree(repo, place / "snapshots" / ("0" * 40))

    return put


@pytest.fixture(scope="module")
def record():
    return open_encoder("portraits").record


@pytest.fixture
def zoo(tmp_path, record):
    recipe = {"source": "import", "validation": 0.1, "held_out": 0.1, "encoder": record}
    zoo = Zoo.create(tmp_path / "zoo", sd15_layout(), recipe, None)
    g = torch.Generator().manual_seed(0)
    vectors, faces = torch.randn(5, zoo.layout.num_parameters, generator=g), torch.randn(5, 1, 512, generator=g)
    zoo.append(
        "shard-00000", [1, 1, 2, 3, 4], ["train"] * 4 + ["validation"], vectors, faces, "import", "CC-BY-4.0",
        ids=[f"item-{n}" for n in range(5)],
    )  # fmt: skip
    (zoo.folder / "import.jsonl").write_text("where the files lay is nobody's business\n")
    return Zoo.open(zoo.folder)


def test_published_synthesizer_holds_nobodys_embedding_and_works(endpoint, in_cache, record):
    model = real_synthesizer(record)
    assert model.push_to_hub("me/faces", api=endpoint) == "https://huggingface.co/me/faces"
    assert endpoint.made == [("me/faces", "model", True)]
    repo = endpoint.folder / "me/faces"
    files = {str(p.relative_to(repo)) for p in repo.rglob("*") if p.is_file()}
    assert files == {
        "README.md", "config.json", "canonical.safetensors", "vae.safetensors", "prior.safetensors", "priors/ridge.safetensors"
    }  # fmt: skip
    assert set(json.loads((repo / "config.json").read_text())["settings"]) == {"adalora"}
    in_cache(repo, "me/faces", "model")
    again = Synthesizer.from_pretrained("me/faces", encoder="portraits")
    vector = torch.ones(512)
    assert torch.equal(
        again.from_embedding(vector).vector, Synthesizer.from_pretrained(repo).from_embedding(vector).vector
    )
    assert again.record == model.record


def test_all_priors_are_published_only_where_asked_for(endpoint, record):
    model, repo = real_synthesizer(record), endpoint.folder / "me/faces"
    model.push_to_hub("me/faces", private=False, priors=list(model.priors), api=endpoint)
    assert endpoint.made == [("me/faces", "model", False)]
    assert (repo / "priors/nearest.safetensors").exists()
    model.push_to_hub("me/faces", api=endpoint)
    assert not (repo / "priors/nearest.safetensors").exists()
    with pytest.raises(UsageError, match=r"'adalora' one of them, got \['ridge'\]"):
        model.push_to_hub("me/faces", priors=["ridge"], api=endpoint)


def test_drawn_worlds_synthesizer_is_published_whole(endpoint):
    Synthesizer.from_pretrained().push_to_hub("me/portraits", api=endpoint)
    repo = endpoint.folder / "me/portraits"
    assert (repo / "guard.safetensors").exists()
    assert len(list((repo / "priors").iterdir())) == len(Synthesizer.from_pretrained().priors) - 1
    data = ModelCard((repo / "README.md").read_text()).data
    assert (data.library_name, data.license) == ("lorasynth", "apache-2.0")


def test_published_zoo_is_a_zoo_with_a_data_sets_card(endpoint, in_cache, zoo):
    assert zoo.push_to_hub("me/zoo", api=endpoint) == "https://huggingface.co/me/zoo"
    assert endpoint.made == [("me/zoo", "dataset", True)]
    repo = endpoint.folder / "me/zoo"
    assert {p.name for p in repo.iterdir()} == {"README.md", "zoo.json", "manifest.jsonl", "shard-00000.safetensors"}
    card = DatasetCard((repo / "README.md").read_text())
    assert card.data.to_dict() == {
        "pretty_name": "LoRAs of sd15", "license": "cc-by-4.0", "tags": ["lora", "weights", "lorasynth"],
        "size_categories": ["n<1K"], "configs": [{"config_name": "default", "data_files": "manifest.jsonl"}],
    }  # fmt: skip
    for words in ("5 LoRAs of 4 people", "train 4, validation 1", "encoder portraits", "biometric"):
        assert words in card.text
    in_cache(repo, "me/zoo", "dataset")
    for again in (Zoo.from_hub("me/zoo"), Zoo.open(repo)):
        assert again.items == zoo.items
        assert again.verify() == []
        assert torch.equal(again.load()[1], zoo.load()[1])


def test_card_that_somebody_wrote_is_kept(endpoint, zoo):
    (zoo.folder / "README.md").write_text("mine")
    zoo.push_to_hub("me/zoo", api=endpoint)
    assert (endpoint.folder / "me/zoo/README.md").read_text() == "mine"


def test_licences_that_the_hub_does_not_know_are_other(zoo):
    from dataclasses import replace

    items = (replace(zoo.items[0], licence="weights2weights"), *zoo.items[1:])
    data = DatasetCard(zoo_card(zoo.layout, zoo.recipe, items)).data.to_dict()
    assert (data["license"], data["license_name"]) == ("other", "cc-by-4.0-and-weights2weights")


def test_damaged_zoo_is_not_published(endpoint, zoo):
    shard = zoo.folder / "shard-00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-8] + b"\x01" * 8)
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(ZooError, match="expected a sound zoo to publish, got"):
        zoo.push_to_hub("me/zoo", api=endpoint)
    assert endpoint.made == []


def test_hub_that_refuses_and_a_name_that_is_none_are_one_line(endpoint, record, monkeypatch):
    model = real_synthesizer(record)
    for name in ("faces", "me/my faces", "a/b/c", ""):
        assert not is_repo_id(name)
        with pytest.raises(UsageError, match="expected a hub id, owner/name, got"):
            model.push_to_hub(name, api=endpoint)

    no_token = LocalTokenNotFoundError("Token is required, but no token found.\nmore")
    refused = HfHubHTTPError("401 Client Error: Unauthorized", response=SimpleNamespace(headers={}, request=None))
    for error, words in (
        (no_token, "Token is required, but no token found."),
        (refused, "401 Client Error: Unauthorized"),
    ):
        monkeypatch.setattr(endpoint, "upload_folder", partial(_fail, error))
        with pytest.raises(UsageError, match=rf"me/faces: the hub did not take it \({words}.*hf auth login"):
            model.push_to_hub("me/faces", api=endpoint)


def _fail(error, **_):
    raise error


def test_what_is_not_in_the_cache_is_said_so_without_a_network(in_cache):
    with pytest.raises(
        ModelError, match=r"me/none: no such folder, and the hub could not give it \(.*\); check the name"
    ):
        local_copy("me/none", "model", ["*.json"])
    result = CliRunner().invoke(app, ["evaluate", "me/none"])
    assert isinstance(result.exception, ModelError)
