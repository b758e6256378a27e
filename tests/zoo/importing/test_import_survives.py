"""One bad file never ends the work on others, nothing is passed over in silence, and nobody is guessed to be somebody else."""

import io
import json
import multiprocessing
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from lorasynth.cli.app import app
from lorasynth.encoders.embeddings import read_embedding
from lorasynth.errors import PhotoError, UsageError, ZooError
from lorasynth.lora.factors import LoRA
from lorasynth.lora.gate import inspect_file
from lorasynth.lora.layout import Layout, Module
from lorasynth.zoo import Zoo
from lorasynth.zoo.export import export_items
from lorasynth.zoo.forget import forget_person
from lorasynth.zoo.importing.candidates import Candidate, Content, Loaded, candidates_of
from lorasynth.zoo.importing.finding import passed_over
from lorasynth.zoo.importing.importer import import_zoo
from lorasynth.zoo.importing.pairing import find_loras, pair_by_name, pair_by_table, person_number
from lorasynth.zoo.resize import resize_zoo

NAMES = [f"down_blocks.0.attentions.0.transformer_blocks.0.attn1.{n}" for n in ("to_q", "to_v")]
LAYOUT = Layout(base="sd15", modules=tuple(Module(name=n, in_features=320, out_features=320, rank=2) for n in NAMES))


def lora(path, seed, layout=LAYOUT, **metadata):
    path.parent.mkdir(parents=True, exist_ok=True)
    LoRA.random(layout, seed=seed, std=0.1).save(path, metadata=metadata or None)
    np.save(path.with_suffix(".npy"), np.random.default_rng(seed).normal(size=8))
    return path


def take(folder, out, **options):
    entries = pair_by_name(find_loras([folder]))
    used = [e.lora for e in entries] + [f for e in entries for f in e.faces]
    others = passed_over([folder], used)
    return import_zoo(
        candidates_of(entries), out, LAYOUT, licence="CC0", others=others, report=lambda _: None, **options
    )


def said(outcomes):
    return {Path(o.file).name: o.outcome for o in outcomes}


def npy(shape, extra=b"", descr="'<f4'"):
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + extra


def saved(save, *arrays, **named):
    file = io.BytesIO()
    save(file, *arrays, **named)
    return file.getvalue()


EMBEDDINGS = {
    "an .npz": saved(np.savez, a=np.ones(8)),
    "4e12 numbers": npy("(4000000000000,)"),
    "10^30 numbers": npy("(1" + "0" * 30 + ",)"),
    "a negative shape": npy("(-5,)", bytes(64)),
    "a header nested deep": npy("(" * 3000),
    "text": saved(np.save, np.array(["a"] * 8)),
    "dates": saved(np.save, np.zeros(8, "M8[s]")),
    "records": saved(np.save, np.zeros(8, [("a", "f4"), ("b", "f4")])),
    "complex numbers": saved(np.save, np.ones(8, complex)),
    "a pickle": npy("(1,)", b"\x80\x04N.", "'|O'"),
    "a version of no year": b"\x93NUMPY\x09\x00" + bytes(200),
    "numbers that are missing": npy("(8,)", bytes(16)),
    "bytes behind": npy("(2,)", bytes(32)),
    "nothing": b"",
}


@pytest.mark.parametrize("content", EMBEDDINGS.values(), ids=EMBEDDINGS)
def test_bad_embeddings_file_is_a_refusal_in_one_line(tmp_path, content):
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(PhotoError, match=r"^[^\n]*a\.npy: expected an embedding, one row of numbers, got [^\n]+$"):
        read_embedding(tmp_path / "a.npy")


def test_embedding_that_is_no_file_is_said_to_be_none(tmp_path):
    os.mkfifo(tmp_path / "a.npy")
    with pytest.raises(PhotoError, match=r"one row of numbers, got a pipe, socket or device$"):
        read_embedding(tmp_path / "a.npy")


@pytest.mark.parametrize("part", [float("nan"), -0.1, 1.0])
def test_parts_of_the_people_are_parts(tmp_path, part):
    lora(tmp_path / "loras" / "a.safetensors", 0)
    for parts in ({"validation": part}, {"held_out": part}):
        with pytest.raises(UsageError, match="expected parts of the people that leave some to learn from"):
            take(tmp_path / "loras", tmp_path / "zoo", **parts)
    assert not (tmp_path / "zoo").exists()


@pytest.mark.parametrize("value", [True, 1.5, None, {"a": 1}, [["a.npy"]], [None]])
def test_table_s_face_is_a_name(tmp_path, value):
    here = lora(tmp_path / "a.safetensors", 0)
    row = json.dumps({"file": here.name, "person": "a", "face": value})
    (tmp_path / "t.jsonl").write_text(row + "\n")
    with pytest.raises(UsageError, match=r"t\.jsonl row 1: expected (a file's name|columns file, person, face), got "):
        pair_by_table([here], tmp_path / "t.jsonl")


def verb(*words):
    """The error of `lorasynth zoo`; None where it went well."""
    result = CliRunner().invoke(app, ["zoo", *map(str, words)])
    return result.exception


def test_no_folder_of_loras_becomes_a_zoo(tmp_path):
    """And nothing comes to lie within a zoo."""
    loras, zoo = tmp_path / "loras", tmp_path / "zoo"
    for seed in range(3):
        lora(loras / f"{seed}.safetensors", seed)
    take(loras, zoo)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    (id, *_) = (item.id for item in Zoo.open(zoo).items)
    for words in (
        ["import", loras, "--out", loras, "--licence", "CC0"], ["resize", zoo, "--rank", "1", "--out", loras],
        ["resize", zoo, "--rank", "1", "--out", zoo / "inner"], ["import", loras, "--out", zoo / "inner", "--licence", "CC0"],
        ["export", zoo, "--item", id, "--out", zoo], ["export", zoo, "--item", id, "--out", zoo / "inner"],
        ["import", loras, "--out", tmp_path / "new", "--licence", " "],
        ["import", loras, "--out", tmp_path / "new", "--licence", "a\nb"],
    ):  # fmt: skip
        error = verb(*words)
        assert isinstance(error, UsageError), (words, error)
        assert "expected" in str(error)
        assert "got" in str(error)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_bad_faces_and_loras_of_every_kind_leave_the_good(tmp_path):
    where = tmp_path / "loras"
    for n, (name, content) in enumerate(EMBEDDINGS.items()):
        lora(where / f"{name}.safetensors", n).with_suffix(".npy").write_bytes(content)
    good = lora(where / "good.safetensors", 99)
    scalar = {k: torch.tensor(1.0) if k.endswith("to_q.lora_down.weight") else t for k, t in load_file(good).items()}
    save_file(scalar, where / "scalar.safetensors")
    os.rename(lora(where / "x.safetensors", 98), os.fsencode(where) + b"/z\xe9.safetensors")
    os.rename(where / "x.npy", os.fsencode(where) + b"/z\xe9.npy")
    os.mkfifo(where / "pipe.safetensors")
    (where / "circle.safetensors").symlink_to("circle.safetensors")
    zoo, outcomes = take(where, tmp_path / "zoo")
    kinds = said(outcomes)
    assert {name for name, outcome in kinds.items() if outcome == "imported"} == {
        "good.safetensors",
        "z\udce9.safetensors",
    }
    assert {kinds[name] for name in ("scalar.safetensors", "pipe.safetensors", "circle.safetensors")} == {"refused"}
    assert len(zoo) == 2
    assert zoo.verify() == []
    report = (zoo.folder / "import.jsonl").read_text().splitlines()
    assert len(report) == len(outcomes) == len(EMBEDDINGS) + 5


@pytest.mark.parametrize(
    "error", [IndexError("a"), MemoryError(), AssertionError("b"), RecursionError(), OSError(5, "I/O")]
)
@pytest.mark.parametrize("where", ["read", "load", "face"])
def test_whatever_one_lora_raises_is_its_own_refusal(tmp_path, error, where):
    def fails(*_):
        raise error

    good = candidates_of(pair_by_name([lora(tmp_path / "good.safetensors", 0)]))[0]
    load = fails if where == "load" else lambda: Loaded(layout=LAYOUT, vector=torch.ones(LAYOUT.num_parameters))
    bad = Candidate(
        name="bad",
        person="bad",
        read=fails if where == "read" else lambda: Content(id="bad", load=load),
        face=fails,
    )
    zoo, outcomes = import_zoo([bad, good], tmp_path / "zoo", LAYOUT, licence="CC0", report=lambda _: None)
    assert [o.outcome for o in outcomes] == ["refused", "imported"]
    assert outcomes[0].code == ("os" if isinstance(error, OSError) else "unexpected")
    assert len(zoo) == 1


def test_stopped_import_leaves_its_report(tmp_path, monkeypatch):
    monkeypatch.setattr("lorasynth.zoo.importing.looking.MOST", 1)

    def stopped():
        raise KeyboardInterrupt

    candidates = candidates_of(pair_by_name([lora(tmp_path / "good.safetensors", 0)]))
    last = Candidate(name="last", person="last", read=stopped, face=stopped)
    with pytest.raises(KeyboardInterrupt):
        import_zoo([*candidates, last], tmp_path / "zoo", LAYOUT, licence="CC0", report=lambda _: None)
    assert (tmp_path / "zoo" / "import.jsonl").read_text().count("\n") == 1


def test_files_that_are_no_loras_are_in_the_report(tmp_path):
    where = tmp_path / "loras"
    lora(where / "anna.safetensors", 0)
    for name in ("carl.pt", "anna.preview.png", "notes.txt"):
        (where / name).write_bytes(b"x")
    zoo, outcomes = take(where, tmp_path / "zoo")
    lines = [json.loads(line) for line in (zoo.folder / "import.jsonl").read_text().splitlines()]
    assert {Path(line["file"]).name: line["outcome"] for line in lines} == said(outcomes)
    assert said(outcomes) == {
        "anna.safetensors": "imported", "carl.pt": "refused", "anna.preview.png": "ignored", "notes.txt": "ignored",
    }  # fmt: skip


# Identity.


def test_loras_of_one_name_need_a_table(tmp_path):
    where = tmp_path / "loras"
    paths = [lora(where / who / "last.safetensors", n) for n, who in enumerate(("anna", "bert", "carl"))]
    with pytest.raises(
        ZooError, match="expected a name that one LoRA has, got 'last', which 3 files have; say in a table"
    ):
        take(where, tmp_path / "zoo")
    rows = [f"{p.relative_to(where)},{p.parent.name},{p.relative_to(where).with_suffix('.npy')}" for p in paths]
    (where / "t.csv").write_text("\n".join(["file,person,face", *rows]))
    entries = pair_by_table(paths, where / "t.csv")
    zoo, _ = import_zoo(candidates_of(entries), tmp_path / "zoo", LAYOUT, licence="x", report=lambda _: None)
    assert {item.person for item in zoo.items} == {person_number(name) for name in ("anna", "bert", "carl")}


def test_copies_of_one_file_under_one_name_are_one_person(tmp_path):
    first = lora(tmp_path / "loras" / "a" / "anna.safetensors", 0)
    (tmp_path / "loras" / "b").mkdir()
    (tmp_path / "loras" / "b" / "anna.safetensors").write_bytes(first.read_bytes())
    zoo, outcomes = take(tmp_path / "loras", tmp_path / "zoo")
    assert [o.outcome for o in outcomes if o.outcome != "ignored"] == ["imported", "present"]
    assert len(zoo) == 1


def test_another_lora_of_a_name_in_the_zoo_needs_a_table(tmp_path):
    lora(tmp_path / "one" / "anna.safetensors", 0)
    take(tmp_path / "one", tmp_path / "zoo")
    lora(tmp_path / "two" / "anna.safetensors", 1)
    zoo, outcomes = take(tmp_path / "two", tmp_path / "zoo")
    assert len(zoo) == 1
    assert "which item " in outcomes[0].reason


def test_lora_that_is_in_as_another_persons_is_said(tmp_path):
    first = lora(tmp_path / "loras" / "anna.safetensors", 0)
    (tmp_path / "loras" / "bert.safetensors").write_bytes(first.read_bytes())
    _, outcomes = take(tmp_path / "loras", tmp_path / "zoo")
    assert outcomes[1].outcome == "duplicate"
    assert outcomes[1].warnings == (f"is in the zoo as person {person_number('anna')}'s: item {outcomes[0].id}",)


def test_refused_copy_is_a_duplicate_the_second_time(tmp_path):
    """The copy has no face, and comes before the LoRA that is taken in."""
    taken = lora(tmp_path / "loras" / "bert.safetensors", 0)
    (tmp_path / "loras" / "anna.safetensors").write_bytes(taken.read_bytes())
    first, again = (take(tmp_path / "loras", tmp_path / "zoo")[1] for _ in range(2))
    said = [{Path(o.file).stem: o.outcome for o in outcomes if o.outcome != "ignored"} for outcomes in (first, again)]
    assert said == [{"anna": "refused", "bert": "imported"}, {"anna": "duplicate", "bert": "present"}]
    assert f"as person {person_number('bert')}'s" in again[0].warnings[0]


def test_id_and_weights_are_of_the_same_bytes(tmp_path):
    """The file changes after it was read: what comes in is what the id says."""
    path = lora(tmp_path / "a.safetensors", 0)
    (candidate,) = candidates_of(pair_by_name([path]))
    content, before = candidate.read(), path.read_bytes()
    expected = content.load().vector
    LoRA.random(LAYOUT, seed=5).save(path, force=True)
    assert torch.equal(content.load().vector, expected)
    assert candidate.read().id != content.id
    path.write_bytes(before)
    assert candidate.read().id == content.id


# What is left out, and what is kept.


def test_modules_that_the_layout_lacks_are_left_out_and_said(tmp_path):
    other = Module(name=NAMES[0].replace("to_q", "to_k"), in_features=320, out_features=320, rank=4)
    more = Layout(base="sd15", modules=(*LAYOUT.modules, other))
    whole = LoRA.load(lora(tmp_path / "loras" / "a.safetensors", 0, more))
    zoo, (outcome,) = take(tmp_path / "loras", tmp_path / "zoo")
    lost = whole.delta_W(more.modules[0].name).square().sum() / whole.norm() ** 2
    assert more.modules[0].name.endswith("to_k")
    assert outcome.left_out == pytest.approx(lost.item(), rel=1e-4)
    assert outcome.relative_error == pytest.approx(lost.item() ** 0.5, rel=1e-4)
    assert zoo.items[0].relative_error == outcome.relative_error


def test_text_encoders_part_is_left_out_with_a_note(tmp_path):
    path = lora(tmp_path / "loras" / "a.safetensors", 0)
    prefix = "lora_te_text_model_encoder_layers_0_mlp_fc1."
    text = {"lora_down.weight": torch.ones(2, 768), "lora_up.weight": torch.ones(3072, 2), "alpha": torch.tensor(2.0)}
    save_file(load_file(path) | {prefix + key: tensor for key, tensor in text.items()}, path)
    _, (outcome,) = take(tmp_path / "loras", tmp_path / "zoo")
    assert (outcome.outcome, outcome.notes) == ("imported", ("3 tensors of text encoders left out",))


def test_marks_of_a_header_survive_import_and_export(tmp_path):
    where = tmp_path / "loras"
    lora(where / "a.safetensors", 0, **{"lorasynth.synthetic": "true", "lorasynth.consent": "self"})
    lora(where / "b.safetensors", 1)
    zoo, outcomes = take(where, tmp_path / "zoo")
    assert [(item.synthetic, item.consent) for item in zoo.items] == [("true", "self"), ("", "")]
    assert zoo.verify() == []
    assert "synthetic" not in (zoo.folder / "manifest.jsonl").read_text().splitlines()[1]
    resized, _ = resize_zoo(zoo, tmp_path / "resized", 1, report=lambda _: None)
    for of in (zoo, resized):
        files = export_items(of, [o.id for o in outcomes], tmp_path / f"out-{of.folder.name}")
        marks = [
            {k: v for k, v in inspect_file(f).metadata.items() if k.endswith(("synthetic", "consent"))} for f in files
        ]
        assert marks == [{"lorasynth.synthetic": "true", "lorasynth.consent": "self"}, {}]


# Several at once, and whoever was forgotten.


def test_two_imports_at_once_both_finish(tmp_path):
    for name in "ab":
        for n in range(12):
            lora(tmp_path / name / f"{name}{n}.safetensors", n + 100 * ord(name))
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=take, args=(tmp_path / n, tmp_path / "zoo"), kwargs={"shard_size": 2}) for n in "ab"]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    zoo = Zoo.open(tmp_path / "zoo")
    assert len(zoo) == 24
    assert zoo.verify() == []
    lines = [json.loads(line) for line in (tmp_path / "zoo" / "import.jsonl").read_text().splitlines()]
    assert len({line["file"] for line in lines if line["outcome"] == "imported"}) == 24


def test_somebody_who_was_forgotten_is_named_nowhere(tmp_path):
    where = tmp_path / "loras"
    first = lora(where / "anna-1.safetensors", 0)
    factors = {k: t * 2 if "up" in k else t / 2 if "down" in k else t for k, t in load_file(first).items()}
    save_file(factors, lora(where / "anna-2.safetensors", 1))  # the same update
    lora(where / "anna-3.safetensors", 2).write_bytes(b"no LoRA")
    lora(where / "bert.safetensors", 3)
    rows = [
        f"{p.name},{'anna' if 'anna' in p.name else 'bert'},{p.stem}.npy" for p in sorted(where.glob("*.safetensors"))
    ]
    (tmp_path / "loras" / "t.csv").write_text("\n".join(["file,person,face", *rows]))

    def again():
        entries = pair_by_table(find_loras([where]), where / "t.csv")
        return import_zoo(candidates_of(entries), tmp_path / "zoo", LAYOUT, licence="x", report=lambda _: None)

    def named():
        return [p.name for p in (tmp_path / "zoo").rglob("*") if p.is_file() and b"anna" in p.read_bytes()]

    again()
    assert named() == ["import.jsonl"]
    forget_person(tmp_path / "zoo", person_number("anna"))
    assert named() == []
    _, outcomes = again()
    assert named() == []
    assert [o.outcome for o in outcomes] == ["forgotten"] * 3 + ["present"]


def test_no_file_of_somebody_forgotten_is_named(tmp_path):
    lora(tmp_path / "loras" / "anna.safetensors", 0)
    lora(tmp_path / "loras" / "bert.safetensors", 1)
    (tmp_path / "loras" / "anna.preview.png").write_bytes(b"x")
    take(tmp_path / "loras", tmp_path / "zoo")
    for then in (
        lambda: forget_person(tmp_path / "zoo", person_number("anna")),
        lambda: take(tmp_path / "loras", tmp_path / "zoo"),
    ):
        then()
        assert "anna" not in (tmp_path / "zoo" / "import.jsonl").read_text()
