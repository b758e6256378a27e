"""Every form in which people keep pictures for trainers is read; what is not used is listed with its reason."""

import json
import zipfile

import pytest
from PIL import Image

from lorasynth.errors import UsageError


def subjects(gallery):
    return {subject: [file.name for file in files] for subject, files in gallery.by_subject.items()}


def left_out(gallery):
    return {one.name: one.reason for one in gallery.left_out}


def captions(gallery):
    from lorasynth.gallery import PhotoRef, Use

    return {f.name: gallery.captions([PhotoRef(f.subject, f.name, Use.FIT)])[0] for f in gallery.files}


def test_sub_folder_is_a_subject(write, gallery):
    found = gallery(write({"alice/1.jpg": 1, "alice/day 2/3.PNG": 2, "bob/1.webp": 3}))
    assert subjects(found) == {"alice": ["alice/1.jpg", "alice/day 2/3.PNG"], "bob": ["bob/1.webp"]}
    assert set(captions(found).values()) == {"a photo of sks person"}
    assert (found.name, found.subject, found.left_out, found.notes) == ("people", "sks person", (), ())


def test_kohyas_folders_lose_their_numbers(write, gallery):
    found = gallery(write({"10_sks bob/1.jpg": 1, "5_sks ann/1.jpg": 2, "007_bond/1.jpg": 3, "12/1.jpg": 4}))
    assert sorted(subjects(found)) == ["007_bond", "12", "sks ann", "sks bob"]
    assert found.notes == ("folders are named as kohya's: the number of repeats is dropped, and not needed",)


def test_two_folders_of_one_subject_are_noted(write, gallery):
    found = gallery(write({"10_bob/1.jpg": 1, "2_bob/1.jpg": 2}))
    assert subjects(found) == {"bob": ["10_bob/1.jpg", "2_bob/1.jpg"]}
    assert "bob: the folders 10_bob, 2_bob are taken for one subject" in found.notes


def test_flat_folder_is_one_subject(write, gallery):
    found = gallery(write({"photo.jpg": 1, "photo.txt": "a photo of [trigger], smiling", "photo_mask.jpg": 2}))
    assert subjects(found) == {"people": ["photo.jpg"]}
    assert captions(found) == {"photo.jpg": "a photo of sks person, smiling"}


@pytest.mark.parametrize("ending", [".txt", ".caption", ".TXT"])
def test_captions_lie_beside_photos(write, gallery, ending):
    root = write({"a/1.jpg": 1, f"a/1{ending}": "\ufeff[trigger],\n  with a hat ", "a/2.jpg": 2, f"a/2{ending}": " \n"})
    found = gallery(root, instance_prompt="a photo of an ohwx woman")
    assert captions(found) == {"a/1.jpg": "ohwx woman, with a hat", "a/2.jpg": "a photo of an ohwx woman"}
    assert found.left_out == ()


@pytest.mark.parametrize(
    ("prompt", "subject"),
    [
        ("a photo of sks person", "sks person"), ("A portrait of an ohwx man", "ohwx man"), ("  sks   dog ", "sks dog"),
        ("photo of a TOK cat", "TOK cat"),
    ],
)  # fmt: skip
def test_instance_prompt_names_the_subject(write, gallery, prompt, subject):
    assert gallery(write({"a/1.jpg": 1}), instance_prompt=prompt).subject == subject


def test_empty_instance_prompt_is_refused(write, gallery):
    with pytest.raises(UsageError, match=r"expected an instance prompt such as 'a photo of sks person', got '  '"):
        gallery(write({"a/1.jpg": 1}), instance_prompt="  ")


def test_bad_captions_leave_their_photos_out(write, gallery):
    root = write({"a/1.jpg": 1, "a/1.txt": b"caf\xe9", "a/2.jpg": 2, "a/2.txt": "long " * 1_000, "a/3.jpg": 3})
    found = gallery(root)
    assert left_out(found) == {"a/1.jpg": "caption", "a/2.jpg": "caption"}
    assert "expected a caption in UTF-8" in found.left_out[0].words
    assert subjects(found) == {"a": ["a/3.jpg"]}


@pytest.mark.parametrize("mask", ["1_mask.png", "1-masklabel.png", "1_mask.jpg"])
def test_masks_lie_beside_photos(write, gallery, mask):
    root = write({"a/1.jpg": 1, f"a/{mask}": 2, "a/2.jpg": 3, "a/the_mask.jpg": 4})
    found = gallery(root)
    assert [(f.name, f.mask) for f in found.files] == [
        ("a/1.jpg", f"a/{mask}"), ("a/2.jpg", None), ("a/the_mask.jpg", None)
    ]  # fmt: skip
    assert all(f.mask is None for f in gallery(root, masks=False).files)
    assert found.left_out == ()


def test_masks_lie_in_a_folder_of_their_own(write, gallery):
    from lorasynth.gallery import PhotoRef, Use

    half = Image.new("L", (64, 64), 0)
    half.paste(127, (0, 0, 64, 32))
    root = write(
        {
            "10_sks ann/1.jpg": 1,
            "10_sks ann/old/2.jpg": 2,
            "10_sks ann_mask/1.png": half,
            "10_sks ann_mask/old/2.png": half,
        }
        | {"10_sks ann_mask/3.png": 3, "10_sks ann_mask/new/4.png": 4, "bob/1.jpg": 5, "iron_mask/1.jpg": 6}
    )
    found = gallery(root)
    assert [(f.name, f.mask) for f in found.files] == [
        ("10_sks ann/1.jpg", "10_sks ann_mask/1.png"), ("10_sks ann/old/2.jpg", "10_sks ann_mask/old/2.png"),
        ("bob/1.jpg", None), ("iron_mask/1.jpg", None),
    ]  # fmt: skip
    assert sorted(subjects(found)) == ["bob", "iron_mask", "sks ann"]
    assert left_out(found) == {"10_sks ann_mask/3.png": "mask", "10_sks ann_mask/new/4.png": "mask"}
    assert "folders of masks, by their names and their files': 10_sks ann_mask" in found.notes
    (mask,) = found.masks([PhotoRef("sks ann", "10_sks ann/1.jpg", Use.FIT)], 8)
    assert [mask[0, 0, 0].item(), mask[0, -1, 0].item()] == pytest.approx([127 / 255, 0], abs=0.01)
    ignored = gallery(root, masks=False)
    assert [f.mask for f in ignored.files] == [None] * 4
    assert sorted(subjects(ignored)) == ["bob", "iron_mask", "sks ann"]


def test_second_mask_of_a_photo_is_no_photo(write, gallery):
    masks = ["a/1-masklabel.png", "a/1_mask.jpg", "a/1_mask.png", "a_mask/1.png"]
    found = gallery(write({"a/1.jpg": 1} | dict.fromkeys(masks, 2)))
    assert [(f.name, f.mask in masks) for f in found.files] == [("a/1.jpg", True)]
    assert left_out(found) == dict.fromkeys(set(masks) - {found.files[0].mask}, "mask")


TABLE = [
    {"file_name": "1.jpg", "text": "a photo of [trigger], laughing", "subject": "alice"},
    {"file_name": "more/2.png", "text": "", "subject": "bob"},
]


@pytest.mark.parametrize("form", ["jsonl", "csv", "spreadsheet"])
def test_metadata_names_subjects_and_captions(write, gallery, form):
    lines = [";".join(row.values()) for row in TABLE]
    tables = {
        "jsonl": ("metadata.jsonl", "\n".join(map(json.dumps, TABLE))),
        "csv": ("metadata.csv", 'file_name,text,subject\n1.jpg,"a photo of [trigger], laughing",alice\nmore/2.png,,bob\n'),
        "spreadsheet": ("metadata.csv", "\ufefffile_name;text;subject\r\n" + "\r\n".join(lines)),
    }  # fmt: skip
    name, text = tables[form]
    found = gallery(write({"1.jpg": 1, "more/2.png": 2, "3.jpg": 3, name: text}))
    assert subjects(found) == {"alice": ["1.jpg"], "bob": ["more/2.png"]}
    assert captions(found) == {"1.jpg": "a photo of sks person, laughing", "more/2.png": "a photo of sks person"}
    assert left_out(found) == {"3.jpg": "no-subject"}


def test_metadata_may_lie_with_each_subject(write, gallery):
    root = write(
        {"ann/1.jpg": 1, "ann/metadata.jsonl": '{"file_name": "1.jpg", "text": "ann smiles"}\n', "bob/1.jpg": 2}
    )
    assert captions(gallery(root)) == {"ann/1.jpg": "ann smiles", "bob/1.jpg": "a photo of sks person"}


def test_split_folders_of_imagefolders_are_no_subjects(write, gallery):
    found = gallery(write({"train/ann/1.jpg": 1, "train/bob/1.jpg": 2, "test/cay/1.jpg": 3}))
    assert sorted(subjects(found)) == ["ann", "bob", "cay"]
    assert "the folders train, test and validation are passed over" in found.notes[0]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("file_name,subject\n../1.jpg,a\n", "row 1: expected a file beside the table or below, got '../1.jpg'"),
        ("file_name,subject\n/etc/1.jpg,a\n", "row 1: expected a file beside the table or below"),
        ("file_name,subject\n1.jpg,a\n1.jpg,b\n", "row 2: expected each file once, got '1.jpg' again"),
        ("name,subject\n1.jpg,a\n", "expected columns file_name"),
    ],
)
def test_bad_metadata_is_refused(write, gallery, table, message):
    with pytest.raises(UsageError, match=f"^metadata.csv.*{message}"):
        gallery(write({"1.jpg": 1, "metadata.csv": table}))


def test_columns_of_metadata_that_nobody_reads_are_noted(write, gallery):
    found = gallery(write({"1.jpg": 1, "metadata.csv": "file_name,caption,subject\n1.jpg,ann smiles,ann\n"}))
    assert found.notes == (
        "metadata.csv: columns that are not used: caption; those that are read: file_name, text, subject",
    )
    assert captions(found) == {"1.jpg": "a photo of sks person"}


def test_metadata_of_missing_photos_is_listed(write, gallery):
    found = gallery(write({"1.jpg": 1, "metadata.csv": "file_name,subject\n1.jpg,a\n2.jpg,a\n"}))
    assert left_out(found) == {"2.jpg": "missing"}


def test_nothing_is_passed_over_in_silence(write, gallery):
    files = {"a/1.jpg": 1, "a/2.heic": b"x", "a/notes.md": "x", "a/lost.txt": "x", "b.png": 2, "a/new\nline.jpg": 3}
    found = gallery(write(files | {"a/.DS_Store": b"x", "a/Thumbs.db": b"x"}))
    assert left_out(found) == {
        "a/2.heic": "format", "a/notes.md": "not-a-photo", "a/lost.txt": "not-a-photo", "b.png": "no-subject",
        r"'a/new\nline.jpg'": "name",
    }  # fmt: skip


@pytest.mark.parametrize(("files", "got"), [({}, "no files"), ({"a/readme": "x", "a/1.gif": b"x"}, "2 files")])
def test_folder_without_photos_is_refused(write, gallery, tmp_path, files, got):
    (tmp_path / "people").mkdir()
    with pytest.raises(UsageError, match=f"people: expected photos .JPEG, PNG or WebP., got {got}"):
        gallery(write(files))


def archive(folder, path, around=""):
    with zipfile.ZipFile(path, "w") as file:
        for source in sorted(folder.rglob("*")):
            if source.is_file():
                file.write(source, around + str(source.relative_to(folder)))
    return path


@pytest.mark.parametrize("around", ["", "people/"])
@pytest.mark.parametrize(
    "files",
    [
        {"10_sks bob/1.jpg": 1, "10_sks bob/1.txt": "[trigger]", "4_sks ann/2.png": 2, "4_sks ann/2_mask.png": 3},
        {"1.jpg": 1, "2.jpg": 2, "metadata.csv": "file_name,subject\n1.jpg,ann\n2.jpg,bob\n"},
    ],
)
def test_archive_is_read_as_its_folder(write, gallery, tmp_path, files, around):
    from lorasynth.gallery import PhotoRef, Use

    root = write(files)
    packed = gallery(archive(root, tmp_path / "people.zip", around))
    plain = gallery(root)
    assert packed.record == plain.record
    photos = [PhotoRef(f.subject, f.name, Use.FIT) for f in packed.files]
    assert packed.pictures(photos, 16).equal(plain.pictures(photos, 16))
    assert sorted(tmp_path.glob("*")) == [root, tmp_path / "people.zip"]


def test_archive_of_one_subject_keeps_its_folder(write, gallery, tmp_path):
    root = write({"10_sks bob/1.jpg": 1})
    assert list(gallery(archive(root, tmp_path / "x.zip")).by_subject) == ["sks bob"]
