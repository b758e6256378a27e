"""What lies in a folder: every LoRA is found once, and every other file is named with the reason why it is passed over."""

import os

import numpy as np
import pytest

from lorasynth.errors import UsageError
from lorasynth.zoo.importing.finding import find_loras, passed_over
from lorasynth.zoo.importing.pairing import look_alikes, pair_by_name, pair_by_table, person_number


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def named(folder, *paths):
    entries = pair_by_name(find_loras(paths or [folder]))
    used = [e.lora for e in entries] + [f for e in entries for f in e.faces]
    return {p.file.relative_to(folder).as_posix(): p for p in passed_over(paths or [folder], used)}


def test_find_loras_takes_endings_in_capitals(tmp_path):
    touch(tmp_path, "anna.safetensors", "BERT.SAFETENSORS", "deep/Carl.SafeTensors")
    assert [p.name for p in find_loras([tmp_path])] == ["BERT.SAFETENSORS", "anna.safetensors", "Carl.SafeTensors"]


def test_every_other_file_is_named_with_its_reason(tmp_path):
    touch(
        tmp_path, "anna.safetensors", "anna.npy", "anna.preview.png", "carl.pt", "dora.npy", "notes.txt", "._anna.safetensors",
        ".DS_Store", "eve/adapter_model.bin", "peft/adapter_model.safetensors", "peft/adapter_config.json", "old/zoo.json",
        "old/shard-00000.safetensors", "old/quarantine/shard-00001.safetensors",
    )  # fmt: skip
    said = named(tmp_path)
    assert [p.name for p in find_loras([tmp_path])] == ["anna.safetensors", "peft"]
    assert {name for name, p in said.items() if p.refused} == {"carl.pt", "eve/adapter_model.bin"}
    assert "lorasynth import-legacy" in said["carl.pt"].reason
    assert "a preview" in said["anna.preview.png"].reason
    assert "no LoRA of that name" in said["dora.npy"].reason
    assert "zoo export" in said["old"].reason
    assert set(said) == {
        "carl.pt", "eve/adapter_model.bin", "anna.preview.png", "dora.npy", "notes.txt", "._anna.safetensors", ".DS_Store", "old",
    }  # fmt: skip


def test_face_that_is_not_needed_is_said_to_be_so(tmp_path):
    touch(tmp_path, "a.safetensors", "a.npy", "a.jpg", "a.photos/1.png", "b.jpg")
    reasons = {name: passed.reason for name, passed in named(tmp_path).items()}
    assert set(reasons) == {"a.jpg", "a.photos/1.png", "b.jpg"}
    assert all("another face of that LoRA was taken" in reasons[name] for name in ("a.jpg", "a.photos/1.png"))
    assert "no LoRA of that name" in reasons["b.jpg"]


def test_rows_of_files_that_are_not_given_are_said(tmp_path):
    touch(tmp_path, "a.safetensors")
    (tmp_path / "t.csv").write_text("file,person,face\na.safetensors,ann,a.npy\nb.safetensors,bob,b.npy\n")
    said = []
    assert len(pair_by_table([tmp_path / "a.safetensors"], tmp_path / "t.csv", said.append)) == 1
    assert len(said) == 1
    assert "1 rows are of files that are not among the LoRAs; the first: " in said[0]
    assert said[0].endswith("b.safetensors")


@pytest.mark.parametrize("kind", ["pipe", "loop", "link to nothing"])
def test_what_is_called_a_lora_and_is_no_file_is_named(tmp_path, kind):
    path = tmp_path / "a.safetensors"
    {"pipe": os.mkfifo, "loop": lambda p: p.symlink_to(p), "link to nothing": lambda p: p.symlink_to("b")}[kind](path)
    assert find_loras([tmp_path]) == [path]  # which the gate refuses by name


@pytest.mark.parametrize("pattern", ["**/*.safetensors", "**", "*/../**/a.safetensors"])
def test_links_that_lead_back_end(tmp_path, pattern):
    touch(tmp_path, "one/a.safetensors", "two/b.npy")
    for name in ("x", "y", "z"):
        (tmp_path / "one" / name).symlink_to(tmp_path)
        (tmp_path / "two" / name).symlink_to(tmp_path / "one")
    assert {p.resolve() for p in find_loras([str(tmp_path / pattern)])} == {tmp_path / "one" / "a.safetensors"}
    assert {p.resolve() for p in find_loras([tmp_path])} == {tmp_path / "one" / "a.safetensors"}


def test_folder_behind_a_link_is_searched(tmp_path):
    touch(tmp_path, "elsewhere/a.safetensors", "loras/b.safetensors")
    (tmp_path / "loras" / "more").symlink_to(tmp_path / "elsewhere")
    assert [p.name for p in find_loras([tmp_path / "loras"])] == ["b.safetensors", "a.safetensors"]


def test_what_exists_is_taken_literally_before_as_a_pattern(tmp_path):
    touch(tmp_path, "anna [v2].safetensors", "anna v.safetensors", "x[ab]/c.safetensors", "xa/d.safetensors")
    assert find_loras([tmp_path / "anna [v2].safetensors"]) == [tmp_path / "anna [v2].safetensors"]
    assert find_loras([tmp_path / "x[ab]"]) == [tmp_path / "x[ab]" / "c.safetensors"]
    assert find_loras([tmp_path / "x[ac]" / "*"]) == [tmp_path / "xa" / "d.safetensors"]
    with pytest.raises(UsageError, match="got nothing there"):
        find_loras([tmp_path / "y[ab]"])


def test_patterns_faces_and_embeddings_are_no_loras(tmp_path):
    touch(tmp_path, "a.safetensors", "a.embedding.safetensors", "b.jpg")
    assert find_loras([str(tmp_path / "*")]) == [tmp_path / "a.safetensors"]
    assert set(named(tmp_path, str(tmp_path / "*"))) == {"b.jpg"}


def test_faces_are_found_whatever_the_case_of_their_endings(tmp_path):
    touch(tmp_path, "a.safetensors", "a.JPG", "b.safetensors", "b.photos/1.JPEG", "b.photos/._1.jpg", "c.safetensors")
    np.save(tmp_path / "c.npy", np.ones(3))
    (tmp_path / "c.npy").rename(tmp_path / "c.NPY")
    faces = {e.person: [f.name for f in e.faces] for e in pair_by_name(find_loras([tmp_path]))}
    assert faces == {"a": ["a.JPG"], "b": ["1.JPEG"], "c": ["c.NPY"]}


def test_face_is_found_under_decomposed_accents(tmp_path):
    touch(tmp_path, "cl\u00e9o.safetensors", "cle\u0301o.npy")
    (entry,) = pair_by_name(find_loras([tmp_path]))
    assert [f.name for f in entry.faces] == ["cle\u0301o.npy"]


def test_libraries_name_for_every_lora_is_nobodys(tmp_path):
    for who in ("anna", "bert"):
        touch(tmp_path, f"{who}/pytorch_lora_weights.safetensors", f"{who}.npy")
    entries = pair_by_name(find_loras([tmp_path]))
    assert [(e.person, e.faces[0].name, e.rivals) for e in entries] == [
        ("anna", "anna.npy", ()),
        ("bert", "bert.npy", ()),
    ]


def test_one_name_in_two_folders_is_a_clash(tmp_path):
    touch(tmp_path, "anna/last.safetensors", "bert/last.safetensors", "carl.safetensors")
    rivals = {e.lora.name: len(e.rivals) for e in pair_by_name(find_loras([tmp_path]))}
    assert rivals == {"last.safetensors": 2, "carl.safetensors": 0}


def test_peft_folders_with_dots_are_different_people(tmp_path):
    touch(tmp_path, "anna.v1/adapter_model.safetensors", "anna.v2/adapter_model.safetensors")
    assert [e.person for e in pair_by_name(find_loras([tmp_path]))] == ["anna.v1", "anna.v2"]


@pytest.mark.parametrize(("one", "other"), [("007", "7"), ("7 ", "7"), ("Anna", "anna"), ("00", "0"), ("7.0", "7")])
def test_names_that_look_alike_are_two_people_and_are_said(one, other):
    assert person_number(one) != person_number(other)
    assert look_alikes([one, other, "x"]) == ([sorted([one, other])] if "." not in one else [])


def test_person_is_a_number_only_as_numbers_are_written():
    assert (person_number("7"), person_number("0"), person_number("123456")) == (7, 0, 123456)
    assert person_number("e\u0301") == person_number("\u00e9")
    assert person_number("\ud800") != person_number("\udce9")  # half a surrogate, a name that is not UTF-8


@pytest.mark.parametrize("value", ["7.0", "true", "null", '"  "', '["a"]'])
def test_person_of_another_type_is_refused(tmp_path, value):
    touch(tmp_path, "a.safetensors")
    (tmp_path / "t.jsonl").write_text(f'{{"file": "a.safetensors", "person": {value}, "face": "a.npy"}}\n')
    with pytest.raises(UsageError, match="row 1: expected"):
        pair_by_table([tmp_path / "a.safetensors"], tmp_path / "t.jsonl")
