"""A folder as a gallery: pictures, masks, captions and uses of its photos."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

from lorasynth.errors import PhotoError, UsageError
from lorasynth.gallery import PhotoRef, Split, Use

from .making import picture


def ref(name):
    return PhotoRef(name.partition("/")[0], name, Use.FIT)


def people(count, photos=4):
    return {f"{p:02d}/{i}.png": 100 * p + i for p in range(count) for i in range(photos)}


def test_photos_come_by_subject_and_use(write, gallery):
    found = gallery(write(people(11) | {"few/1.png": 1, "few/2.png": 2}))
    everybody = [s for split in Split for s in found.subjects(split)]
    assert sorted(everybody) == [f"{p:02d}" for p in range(11)]
    photos = [photo for s in everybody for use in Use for photo in found.photos(s, use, 99)]
    assert len(photos) == len({photo.name for photo in photos}) == 44
    assert len(found.photos("03", Use.GIVEN, 99)) == len(found.photos("03", Use.SCORE, 99)) == 1
    assert found.photos("03", Use.FIT, 1) == found.photos("03", Use.FIT, 2)[:1]
    with pytest.raises(UsageError, match="people: expected one of its 12 subjects, got 'nobody'"):
        found.photos("nobody", Use.FIT, 1)


def test_gallery_is_printed_in_a_line(write, gallery):
    assert repr(gallery(write(people(11)))) == "PhotoGallery('people', 44 photos)"


def test_pictures_are_central_squares(write, gallery):
    wide = Image.new("RGB", (90, 60), "white")
    wide.paste((255, 0, 0), (15, 0, 75, 60))
    found = gallery(write({"a/1.png": wide, "a/2.png": 2}))
    pictures = found.pictures([ref("a/1.png"), ref("a/2.png")], 30)
    assert pictures.shape == (2, 3, 30, 30)
    assert torch.equal(pictures[0], torch.tensor([1.0, 0, 0])[:, None, None].expand(3, 30, 30))
    assert found.pictures([], 30).shape == (0, 3, 30, 30)
    assert [image.size for image in found.images([ref("a/1.png")])] == [(90, 60)]


def test_masks_say_where_the_loss_looks(write, gallery):
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (32, 0, 64, 64))
    see_through = picture(2, mode="RGBA")
    see_through.putalpha(mask)
    solid = picture(3, mode="RGBA")
    solid.putalpha(255)
    root = write({"a/1.png": 1, "a/1_mask.png": mask, "a/2.png": see_through, "a/3.png": solid, "a/4.png": 4})
    found = gallery(root)
    masks = found.masks([ref(f"a/{i}.png") for i in (1, 2, 3, 4)], 32)
    right_half = (torch.arange(32) >= 16).float().expand(1, 32, 32)
    assert torch.equal(masks[0], right_half)
    assert torch.equal(masks[1], right_half)
    assert masks[2:].min() == 1
    assert found.masks([ref("a/3.png"), ref("a/4.png")], 32) is None
    assert gallery(root, masks=False).masks([ref("a/1.png")], 32) is None


def test_mask_of_another_shape_is_refused(write, gallery):
    found = gallery(write({"a/1.png": 1, "a/1_mask.png": picture(2, (64, 96))}))
    with pytest.raises(
        PhotoError, match=r"a/1_mask.png: expected a mask of the shape of a/1.png, 64 x 64, got 64 x 96"
    ):
        found.masks([ref("a/1.png")], 32)


def test_photo_that_cannot_be_opened_says_its_name(write, gallery):
    found = gallery(write({"a/1.jpg": b"no picture", "a/2.jpg": 2}))
    with pytest.raises(PhotoError, match=r"^a/1.jpg: expected JPEG, PNG or WebP, got text"):
        found.images([ref("a/1.jpg")])


def test_record_changes_with_what_is_in_a_folder(write, gallery):
    root = write(people(2))
    records = [gallery(root).record, gallery(root, instance_prompt="a photo of sks dog").record]
    records.append(gallery(write({"00/0.txt": "[trigger] smiles"})).record)
    records.append(gallery(write({"00/0_mask.png": 5})).record)
    records.append(gallery(write({"02/0.png": 6})).record)
    assert len({record["hash"] for record in records}) == 5
    assert {k: v for k, v in records[0].items() if k != "hash"} == {
        "kind": "photos", "name": "people", "subjects": 2, "photos": 8, "instance_prompt": "a photo of sks person",
    }  # fmt: skip
    assert gallery(root).record == records[-1]


def test_known_contents_decide_uses(write, gallery):
    found = gallery(write(people(11)))
    renamed = {file.name: file.name[::-1] for file in found.files}
    by_content = replace(found, contents=renamed)
    assert any(found.photos(s, Use.GIVEN, 9) != by_content.photos(s, Use.GIVEN, 9) for s in found.by_subject)
    photos = [photo.name for s in found.by_subject for use in Use for photo in by_content.photos(s, use, 9)]
    assert sorted(photos) == [file.name for file in found.files]


def test_captions_that_name_nobody_are_counted(write, gallery):
    texts = {"a/1.txt": "a man on a horse", "a/2.txt": "SKS person on a horse", "a/3.txt": "[trigger]"}
    assert gallery(write({f"a/{i}.png": i for i in range(4)} | texts)).unnamed() == 1
