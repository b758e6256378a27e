"""A gallery is prepared once: what is kept is found by content, and kills of any process change no byte."""

import json
import multiprocessing
import os
import random
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lorasynth.encoders.protocol import Reading
from lorasynth.errors import ModelError
from lorasynth.gallery import Split, Use
from lorasynth.gallery.folder import PhotoGallery
from lorasynth.gallery.prepare import prepare
from lorasynth.gallery.shelf import PART
from lorasynth.gallery.trees import FolderTree

from .making import picture

# `make soak` prepares 2,000 subjects, whose processes it kills every few seconds.
SUBJECTS, PHOTOS, EVERY_S = (float(x) for x in os.environ.get("LORASYNTH_PHOTOS", "12,10,0.2").split(","))
SUBJECTS, PHOTOS = int(SUBJECTS), int(PHOTOS)
FORK = multiprocessing.get_context("fork")


class Pixels:
    """An encoder of few pixels, which takes its time and counts what it has seen."""

    dim, image_size, seen = 192, 8, 0
    record = {"name": "pixels", "kind": "test", "dim": 192, "files": {}, "input": {}, "licence": "CC0"}  # noqa: RUF012
    seconds = 0.0

    def read(self, photos):
        (image,) = photos
        self.seen += 1
        time.sleep(self.seconds)
        values = torch.tensor(np.asarray(image.resize((8, 8)), np.float32)).flatten() / 255 - 0.5
        return [Reading(embedding=torch.nn.functional.normalize(values, dim=0), quality=None)]

    def embed(self, photos):
        return torch.cat([self.read([photo])[0].embedding[None] for photo in photos])


def make_people(root):
    """Subjects of smooth noise, and one file that is no picture."""
    for s in range(SUBJECTS):
        (root / f"{s:02d}").mkdir(parents=True)
        for i in range(PHOTOS):
            photo = Image.blend(picture(s, (48, 48)), picture(100 + PHOTOS * s + i, (48, 48)), 0.3)
            photo.save(root / f"{s:02d}" / f"{i}.png")
    (root / "00" / "broken.jpg").write_bytes(b"no picture")
    return root


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    return make_people(tmp_path_factory.mktemp("prepare") / "people")


def encode(pictures):
    return torch.nn.functional.avg_pool2d(pictures, 8)


BASE = ("0123456789abcdef", 32, encode)


def run(people, folder, encoder=None, **options):
    return prepare(PhotoGallery.open(FolderTree(people)), encoder or Pixels(), folder, base=BASE, **options)


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock" and ".leases" not in path.parts
    }


@pytest.fixture(scope="module")
def whole(people, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return run(people, folder), folder


def test_prepared_photos_have_embeddings_and_latents(people, whole):
    prepared, folder = whole
    encoder = Pixels()
    for split in Split:
        for subject in prepared.gallery.subjects(split):
            for use in Use:
                photos = prepared.gallery.photos(subject, use, 99)
                images = prepared.gallery.images(photos)
                assert torch.equal(prepared.embeddings(photos), encoder.embed(images)) if photos else True
                if photos:
                    latents = encode(prepared.gallery.pictures(photos, 32))
                    assert torch.equal(prepared.latents(photos), latents.half().float())
    lines = [json.loads(line) for line in (folder / "data.jsonl").read_text().splitlines()]
    assert [line["photo"] for line in lines] == sorted(f.name for f in PhotoGallery.open(FolderTree(people)).files)
    by_name = {line["photo"]: line for line in lines}
    assert by_name["00/broken.jpg"]["left_out"]["reason"] == "photo"
    assert by_name["00/broken.jpg"]["use"] is None
    used = [line for line in lines if line["left_out"] is None]
    assert {line["use"] for line in used} == {"fit", "given", "score"}
    assert all(len(line["sha256"]) == 64 for line in lines)


def test_what_is_prepared_is_not_computed_again(people, whole, tmp_path):
    folder = shutil.copytree(whole[1], tmp_path / "again")
    encoder = Pixels()
    run(people, folder, encoder)
    assert encoder.seen == 0
    assert contents(folder) == contents(whole[1])


@pytest.mark.slow
def test_new_and_renamed_photos_cost_what_is_new(people, whole, tmp_path):
    folder = shutil.copytree(whole[1], tmp_path / "again")
    changed = shutil.copytree(people, tmp_path / "people")
    shutil.move(changed / "03", changed / "a new name")
    (changed / "05" / "2.png").unlink()
    picture(77, (48, 48)).save(changed / "05" / "new.png")
    encoder = Pixels()
    run(changed, folder, encoder)
    assert encoder.seen == 1
    run(changed, tmp_path / "fresh", encoder)
    assert contents(folder) == contents(tmp_path / "fresh")


def test_damaged_part_is_made_again_or_named(people, whole, tmp_path):
    folder = shutil.copytree(whole[1], tmp_path / "again")
    (part,) = folder.glob("embeddings-*/part-00001-*.safetensors")
    part.write_bytes(part.read_bytes()[:200])
    encoder = Pixels()
    prepared = run(people, folder, encoder)
    assert encoder.seen == PART
    assert contents(folder) == contents(whole[1])
    for latents in folder.glob("latents-*/*.safetensors"):
        latents.write_bytes(b"")
    subject = prepared.gallery.subjects(Split.TRAIN)[0]
    with pytest.raises(ModelError, match=r"part-\d+-\w+.safetensors: cannot be read .*; delete it, and prepare again"):
        prepared.latents(prepared.gallery.photos(subject, Use.FIT, 1))


def work(people, folder):
    torch.set_num_threads(1)
    encoder = Pixels()
    encoder.seconds = EVERY_S / 5 * 120 / (SUBJECTS * PHOTOS)  # so slow that a part outlives a few kills, not many
    run(people, folder, encoder, expires_after_s=2.0)


@pytest.mark.slow
def test_killed_over_and_over_it_comes_out_the_same(people, whole, tmp_path):
    folder = tmp_path / "killed"
    dice = random.Random(0)
    workers, kills = [], 0
    deadline = time.monotonic() + 1_000 * EVERY_S
    while time.monotonic() < deadline:
        workers = [w for w in workers if w.is_alive()]
        if not workers and (folder / "data.jsonl").exists():
            break
        while kills < 20 and len(workers) < 3:
            workers.append(FORK.Process(target=work, args=(people, folder)))
            workers[-1].start()
        if not workers:
            break
        time.sleep(EVERY_S * dice.uniform(0.25, 2))
        victim = dice.choice(workers)
        if kills < 20 and victim.is_alive():  # one that has finished is no kill
            victim.kill()
            victim.join()
            kills += 1
    for worker in workers:
        worker.join()
    run(people, folder)
    assert kills >= 10  # fewer only where the work was done before
    assert contents(folder) == contents(whole[1])
    assert not list(Path(folder).rglob("*.part"))
