"""Published face models on a folder of photographs: YuNet and SFace of the OpenCV Zoo, `data check` and the preparation.

    make test-faces FACES=people/ MODELS=models/opencv

FACES is a folder a person. MODELS holds one detector and one recogniser, as docs/reference/real-faces.md names them.

The name does not begin with test_: pytest collects this file only when it is named, so that no other run can show it as skipped.
"""

import json
import os
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from lorasynth.cli.app import app
from lorasynth.gallery.check import APART
from lorasynth.gallery.gallery import PhotoRef, Use
from lorasynth.gallery.prepare import prepare, vae_fingerprint
from lorasynth.opening import open_base, open_encoder, open_gallery

FEW = 12  # subjects that faults are planted among, and that are prepared


def named(variable):
    """The folder that an environment variable names."""
    folder = Path(os.environ.get(variable, ""))
    if not os.environ.get(variable) or not folder.is_dir():
        pytest.fail(f"expected {variable} to name a folder, got {str(folder)!r}; make test-faces FACES=… MODELS=…")
    return folder.resolve()


@pytest.fixture(scope="session")
def models():
    return str(named("LORASYNTH_MODELS"))


@pytest.fixture(scope="session")
def check(models, tmp_path_factory):
    """`lorasynth data check`: its record, and the reason of each photo that is left out."""

    def run(folder):
        record = tmp_path_factory.mktemp("check") / "check.json"
        words = ["data", "check", str(folder), "--encoder", models, "--json", str(record)]
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, result.output + str(result.exception)
        found = json.loads(record.read_text())
        return found, {one["photo"]: one["reason"] for one in found["left_out"]}

    return run


@pytest.fixture(scope="session")
def checked(check):
    return check(named("LORASYNTH_FACES"))


@pytest.fixture(scope="session")
def few(checked, tmp_path_factory):
    """The photos that can be used of the first subjects that have four."""
    record, left_out = checked
    gallery, root = open_gallery(named("LORASYNTH_FACES")), tmp_path_factory.mktemp("few") / "people"
    enough = [s for s, count in record["by_subject"].items() if count["usable"] >= 4][:FEW]
    if len(enough) < 2:
        pytest.fail(f"expected 2 people of 4 photos that can be used, got {len(enough)}: {dict(record['by_reason'])}")
    for number, subject in enumerate(enough):
        (root / f"{number:02d}").mkdir(parents=True)
        for file in gallery.by_subject[subject]:
            if file.name not in left_out:
                (root / f"{number:02d}" / Path(file.name).name).write_bytes(gallery.content(file.name))
    return root


def test_every_photo_is_used_or_has_its_reason(checked):
    record, left_out = checked
    print(json.dumps({key: record[key] for key in ("subjects", "photos", "usable", "by_reason", "within", "between")}))
    photos = {file.name for file in open_gallery(named("LORASYNTH_FACES")).files}
    assert record["photos"] == len(photos) == record["usable"] + len(photos & set(left_out))
    assert record["by_reason"] == Counter(left_out.values())


def test_recogniser_tells_the_people_apart(checked):
    record, _ = checked
    assert record["within"] - record["between"] >= APART


def test_planted_faults_are_found(few, check, tmp_path):
    root = shutil.copytree(few, tmp_path / "people")
    first, second = (sorted(path.iterdir()) for path in sorted(root.iterdir())[:2])
    kind = first[0].suffix
    shutil.copy(second[0], root / "00" / f"stranger{kind}")
    second[0].unlink()
    shutil.copy(first[0], root / "00" / f"same{kind}")
    photo = Image.open(first[1]).convert("RGB")
    photo.resize((photo.width * 3 // 4, photo.height * 3 // 4)).save(root / "00" / "smaller.jpg", quality=90)
    Image.effect_noise((400, 400), 40).convert("RGB").save(root / "00" / "nobody.png")
    _, left_out = check(root)
    assert left_out[f"00/stranger{kind}"] == "somebody-else"
    assert left_out["00/nobody.png"] == "no-face"
    assert {left_out.get(f"00/{name}") for name in (f"same{kind}", first[0].name)} == {"duplicate", None}
    assert {left_out.get(f"00/{name}") for name in ("smaller.jpg", first[1].name)} == {"near-duplicate", None}


def test_turned_photo_has_the_embedding_of_the_upright_one(few, models):
    encoder = open_encoder(models)
    upright = Image.open(sorted((few / "00").iterdir())[0]).convert("RGB")
    turned = encoder.embed([upright, *(upright.rotate(angle, expand=True) for angle in (90, 180, 270))])
    assert (turned @ turned[0]).min() > 0.9


def test_preparation_is_done_once(few, models, tmp_path, monkeypatch):
    base, encoder = open_base("portraits"), open_encoder(models)
    of_base = (vae_fingerprint(base.pipe.vae), base.picture_size, base.encode)
    prepared = prepare(open_gallery(few), encoder, tmp_path / "prepared", base=of_base)
    photos = [PhotoRef(f.subject, f.name, Use.FIT) for f in prepared.gallery.files]
    embeddings, latents = prepared.embeddings(photos), prepared.latents(photos)
    assert torch.allclose(embeddings.norm(dim=1), torch.ones(len(photos)), atol=1e-5)
    assert latents.shape == (len(photos), *base.latent_shape)
    assert latents.isfinite().all()
    before = {path: path.read_bytes() for path in (tmp_path / "prepared").rglob("*") if path.is_file()}

    def refuse(*_):
        pytest.fail("a photo is embedded again")

    monkeypatch.setattr(type(encoder), "read", refuse)
    again = prepare(open_gallery(few), encoder, tmp_path / "prepared", base=of_base)
    assert torch.equal(again.embeddings(photos), embeddings)
    assert {path: path.read_bytes() for path in (tmp_path / "prepared").rglob("*") if path.is_file()} == before
