"""A folder of other people's LoRAs becomes a zoo: the good ones, once each, of one rank; the rest with the reason."""

import csv
import json
import re
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pyarrow
import pytest
import torch
from PIL import Image
from pyarrow import parquet
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from lorasynth.cli.app import app
from lorasynth.encoders import Reading, pool, read_embedding
from lorasynth.encoders.records import encoder_record
from lorasynth.errors import MissingExtraError, NoFaceError, PhotoError, UsageError, ZooError
from lorasynth.lora.factors import LoRA, delta_W_relative_error
from lorasynth.lora.layout import Layout, Module
from lorasynth.zoo import Zoo
from lorasynth.zoo.importing.bringing import bring_to
from lorasynth.zoo.importing.candidates import candidates_of
from lorasynth.zoo.importing.duplicates import Sketcher
from lorasynth.zoo.importing.importer import import_zoo
from lorasynth.zoo.importing.outliers import Sizes
from lorasynth.zoo.importing.pairing import (
    find_loras,
    pair_by_name,
    pair_by_table,
    person_number,
    read_table,
    split_of_person,
)

TEXT_ENCODER = {"lora_down.weight": (2, 768), "lora_up.weight": (3072, 2), "alpha": ()}
NAMES = [f"down_blocks.0.attentions.0.transformer_blocks.0.attn1.{n}" for n in ("to_q", "to_v")]


def layout(rank):
    return Layout(
        base="sd15", modules=tuple(Module(name=n, in_features=320, out_features=320, rank=rank) for n in NAMES)
    )


@pytest.fixture
def folder(tmp_path):
    """Six LoRAs of three formats and two ranks, each with an embedding beside it; and four that are no good."""
    where = tmp_path / "loras"
    (where / "deep").mkdir(parents=True)
    for i, (name, fmt, rank) in enumerate(
        [
            ("a", "kohya", 2),
            ("b", "diffusers", 2),
            ("deep/c", "peft", 2),
            ("d", "kohya", 4),
            ("e", "diffusers", 1),
            ("f", "kohya", 2),
        ]
    ):
        LoRA.random(layout(rank), seed=i, std=0.1).save(where / (name if fmt == "peft" else f"{name}.safetensors"), fmt)
        np.save(where / f"{name}.npy", np.random.default_rng(i).normal(size=8))
    (where / "bad.safetensors").write_bytes(b"not a LoRA")
    LoRA.random(layout(2), seed=9).save(where / "faceless.safetensors")
    zero = LoRA(layout(2), torch.zeros(layout(2).num_parameters))
    zero.save(where / "zero.safetensors")
    np.save(where / "zero.npy", np.ones(8))
    return where


def run(folder, out, rank=2, **options):
    entries = pair_by_name(find_loras([folder]))
    candidates = candidates_of(entries)
    return import_zoo(candidates, out, layout(rank), licence="CC0", report=lambda _: None, **options)


def test_good_ones_come_in_and_bad_ones_are_named(folder, tmp_path):
    zoo, outcomes = run(folder, tmp_path / "zoo")
    assert len(zoo) == 6
    assert zoo.verify() == []
    refused = {o.file.rpartition("/")[2]: o.reason for o in outcomes if o.outcome == "refused"}
    assert set(refused) == {"bad.safetensors", "faceless.safetensors", "zero.safetensors"}
    assert "expected an embedding or a photo beside it" in refused["faceless.safetensors"]
    assert "zero everywhere" in refused["zero.safetensors"]
    lines = [json.loads(line) for line in (tmp_path / "zoo" / "import.jsonl").read_text().splitlines()]
    assert {line["outcome"] for line in lines} == {"imported", "refused"}
    assert {item.licence for item in zoo.items} == {"CC0"}


def test_kohya_loras_come_in_by_the_layout_of_one_of_them(tmp_path):
    """Convolutions among them and a text encoder's part, as its trainer writes for Stable Diffusion 1.5; ranks of all sorts."""
    whole = Layout.preset("sd15-kohya", rank=4)
    some = Layout(
        base="sd15", modules=tuple(m for m in whole.modules if m.name.startswith("down_blocks.0.attentions.0"))
    )
    assert {m.kernel for m in some.modules} == {None, (1, 1)}
    (tmp_path / "loras").mkdir()
    loras = [LoRA.random(some.of_rank(rank), seed=rank) for rank in (4, 2, 8)]
    for lora in loras:
        path = lora.save(tmp_path / "loras" / f"{lora.layout.modules[0].rank}.safetensors")
        text = {f"lora_te_text_model_encoder_layers_0_mlp_fc1.{k}": torch.ones(s) for k, s in TEXT_ENCODER.items()}
        save_file(load_file(path) | text, path)
        np.save(path.with_suffix(".npy"), np.eye(8)[lora.layout.modules[0].rank - 1])
    arguments = [
        "zoo",
        "import",
        str(tmp_path / "loras"),
        "--out",
        str(tmp_path / "zoo"),
        "--licence",
        "CC0",
        "--rank",
        "4",
    ]
    arguments += ["--json", str(tmp_path / "r.json"), "--layout"]
    result = CliRunner().invoke(app, [*arguments, str(tmp_path / "loras" / "2.safetensors")])
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "r.json").read_text())
    assert (record["imported"], record["refused"]) == (3, 0)
    zoo = Zoo.open(tmp_path / "zoo")
    assert zoo.layout == some
    vectors = {item.person: row[1] for item in zoo.items for row in zoo.rows(item.shard) if row[0] == item.id}
    for lora in loras[:2]:  # of rank 8 the half remains
        kept = [delta_W_relative_error(some, bring_to(lora, some)[0][None], v[None]).item() for v in vectors.values()]
        assert min(kept) < 1e-6
    assert 0.3 < record["largest_relative_error"] < 0.9

    result = CliRunner().invoke(app, [*arguments, "nothing", "--force"])
    assert isinstance(result.exception, UsageError)
    assert "expected --layout with a preset among ['flux'" in str(result.exception)


@pytest.mark.parametrize(("rank", "exact"), [(4, True), (2, False)])
def test_every_update_is_kept_as_well_as_the_rank_allows(folder, tmp_path, rank, exact):
    zoo, _ = run(folder, tmp_path / "zoo", rank)
    d = next(item for item in zoo.items if item.person == person_number("d"))
    (stored,) = [vector for id, vector, _ in zoo.rows(d.shard) if id == d.id]
    original, target = LoRA.load(folder / "d.safetensors"), LoRA(layout(rank), stored)
    lost = sum((original.delta_W(n) - target.delta_W(n)).square().sum() for n in NAMES)
    error = (lost / sum(original.delta_W(n).square().sum() for n in NAMES)).sqrt().item()
    assert error == pytest.approx(d.relative_error, abs=2e-3)  # stored in float16
    assert (d.relative_error == 0) == exact
    # The nearest update of that rank is the SVD's.
    best = sum(torch.linalg.svdvals(original.delta_W(n))[rank:].square().sum() for n in NAMES)
    assert lost.item() == pytest.approx(best.item(), abs=1e-3)


def test_lower_rank_is_filled_with_nothing():
    small = LoRA.random(layout(1), seed=0)
    vector, error = bring_to(small, layout(3))
    assert error == 0
    assert LoRA(layout(3), vector).delta_W(NAMES[0]).allclose(small.delta_W(NAMES[0]))


def test_one_update_in_another_gauge_or_file_counts_once(folder, tmp_path):
    lora = LoRA.load(folder / "a.safetensors")
    factors = {n: (3 * A, B / 3) for n, (A, B) in lora.layout.split(lora.vector[None]).items()}
    LoRA(lora.layout, lora.layout.join(factors)[0]).save(folder / "twin.safetensors", dtype=torch.float16)
    np.save(folder / "twin.npy", np.ones(8))
    (folder / "copy.safetensors").write_bytes((folder / "b.safetensors").read_bytes())
    zoo, outcomes = run(folder, tmp_path / "zoo")
    assert len(zoo) == 6
    said = {o.file.rpartition("/")[2]: o for o in outcomes}
    assert said["twin.safetensors"].outcome == "duplicate"
    assert said["twin.safetensors"].id == said["a.safetensors"].id
    assert {said["b.safetensors"].outcome, said["copy.safetensors"].outcome} == {"imported", "duplicate"}


def test_peft_weights_with_another_alpha_are_another_lora(folder, tmp_path):
    """The scale stands in the configuration alone."""
    import shutil

    shutil.copytree(folder / "deep" / "c", folder / "deep" / "twice")
    np.save(folder / "deep" / "twice.npy", np.ones(8))
    config = folder / "deep" / "twice" / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "lora_alpha": 4}))
    zoo, outcomes = run(folder, tmp_path / "zoo")
    assert {o.file.rpartition("/")[2]: o.outcome for o in outcomes}["twice"] == "imported"
    assert len(zoo) == 7


def test_two_trainings_of_one_person_are_two():
    """Sketches of updates that differ by 1 % are apart; of one update in another gauge and in float16 they are one."""
    a = LoRA.random(layout(2), seed=0)
    near = LoRA(
        a.layout, a.vector * (1 + 0.01 * torch.randn(a.vector.shape, generator=torch.Generator().manual_seed(1)))
    )
    s = Sketcher(a.layout)(torch.stack([a.vector, near.vector, a.vector.half().float()]))
    distance = (s - s[0]).norm(dim=1) / s[0].norm()
    assert distance[1] > 4e-3 > 2e-3 > distance[2]


def test_sketch_estimates_the_distance_of_updates():
    torch.manual_seed(0)
    x, y = (LoRA.random(layout(2), seed=i).vector for i in (1, 2))
    s = Sketcher(layout(2), width=4096)(torch.stack([x, y]))
    true = delta_W_relative_error(layout(2), x[None], y[None]).item()
    assert ((s[0] - s[1]).norm() / s[0].norm()).item() ** 2 == pytest.approx(true, rel=0.1)


def test_same_call_again_goes_on(folder, tmp_path):
    entries = candidates_of(pair_by_name(find_loras([folder])))
    out, options = tmp_path / "zoo", {"licence": "CC0", "shard_size": 2, "report": lambda _: None}
    first, _ = import_zoo(entries[:4], out, layout(2), **options)
    zoo, outcomes = import_zoo(entries, out, layout(2), **options)
    assert len(first) < len(zoo) == 6
    assert zoo.items[: len(first)] == first.items
    assert sum(o.outcome == "present" for o in outcomes) == len(first)
    again, outcomes = import_zoo(entries, out, layout(2), **options)
    assert again.items == zoo.items
    assert not any(o.outcome == "imported" for o in outcomes)
    whole, _ = run(folder, tmp_path / "whole")
    for split in {i.split for i in whole.items}:
        assert whole.load(split)[0] == zoo.load(split)[0]
        assert torch.equal(whole.load(split)[1], zoo.load(split)[1])


def test_people_are_split_not_rows(folder, tmp_path):
    table = folder / "people.csv"
    table.write_text(
        "file,person,face\n" + "".join(f"{n},ann,a.npy\n" for n in ("a.safetensors", "b.safetensors", "deep/c"))
        + "".join(f"{n}.safetensors,bob,{n}.npy\n" for n in "def")
    )  # fmt: skip
    loras = [p for p in find_loras([folder]) if p.stem in "abcdef"]
    candidates = candidates_of(pair_by_table(loras, table))
    zoo, _ = import_zoo(candidates, tmp_path / "zoo", layout(2), licence="CC0", report=lambda _: None)
    people = {item.person for item in zoo.items}
    assert people == {person_number("ann"), person_number("bob")}
    assert all(len({i.split for i in zoo.items if i.person == p}) == 1 for p in people)


def test_parts_of_the_people_are_as_asked():
    splits = [split_of_person(person_number(f"person {i}"), 0.1, 0.2) for i in range(20_000)]
    assert splits.count("held_out") / 20_000 == pytest.approx(0.2, abs=0.02)
    assert splits.count("validation") / 20_000 == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("file,person\na.safetensors,ann\n", "row 1: expected columns file, person, face, got no face"),
        ("file,person,face\na.safetensors,ann,a.npy\na.safetensors,bob,a.npy\n", "row 2: expected each file once"),
        ("file,person,face\na.safetensors,ann,a.npy\n", "expected a row for"),
    ],
)
def test_table_that_does_not_say_enough_is_refused(folder, table, message):
    (folder / "t.csv").write_text(table)
    with pytest.raises(UsageError, match=message):
        pair_by_table(find_loras([folder]), folder / "t.csv")


def test_another_base_other_modules_and_other_faces_are_refused(folder, tmp_path):
    np.save(folder / "b.npy", np.ones(5))
    np.save(folder / "d.npy", np.full(8, np.nan))
    (folder / "deep" / "c.npy").write_bytes(b"")
    other = Layout(base="sd15", modules=(Module(name=NAMES[0], in_features=320, out_features=320, rank=2),))
    LoRA.random(other, seed=7).save(folder / "e.safetensors", force=True)
    name = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    sdxl = Layout(base="sdxl", modules=(Module(name=name, in_features=640, out_features=640, rank=2),))
    LoRA.random(sdxl, seed=8).save(folder / "f.safetensors", force=True)
    zoo, outcomes = run(folder, tmp_path / "zoo")
    reasons = {o.file.rpartition("/")[2]: o.reason for o in outcomes if o.outcome == "refused"}
    assert "expected an embedding of 8 numbers as the others, got 5" in reasons["b.safetensors"]
    assert "c.npy: expected an embedding, one row of numbers" in reasons["c"]
    assert "expected an embedding with a direction" in reasons["d.safetensors"]
    assert "expected the 2 modules of layout 'sd15', got 1" in reasons["e.safetensors"]
    assert "to_v is missing" in reasons["e.safetensors"]
    assert "expected a LoRA for 'sd15', got one for 'sdxl'" in reasons["f.safetensors"]
    assert len(zoo) == 1


def test_nothing_usable_is_an_error_and_leaves_no_init(folder, tmp_path):
    bad = candidates_of(pair_by_name([folder / "bad.safetensors"]))
    with pytest.raises(ZooError, match=r"got none that can be used; the first: .*bad"):
        import_zoo(bad, tmp_path / "no", layout(2), licence="x")
    zoo, _ = run(folder, tmp_path / "zoo")
    with pytest.raises(ZooError, match="use a recipe with gauge 'procrustes'"):
        zoo.init()
    with pytest.raises(UsageError, match="got nothing there"):
        find_loras([tmp_path / "nowhere"])


COLOURS = encoder_record(kind="face", name="colours", dim=8, files={"recogniser": "c" * 64}, input={"size": 64})


class Colours:
    """An encoder of mean colours, which refuses black."""

    dim, image_size, record = 8, 64, COLOURS

    def read(self, images):
        readings = []
        for image in images:
            colour = torch.tensor(image.resize((1, 1)).getpixel((0, 0))).float()
            if not colour.any():
                raise NoFaceError("expected a face, got none")
            blurred = ("blurred",) if colour[1] > colour[0] else ()
            embedding = torch.cat([colour, torch.zeros(5)])
            readings.append(Reading(embedding=embedding / embedding.norm(), quality=1.0, warnings=blurred))
        return readings

    def embed(self, images):
        return torch.stack([reading.embedding for reading in self.read(images)])


@pytest.fixture
def with_photos(tmp_path):
    """LoRAs of people whose photos lie in folders: one photo, several, some of no use, none of use, no photo."""
    where = tmp_path / "photos"
    people = {
        "one": ["red"],
        "several": [(250, 10, 0), (240, 0, 10), (250, 0, 0), (0, 0, 255)],
        "some": ["red", "black", "lime"],
        "none": ["black", "black"],
        "empty": [],
    }
    for number, (name, colours) in enumerate(people.items()):
        folder = where / f"{name}.photos"
        folder.mkdir(parents=True)
        LoRA.random(layout(2), seed=number, std=0.1).save(where / f"{name}.safetensors")
        for i, colour in enumerate(colours):
            Image.new("RGB", (64, 64), colour).save(folder / f"{i}.png")
    (where / "several.photos" / "notes.txt").write_text("no photo")
    (where / "one.photos" / "0.png").rename(where / "one.png")
    return where


def take(folder, out, encoder=None, record=None, **options):
    candidates = candidates_of(pair_by_name(find_loras([folder])), encoder)
    return import_zoo(candidates, out, layout(2), licence="CC0", encoder=record, report=lambda _: None, **options)


def test_photos_are_pooled_and_unusable_ones_named(with_photos, tmp_path):
    zoo, outcomes = take(with_photos, tmp_path / "zoo", Colours(), COLOURS)
    said = {Path(o.file).stem: o for o in outcomes}
    faces = {id: face[0] for item in zoo.items for id, _, face in zoo.rows(item.shard)}
    assert {name for name, o in said.items() if o.outcome == "imported"} == {"one", "several", "some"}
    several = Colours().embed([Image.open(p) for p in sorted((with_photos / "several.photos").glob("*.png"))])
    torch.testing.assert_close(faces[said["several"].id], pool(several), atol=1e-3, rtol=0)
    assert said["one"].warnings == ()
    (stranger,) = said["several"].warnings
    assert stranger.startswith("3.png: may show somebody else: cosine 0.0")
    left_out, blurred, *strangers = said["some"].warnings
    assert left_out == f"left out: {with_photos / 'some.photos' / '1.png'}: expected a face, got none"
    assert blurred == "2.png: blurred"
    assert len(strangers) == 2
    assert said["none"].code == "no-face"
    assert said["none"].reason.startswith("none of 2 photos can be used; the first: ")
    assert "0.png: expected a face, got none" in said["none"].reason
    assert said["empty"].code == "photo"
    lines = {Path(r["file"]).stem: r for r in map(json.loads, (zoo.folder / "import.jsonl").read_text().splitlines())}
    assert (lines["none"]["outcome"], lines["none"]["code"]) == ("refused", "no-face")
    assert lines["several"]["warnings"] == [stranger]


def test_zoo_keeps_its_encoder_and_refuses_another(with_photos, folder, tmp_path):
    out = tmp_path / "zoo"
    zoo, _ = take(with_photos, out, Colours(), COLOURS)
    assert Zoo.open(out).recipe["encoder"] == COLOURS
    other = {**COLOURS, "files": {"recogniser": "d" * 64}, "name": "other"}
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    with pytest.raises(
        ZooError, match=r"'colours' \(recogniser sha256 c{12}\), got those of 'other' \(recogniser sha256 d{12}\)"
    ):
        take(with_photos, out, Colours(), other)
    with pytest.raises(ZooError, match="got some of an encoder that is not named; give --encoder, or choose another"):
        take(folder, out)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    renamed = {**COLOURS, "name": "mine", "licence": "MIT"}
    again, _ = take(folder, out, Colours(), renamed)  # files of embeddings by that encoder
    assert len(again) > len(zoo)
    assert again.recipe["encoder"] == COLOURS


def test_zoo_of_an_unnamed_encoder_takes_no_named_one(folder, with_photos, tmp_path):
    take(folder, tmp_path / "zoo")
    with pytest.raises(ZooError, match="its embeddings' encoder was not named, got embeddings of 'colours'"):
        take(with_photos, tmp_path / "zoo", Colours(), COLOURS)


def test_embedding_that_the_encoder_cannot_make_is_refused(folder, tmp_path):
    np.save(folder / "b.npy", np.ones(5))
    _, outcomes = take(folder, tmp_path / "zoo", Colours(), COLOURS)
    reasons = {Path(o.file).stem: o.reason for o in outcomes if o.outcome == "refused"}
    assert "expected an embedding of 8 numbers as the others, got 5" in reasons["b"]


def test_photos_without_encoder_leave_a_report_and_no_zoo(with_photos, tmp_path):
    with pytest.raises(ZooError, match="got none that can be used; the first"):
        take(with_photos, tmp_path / "zoo")
    report = (tmp_path / "zoo" / "import.jsonl").read_text()
    assert report.count("expected an embedding, got a photo and no encoder; name one") == 4
    assert {p.name for p in (tmp_path / "zoo").iterdir()} - {".lock"} == {"import.jsonl"}
    assert len(take(with_photos, tmp_path / "zoo", Colours(), COLOURS)[0]) == 3


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_table_may_name_several_photos_and_folders(with_photos, tmp_path, ending):
    rows = [
        {"file": "one.safetensors", "person": "ann", "face": ["one.png", "some.photos/0.png"]},
        {"file": "several.safetensors", "person": "bob", "face": ["several.photos"]},
    ]
    table = with_photos / f"people{ending}"
    write_table(table, rows)
    loras = [with_photos / row["file"] for row in rows]
    entries = pair_by_table(loras, table)
    assert entries[0].faces == (with_photos / "one.png", with_photos / "some.photos" / "0.png")
    assert entries[1].faces == tuple(with_photos / "several.photos" / f"{i}.png" for i in range(4))
    candidates = candidates_of(entries, Colours())
    zoo, _ = import_zoo(candidates, tmp_path / "zoo", layout(2), licence="CC0", encoder=COLOURS, report=lambda _: None)
    assert len(zoo) == 2


def write_table(path, rows):
    if path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


STRANGE_NAMES = ["../../x", "/tmp/x", "a\0b", "CON", "x" * 5_000, "\u202e\U0001f600\n"]


def test_persons_name_is_never_a_path(folder, tmp_path):  # row 121
    rows = [
        {"file": f"{n}.safetensors", "person": p, "face": f"{n}.npy"}
        for n, p in zip("abdef", STRANGE_NAMES, strict=False)
    ]
    write_table(folder / "people.jsonl", rows)
    before = sorted(tmp_path.rglob("*"))
    entries = pair_by_table([folder / row["file"] for row in rows], folder / "people.jsonl")
    zoo, _ = import_zoo(candidates_of(entries), tmp_path / "zoo", layout(2), licence="CC0", report=lambda _: None)
    assert {item.person for item in zoo.items} == {person_number(name) for name in STRANGE_NAMES[:5]}
    written = {p.relative_to(tmp_path / "zoo").as_posix() for p in sorted(tmp_path.rglob("*")) if p not in before}
    assert written == {".", ".lock", "zoo.json", "manifest.jsonl", "import.jsonl", "shard-00000.safetensors"}


@pytest.mark.parametrize("column", ["file", "face"])
@pytest.mark.parametrize("name", STRANGE_NAMES)
def test_tables_strange_paths_are_named_and_no_crash(folder, tmp_path, column, name):  # row 121
    rows = [{"file": f"{n}.safetensors", "person": n, "face": f"{n}.npy"} for n in "ab"]
    write_table(folder / "people.jsonl", [rows[0], rows[1] | {column: name}])
    loras = [folder / "a.safetensors", folder / "b.safetensors"]
    with (
        pytest.raises(UsageError, match=r"row 2: expected a file's name|expected a row for .*b\.safetensors")
        if column == "file"
        else nullcontext()
    ):
        candidates = candidates_of(pair_by_table(loras, folder / "people.jsonl"))
        _, outcomes = import_zoo(candidates, tmp_path / "zoo", layout(2), licence="CC0", report=lambda _: None)
        assert [o.outcome for o in outcomes] == ["imported", "refused"]


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_same_table_in_three_formats_is_the_same_zoo(folder, tmp_path, ending):
    rows = [{"file": f"{n}.safetensors", "person": n * 2, "face": f"{n}.npy"} for n in "abdef"]
    write_table(folder / f"people{ending}", rows)
    loras = [folder / row["file"] for row in rows]
    candidates = candidates_of(pair_by_table(loras, folder / f"people{ending}"))
    zoo, _ = import_zoo(candidates, tmp_path / "zoo", layout(2), licence="CC0", report=lambda _: None)
    assert {item.person for item in zoo.items} == {person_number(n * 2) for n in "abdef"}


def test_parquet_numbers_and_gaps_are_read_as_meant(tmp_path):
    table = tmp_path / "people.parquet"
    write_table(table, [{"file": "a.safetensors", "person": 7, "face": "a.npy"}])
    (row,) = read_table(table, ("file", "person", "face"))
    assert row == {"file": "a.safetensors", "person": 7, "face": "a.npy"}
    write_table(table, [{"file": "a.safetensors", "person": 7, "face": None}])
    with pytest.raises(UsageError, match="row 1: expected columns file, person, face, got no face"):
        read_table(table, ("file", "person", "face"))


@pytest.mark.parametrize("content", [b"", b"no table", b"PAR1" + bytes(40) + b"PAR1"])
def test_damaged_parquet_table_is_named(tmp_path, content):
    (tmp_path / "t.parquet").write_bytes(content)
    with pytest.raises(UsageError, match=r"t\.parquet: expected a table, got [^\n]*; check the file$"):
        read_table(tmp_path / "t.parquet", ("file",))


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'lorasynth\[parquet\]', or write CSV"):
        read_table(tmp_path / "t.parquet", ("file",))


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf, 1e30])
def test_embedding_is_made_a_unit_one_or_refused_if_zero(tmp_path, value):  # row 120
    np.save(tmp_path / "e.npy", np.full(8, 3.0))
    assert read_embedding(tmp_path / "e.npy").norm() == pytest.approx(1)
    np.save(tmp_path / "e.npy", np.array([value, 0, 0]))
    with pytest.raises(PhotoError, match=r"e\.npy: expected an embedding with a direction, got norm .*; make it again"):
        read_embedding(tmp_path / "e.npy")


@pytest.mark.parametrize("shape", [(2, 8), (0,)])
def test_file_of_several_embeddings_or_none_is_refused(tmp_path, shape):
    np.save(tmp_path / "e.npy", np.ones(shape))
    with pytest.raises(PhotoError, match=r"e\.npy: expected an embedding, one row of numbers, got shape"):
        read_embedding(tmp_path / "e.npy")


@pytest.mark.slow
def test_by_command_with_photos_of_the_world(tmp_path):
    """The shipped world's own LoRAs and photos: two people; one with a photo that is none, one with a picture of another kind."""
    from lorasynth.encoders.images import to_image
    from lorasynth.storage.files import write_png
    from lorasynth.worlds.world import get_world

    world, results = get_world("portraits"), tmp_path / "r.json"
    tmp_path = tmp_path / "loras"
    tmp_path.mkdir()
    for i in range(4):
        LoRA.random(world.base.layout(1), seed=i).save(tmp_path / f"{i}.safetensors")
        write_png(tmp_path / f"{i}.png", to_image(world.draw([i], [0], 64)[0]))
    (tmp_path / "2.png").write_bytes(b"no picture")
    write_png(tmp_path / "3.png", Image.effect_noise((64, 64), 80).convert("RGB"))
    arguments = [
        "zoo",
        "import",
        str(tmp_path),
        "--out",
        str(tmp_path / "zoo"),
        "--layout",
        "portraits",
        "--licence",
        "CC0",
    ]
    result = CliRunner().invoke(app, [*arguments, "--encoder", "portraits", "--json", str(results)])
    assert result.exit_code == 0, result.output
    record = json.loads(results.read_text())
    assert (record["imported"], record["refused"], record["largest_relative_error"]) == (2, 2, 0.0)
    assert [refused["code"] for refused in record["first_refused"]] == ["photo", "outside-world"]
    assert record["first_refused"][1]["reason"].startswith(f"{tmp_path / '3.png'}: expected a picture of the world")
    assert record["encoder"]["name"] == "portraits"
    assert "encoder portraits (world, 512 numbers); licence of its files: Apache-2.0" in result.stderr
    zoo = Zoo.open(tmp_path / "zoo")
    assert zoo.recipe["encoder"] == record["encoder"]
    embeddings = {item.person: row[2][0] for item in zoo.items for row in zoo.rows(item.shard) if row[0] == item.id}
    assert (embeddings[0] @ world.embeddings([0], 1)[0, 0]).item() > 0.99

    result = CliRunner().invoke(app, [*arguments, "--encoder", "nobody"])
    assert isinstance(result.exception, UsageError)  # exit code 2 and a line, by `lorasynth.cli.main`


def import_sizes(folder, loras):
    """LoRAs, in their order, as files with a face each; what became of each when they are taken in."""
    folder.mkdir()
    for i, lora in enumerate(loras):
        lora.save(folder / f"{i:02d}.safetensors")
        np.save(folder / f"{i:02d}.npy", np.random.default_rng(i).normal(size=8))
    zoo, outcomes = run(folder, folder.with_suffix(".zoo"))
    return zoo, {int(Path(o.file).stem): o for o in outcomes}


@pytest.mark.slow
def test_update_of_unlike_size_is_refused_once_enough_are_in(tmp_path):
    """100 times as large, a hundredth, factors of plain noise: refused after 32 others; the same as the third file comes in."""
    sizes = np.exp(0.3 * np.random.default_rng(0).normal(size=40))
    made = [LoRA.random(layout(2), seed=i, std=0.1).scaled(float(sizes[i])) for i in range(40)]
    noise = LoRA(layout(2), torch.randn(layout(2).num_parameters, generator=torch.Generator().manual_seed(0)))
    damaged = [made[36].scaled(100.0), made[37].scaled(0.01), noise]
    zoo, outcomes = import_sizes(tmp_path / "loras", made[:36] + damaged + made[39:])
    assert {i for i, o in outcomes.items() if o.outcome == "refused"} == {36, 37, 38}
    assert len(zoo) == 37
    for i in (36, 37, 38):
        assert re.search(r"expected an update of size .* to .*, as 36 others of median .*, got ", outcomes[i].reason)
    # The zoo remembers: the next call says the same.
    again = {Path(o.file).stem: o.outcome for o in run(tmp_path / "loras", tmp_path / "loras.zoo")[1]}
    assert [again[name] for name in ("35", "36", "37", "38", "39")] == ["present", *["refused"] * 3, "present"]
    _, early = import_sizes(tmp_path / "early", [made[0], made[1], damaged[0], *made[2:36], damaged[1]])
    assert [early[2].outcome, early[37].outcome] == ["imported", "refused"]


SOUND = {
    "normal": (1e2, lambda g: 0.3 * g.normal(size=5000)),
    "wide": (1e3, lambda g: 0.5 * g.normal(size=5000)),
    "heavy-tailed": (1e2, lambda g: 0.2 * g.laplace(size=5000)),
    "student": (1e2, lambda g: 0.15 * g.standard_t(8, size=5000)),
    "skewed": (1e2, lambda g: 0.1 * g.gamma(2, size=5000)),
    "almost equal": (1e2, lambda g: 0.001 * g.normal(size=5000)),
}


@pytest.mark.parametrize(("times", "draw"), SOUND.values(), ids=SOUND)
def test_sizes_of_5000_sound_loras_pass_and_damaged_do_not(times, draw):
    """Also after three damaged ones that came in before anybody knew what is usual."""
    sizes, refused = Sizes(), []
    for size in (500.0, 1e4, 1e6, *np.exp(draw(np.random.default_rng(0)))):
        if sizes.problem(size):
            refused.append(size)
        sizes.add(size)
    assert refused == []
    assert all(sizes.problem(size) for size in (times, 1 / times, 1e30))
    assert sizes.problem(0.0) == ""  # which is another fault's


def test_what_is_refused_otherwise_comes_in_when_asked_for(folder, tmp_path):
    """A LoRA of zeros, one with a text encoder's part, one whose header names another base."""
    lora = LoRA.random(layout(2), seed=21, std=0.1)
    lora.save(folder / "text.safetensors", metadata={"lorasynth.base": "sd15"})
    tensors = load_file(folder / "text.safetensors")
    text = {f"lora_te_text_model_encoder_layers_0_mlp_fc1.{k}": torch.ones(s) for k, s in TEXT_ENCODER.items()}
    save_file({**tensors, **text}, folder / "text.safetensors", {"lorasynth.base": "sdxl"})
    np.save(folder / "text.npy", np.arange(1.0, 9))
    refused = {o.file.rpartition("/")[2] for o in run(folder, tmp_path / "a")[1] if o.outcome == "refused"}
    assert refused >= {"zero.safetensors", "text.safetensors"}
    entries = pair_by_name(find_loras([folder]))
    candidates = candidates_of(entries, base="sd15")
    zoo, outcomes = import_zoo(
        candidates, tmp_path / "b", layout(2), licence="CC0", allow_zero=True, report=lambda _: None
    )
    assert {o.file.rpartition("/")[2] for o in outcomes if o.outcome == "refused"} == {
        "bad.safetensors", "faceless.safetensors"
    }  # fmt: skip
    assert len(zoo) == 8
