"""The page holds what was measured, needs nothing else, and lets no file speak to the browser."""

import json
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from lorasynth.cli.app import app
from lorasynth.errors import OutputExistsError, UsageError
from lorasynth.evaluate.memorisation import Memorisation
from lorasynth.evaluate.page import methods_sheet, page
from lorasynth.zoo.store import Zoo

from ..making import real_synthesizer, sd15_layout

RECORD = {"kind": "unknown", "name": "unknown", "dim": 8}
EVIL = "<script>alert(1)</script>"
VOID = {"meta", "img", "rect", "line"}


class Reader(HTMLParser):
    """What a page consists of; every element has to be closed."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.words, self.open = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href", "data", "action", "srcset")]
        assert not [name for name, _ in attributes if name.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(self.words)


def test_sheet_shows_the_given_photo_and_the_default_first():
    shade = {"base": 0.9, "adanorm": 0.7, "real": 0.5, "fine_tuned": 0.3, "adalora": 0.2, "given": 0.1}
    pictures = {name: torch.full((3, 4, 3, 64, 64), value) for name, value in shade.items()}
    pictures["given"] = pictures["given"][:, :1]
    pictures["adalora"][:, 0] = 1.0  # of the first prompt, which is not the one that is shown
    image = methods_sheet(pictures, "adalora")
    column = [image.getpixel((150, 4 + 196 * row + 96))[0] / 255 for row in range(6)]
    assert column == pytest.approx([0.1, 0.2, 0.3, 0.5, 0.7, 0.9], abs=0.01)
    assert image.size == (96 + 3 * 196, 4 + 6 * 196)


@pytest.fixture
def zoo(tmp_path):
    g = torch.Generator().manual_seed(0)
    folder, splits = tmp_path / "zoo", ["train"] * 12 + ["held_out"] * 4
    zoo = Zoo.create(folder, sd15_layout(), {}, None)
    vectors = torch.randn(16, zoo.layout.num_parameters, generator=g)
    faces = torch.nn.functional.normalize(torch.randn(16, 1, 8, generator=g), dim=2)
    zoo.append("shard-0", list(range(16)), splits, vectors, faces, "made up", "CC0")
    return folder


@pytest.fixture
def model(tmp_path):
    real_synthesizer(RECORD).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def drawn_record(memorisation=None):
    """What the evaluation of a drawn world's model says."""
    near = {"mean": 0.8, "low": 0.7, "high": 0.9}
    score = {
        "similarity": near, "similarity2": near, "factors": {"mean": 0.4, "low": 0.3, "high": 0.5},
        "factors_by_name": {"jaw": 0.1, "beard": 0.7}, "frechet_similarity": 0.125, "frechet_similarity2": 0.25,
        "people_spread_similarity": 0.9, "people_spread_similarity2": 0.95, "picture_spread": near,
    }  # fmt: skip
    full = {**score, "verified_similarity": 1.0, "verified_similarity2": 0.5, "obeyed": {"background": 0.25}}
    methods = {
        "real": score,
        "nearest": full,
        "adalora": {**full, "over_nearest": {"mean": 0.3, "low": 0.2, "high": 0.4}},
    }
    record = {
        "methods": methods, "people": 2, "prompts": ["a person", f"a person {EVIL}"], "seed": 0, "versions": {"lorasynth": "0"},
        "seconds": {"photo_to_lora": {"adalora": 0.04, "nearest": 0.01}, "picture": 0.2},
    }  # fmt: skip
    return record | ({"memorisation": memorisation} if memorisation else {})


def test_all_parts_of_a_drawn_evaluation_are_on_the_page(zoo):
    model = real_synthesizer(RECORD)
    measure = Memorisation.fit(model.canonicalizer, Zoo.open(zoo), report=lambda _: None)
    near = {
        name: measure.of(torch.ones(2, model.canonicalizer.layout.num_parameters)) for name in ("adalora", "nearest")
    }
    text = page(model, "mine", drawn_record(measure.record(near)), Image.new("RGB", (8, 8)))
    found = Reader(text)
    assert found.tags.count("svg") == 3
    assert found.tags.count("img") == 1
    for words in (
        "0.800 (0.700 to 0.900)", "100 %, 50 %", "25 %", "0.040 s", "zero-shot, ADALoRA: not copies", "people held back",
        "yes, similarity +0.300 (+0.200 to +0.400)",
        "0.400 (0.300 to 0.500)", "100 %", "0.70", "0.125", "0.250", "0.90, 0.95", "12 training LoRAs", "# a card",
    ):  # fmt: skip
        assert words in found.text
    assert "<script" not in text


def test_text_alignment_is_on_the_page_where_it_was_asked_for():
    record = drawn_record()
    assert "Text alignment" not in Reader(page(real_synthesizer(RECORD), "mine", record)).text
    record["methods"]["adalora"]["text_alignment"] = {"mean": 0.251, "low": 0.24, "high": 0.26}
    found = Reader(page(real_synthesizer(RECORD), "mine", record | {"clip": EVIL})).text
    assert "0.251 (0.240 to 0.260)" in found
    assert EVIL in found


def test_details_of_a_trained_reader_are_on_the_page():
    record = drawn_record()
    assert "Small details" not in Reader(page(real_synthesizer(RECORD), "mine", record)).text
    of = {"mean": 0.975, "low": 0.9, "high": 1.0, "people": 3}
    for score in record["methods"].values():
        score |= {"factor_reader": "convolutional", "details": {"glasses": {"present": of}}}
    found = Reader(page(real_synthesizer(RECORD), "mine", record)).text
    assert "Small details" in found
    assert "98 %, –" in found
    assert "ridge regression" not in found


def test_page_needs_nothing_from_outside():
    text = page(real_synthesizer(RECORD), "mine", drawn_record(), Image.new("RGB", (8, 8)))
    (picture,) = Reader(text).links
    assert picture.startswith("data:image/png;base64,")
    assert "default-src 'none'" in text
    assert "http" not in text.replace("http-equiv", "")
    assert "url(" not in text


def test_without_the_zoo_the_page_says_how_to_measure():
    assert "Not measured: give the zoo" in Reader(page(real_synthesizer(RECORD), "mine", drawn_record())).text


def test_what_files_say_is_text_and_no_more(zoo):
    model = real_synthesizer(RECORD)
    measure = Memorisation.fit(model.canonicalizer, Zoo.open(zoo), report=lambda _: None)
    near = measure.of(torch.ones(2, model.canonicalizer.layout.num_parameters))
    near["closest"]["id"] = EVIL
    record = drawn_record(measure.record({"adalora": near, EVIL: near}))
    record["methods"][EVIL] = record["methods"]["adalora"]
    record["methods"]["adalora"]["obeyed"][EVIL] = 1.0
    record["seconds"]["photo_to_lora"][EVIL] = 1.0
    record["versions"][EVIL] = record["memorisation"]["zoo"] = EVIL
    model.base = f'"{EVIL}'
    model.card = f"</pre>{EVIL}\ud800"
    model.priors[EVIL] = model.priors["ridge"]
    model.settings = {"adalora": {EVIL: EVIL}}
    model.canonicalizer = replace(model.canonicalizer, layout=replace(model.canonicalizer.layout, base=EVIL))
    text = page(model, EVIL, record)
    text.encode()
    assert "<script" not in text
    assert "script" not in Reader(text).tags
    assert f"</pre>{EVIL}?" in Reader(text).text


def test_page_of_a_real_base_has_weights_and_memorisation(model, zoo, tmp_path):
    html, scores = tmp_path / "report.html", tmp_path / "scores.json"
    result = run("evaluate", model, "--zoo", zoo, "--html", html, "--json", scores)
    assert result.exit_code == 0, result.output
    record, found = json.loads(scores.read_text()), Reader(html.read_text())
    assert record["memorisation"]["sampled"] == 12
    assert record["memorisation"]["methods"].keys() == {"adalora", "ridge", "nearest", "kernel", "held_back"}
    assert record["seconds"]["embedding_to_lora"]["adalora"] > 0
    for words in (
        "Weights are not likeness",
        f"{record['methods']['ridge']['relative_error']:.3f}",
        "12 training LoRAs",
    ):
        assert words in found.text
    assert "img" not in found.tags


def test_weights_are_scored_alone_without_a_page_or_zoo(model, zoo):
    assert "memorisation" not in json.loads(run("evaluate", model, "--zoo", zoo).stdout)
    assert "memorisation" in json.loads(run("evaluate", model, "--zoo", zoo, "--trained-on", zoo).stdout)


def test_page_that_is_there_is_kept_unless_forced(model, zoo, tmp_path):
    html = tmp_path / "report.html"
    html.write_text("mine")
    with pytest.raises(OutputExistsError, match="exists already"):
        raise run("evaluate", model, "--zoo", zoo, "--html", html).exception
    assert html.read_text() == "mine"
    assert run("evaluate", model, "--zoo", zoo, "--html", html, "--force").exit_code == 0
    assert html.read_text().startswith("<!DOCTYPE html>")
    with pytest.raises(UsageError, match=r"expected a name that ends in \.html"):
        raise run("evaluate", model, "--html", tmp_path / "report.txt").exception
    with pytest.raises(UsageError, match="a file of its own for --json"):
        raise run("evaluate", model, "--html", tmp_path / "x.html", "--json", tmp_path / "x.html").exception
