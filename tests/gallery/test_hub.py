"""Data sets of the hub as galleries, through the library that users have; nothing is downloaded here."""

import io
import sys

import pytest

from lorasynth.errors import MissingExtraError, PhotoError, UsageError
from lorasynth.gallery import PhotoRef, Use
from lorasynth.gallery.folder import PhotoGallery
from lorasynth.gallery.hub import HubTree
from lorasynth.opening import open_gallery

from .making import picture


def content(seed):
    file = io.BytesIO()
    picture(seed).save(file, format="JPEG")
    return file.getvalue()


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"^hf://datasets/a/b: .* pip install 'lorasynth\[data\]'"):
        open_gallery("hf://datasets/a/b")


@pytest.mark.parametrize(
    "name", ["hf://datasets/", "hf://datasets/a", "hf://datasets/a/b/c", "hf://datasets/a/b@", "hf://datasets/../x"]
)
def test_name_of_another_form_is_refused(name):
    with pytest.raises(UsageError, match="expected hf://datasets/OWNER/NAME, perhaps with @REVISION, got"):
        open_gallery(name)


@pytest.fixture
def rows():
    datasets = pytest.importorskip("datasets", reason="the extra [data] is not installed")

    def made(columns, **casts):
        table = datasets.Dataset.from_dict(columns)
        for name, feature in {"image": datasets.Image(), **casts}.items():
            table = table.cast_column(name, feature)
        return table

    made.ClassLabel = datasets.ClassLabel
    return made


def test_rows_are_photos_of_subjects(rows):
    images = [{"bytes": content(i), "path": None} for i in range(3)]
    labels = rows.ClassLabel(names=["ann", "bob"])
    parts = {
        "train": rows({"image": images, "label": [0, 0, 1], "text": ["[trigger] smiles", "", None]}, label=labels),
        "test": rows({"image": images[:1], "identity": [7]}),
    }
    gallery = PhotoGallery.open(HubTree("faces", parts))
    assert {s: [f.name for f in files] for s, files in gallery.by_subject.items()} == {
        "7": ["test/00000000.png"], "ann": ["train/00000000.png", "train/00000001.png"], "bob": ["train/00000002.png"],
    }  # fmt: skip
    photos = [PhotoRef(f.subject, f.name, Use.FIT) for f in gallery.files]
    assert gallery.captions(photos)[1:3] == ["sks person smiles", "a photo of sks person"]
    assert gallery.content("train/00000002.png") == images[2]["bytes"]
    assert gallery.pictures(photos, 16).shape == (4, 3, 16, 16)
    assert (gallery.name, gallery.left_out, gallery.notes) == ("faces", (), ())


def test_folder_of_pictures_is_read_by_its_files(rows, tmp_path, monkeypatch):
    import datasets

    monkeypatch.chdir(tmp_path)  # the library takes a folder of this name for the data set
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for i, subject in enumerate(["ann", "bob"]):
        (tmp_path / "mine/people" / subject).mkdir(parents=True)
        (tmp_path / "mine/people" / subject / "1.jpg").write_bytes(content(i))
    tree = HubTree.open("hf://datasets/mine/people")
    gallery = PhotoGallery.open(tree)
    assert list(gallery.by_subject) == ["ann", "bob"]
    assert sorted(tree.read(file.name) for file in gallery.files) == sorted([content(0), content(1)])


def test_row_that_names_a_file_of_this_machine_is_refused(rows, tmp_path):
    (tmp_path / "secret.jpg").write_bytes(content(0))
    images = [{"bytes": None, "path": str(tmp_path / "secret.jpg")}, None]
    tree = HubTree("faces", {"train": rows({"image": images, "name": ["ann", "ann"]})})
    for file in ("train/00000000.png", "train/00000001.png"):
        with pytest.raises(
            PhotoError, match="expected a picture's bytes, got none; the data set names a file elsewhere"
        ):
            tree.read(file)


def test_rows_that_name_nobody_are_refused(rows):
    images = [{"bytes": content(0), "path": None}]
    with pytest.raises(
        UsageError, match=r"faces: expected a column of pictures and one of subject, identity.*, got image, age"
    ):
        HubTree("faces", {"train": rows({"image": images, "age": [3]})})
