"""Fonts become ordinary folders: split by family, with captions, and nothing left out without a reason."""

import gzip
import json

import numpy as np
import pytest

import folder
from drawing import LETTERS, PLAIN, Metrics, caption, draw, draw_letters, draw_look
from faces import Survey, held_out_families, survey
from licences import licences_of
from lorasynth.gallery import Split
from lorasynth.opening import open_gallery

from .fonts import LETTERS as MADE
from .fonts import make_families, make_font

FEW = ["--photos", "4", "--held-out", "2"]


@pytest.fixture(scope="module")
def fonts(tmp_path_factory):
    """Fourteen families of two faces, and one font for each reason to leave a font out."""
    top = make_families(tmp_path_factory.mktemp("fonts"))
    make_font(top / "family00" / "face9.ttf", style="family00", weight=0.91)
    make_font(top / "signs" / "signs.ttf", drawn=MADE[::-1])
    make_font(top / "capitals" / "capitals.ttf", letters=MADE[:26])
    (top / "damaged").mkdir()
    (top / "damaged" / "damaged.otf").write_bytes(b"OTTO and nothing else")
    return top


@pytest.fixture(scope="module")
def found(fonts):
    return survey(fonts, held_out=2, faces_a_family=40)


@pytest.fixture(scope="module")
def written(fonts, tmp_path_factory):
    out = tmp_path_factory.mktemp("typefaces")
    assert folder.main(["--fonts", str(fonts), "--out", str(out), *FEW]) == 0
    return out


@pytest.mark.parametrize(
    ("font", "reason"),
    [("damaged.otf", "unreadable"), ("capitals.ttf", "letters"), ("signs.ttf", "symbols"), ("face9.ttf", "duplicate")],
)
def test_font_is_left_out_with_its_reason(found, font, reason):
    assert [one.reason for one in found.left_out if one.font == font] == [reason]


def test_families_are_held_out_whole(found):
    learned, held_out = ({face.family for face in part} for part in (found.train, found.held_out))
    assert len(held_out) == 2
    assert not learned & held_out


def test_every_font_is_used_or_left_out(fonts, found):
    count = sum(path.suffix in (".ttf", ".otf") for path in fonts.rglob("*"))
    assert len(found.train) + len(found.held_out) + len(found.left_out) == count


def test_held_out_families_depend_on_names_alone():
    names = [f"family{i}" for i in range(30)]
    assert held_out_families(names, 5) == held_out_families(reversed(names), 5)
    assert held_out_families(names, 5) < held_out_families(names, 6)


@pytest.mark.slow
def test_faces_beyond_the_most_of_a_family_are_left_out(fonts):
    found = survey(fonts, held_out=2, faces_a_family=1)
    families = [face.family for face in (*found.train, *found.held_out)]
    assert len(families) == len(set(families))
    assert {one.reason for one in found.left_out} >= {"family-full"}


def test_face_like_a_held_out_one_is_not_learned_from(tmp_path):
    top = make_families(tmp_path, families=8, faces=1)
    (family,) = held_out_families({path.name for path in top.iterdir()}, 1)
    beside = next(name for name in map(str, range(99)) if held_out_families({family, name}, 1) == {family})
    make_font(top / beside / "alike.ttf", style=family, weight=0.95)
    found = survey(top, held_out=1, faces_a_family=40)
    assert {face.family for face in found.held_out} == {family}
    assert [one.font for one in found.left_out if one.reason == "like-held-out"] == ["alike.ttf"]


def test_survey_is_the_same_from_its_file(fonts, found, tmp_path):
    found.save(tmp_path / "faces.json", fonts)
    assert Survey.load(tmp_path / "faces.json") == found


def test_folder_without_fonts_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as refused:
        folder.main(["--fonts", str(tmp_path), "--out", str(tmp_path / "out")])
    assert refused.value.code == 2
    assert "expected .otf or .ttf files" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_folder_opens_as_a_gallery_of_faces(written, found):
    gallery = open_gallery(str(written / "train"), instance_prompt="a picture of sks typeface")
    assert sorted(gallery.by_subject) == sorted(face.name for face in found.train)
    subject = gallery.subjects(Split.TRAIN)[0]
    assert {len(files) for files in gallery.by_subject.values()} == {4}
    assert gallery.unnamed() == 0
    assert subject in gallery.by_subject


def test_captions_say_which_letters(written):
    lines = [json.loads(line) for line in (written / "train" / "metadata.jsonl").read_text().splitlines()]
    assert all("[trigger]" in line["text"] and "letter" in line["text"] for line in lines)
    assert caption("R", "black on white") == "the capital letter R in [trigger], black on white"
    assert caption("ag", "white on grey", "sks typeface") == "the small letters a, g in sks typeface, white on grey"


def test_prompts_ask_for_letters_of_the_subject(written):
    lines = (written / "prompts.txt").read_text().splitlines()
    assert len(set(lines)) == len(lines) > 10
    assert all(line.startswith(("the capital letter ", "the small letter ")) and "[trigger]" in line for line in lines)


def test_fonts_of_one_name_become_faces_of_two(tmp_path):
    make_font(tmp_path / "opentype" / "family" / "face.ttf", style="one")
    make_font(tmp_path / "truetype" / "family" / "face.ttf", style="two")
    found = survey(tmp_path, held_out=0, faces_a_family=40)
    assert [face.name for face in found.train] == ["family-face", "family-face-2"]


def test_second_run_changes_no_picture(written, fonts, found):
    pictures = {path: path.stat().st_mtime_ns for path in written.rglob("*.png")}
    assert len(pictures) == 4 * (len(found.train) + len(found.held_out)) >= 4 * 28
    lost = next(iter(pictures))
    content = lost.read_bytes()
    lost.unlink()
    folder.main(["--fonts", str(fonts), "--out", str(written), *FEW])
    assert lost.read_bytes() == content
    assert all(path.stat().st_mtime_ns == time for path, time in pictures.items() if path != lost)


def test_card_says_licences_by_family(found, tmp_path):
    listed = tmp_path / "Licenses.gz"
    listed.write_bytes(gzip.compress(b"Licenses for source\n\nfamily00: ofl  lppl\ntexmf-dist/fonts/family00/*\n"))
    assert licences_of(listed) == {"family00": "ofl lppl"}
    folder.write_card(found, tmp_path / "README.md", listed)
    card = (tmp_path / "README.md").read_text()
    assert "| family00 | 2 |" in card
    assert "| ofl lppl |" in card
    assert "| duplicate | 1 |" in card


def test_letters_stay_within_the_picture(fonts):
    for font in sorted((fonts / "family13").iterdir()):
        metrics = Metrics.of(font)
        for letters in ("W", "g", "MWM"):
            picture = draw(font, metrics, letters, PLAIN)
            edge = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
            assert edge.min() > 200
            assert picture.min() < 60


def test_letters_of_a_picture_are_of_one_case():
    rng = np.random.default_rng(0)
    for _ in range(200):
        letters = draw_letters(rng, LETTERS[rng.integers(52) :])
        assert 1 <= len(letters) <= 3
        assert letters.isupper() or letters.islower()


def test_grounds_differ_as_their_words_say(fonts):
    font, rng = next((fonts / "family05").iterdir()), np.random.default_rng(1)
    for _ in range(40):
        look = draw_look(rng)
        corner = draw(font, Metrics.of(font), "R", look)[:4, :4].mean() / 255
        assert (corner > 0.5) == (look.ground in ("black on white", "black on grey"))
