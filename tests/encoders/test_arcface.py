import cmath
import hashlib
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from lorasynth.encoders import Encoder, pool_readings, same_encoder, to_image
from lorasynth.encoders.alignment import TEMPLATE_112, template
from lorasynth.encoders.arcface import ArcFaceEncoder
from lorasynth.encoders.detectors import Face, Scrfd
from lorasynth.encoders.export import export_onnx
from lorasynth.encoders.images import photo_tensor
from lorasynth.errors import MissingExtraError, ModelError, NoFaceError, SeveralFacesError, UsageError
from lorasynth.worlds.world import get_world


class Sees:
    """A detector that reports given faces."""

    def __init__(self, *landmarks):
        self.landmarks = landmarks

    def detect(self, image):
        return [
            Face(box=(*(p.min(0) - 30).tolist(), *(p.max(0) + 30).tolist()), landmarks=p, score=1.0)
            for p in self.landmarks
        ]


def colours(*names, size=150):
    return [Image.new("RGB", (size, size), name) for name in names]


# The drawn world's own recogniser takes the same road as ArcFace.


@pytest.fixture(scope="module")
def net():
    return get_world("portraits").encoder


@pytest.fixture(scope="module")
def exported(net, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "encoder.onnx"
    export_onnx(net, path, size=64)
    return path


@pytest.fixture(scope="module")
def portraits():
    world = get_world("portraits")
    return [to_image(picture) for picture in world.draw([7, 7, 8, 9], [0, 1, 0, 0], 64)]


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 4])
def test_exported_recogniser_gives_embeddings_of_torch_one(net, exported, portraits, count):
    encoder = ArcFaceEncoder(exported)
    assert (encoder.image_size, encoder.dim, encoder.pixels) == (64, 512, "scaled")
    assert encoder.graph.first_operations == ("Div", "Add")  # from [-1, 1] to our own [0, 1]
    with torch.no_grad():
        expected = net(torch.stack([photo_tensor(image, 64) for image in portraits[:count]]))
    torch.testing.assert_close(encoder.embed(portraits[:count]), expected, atol=1e-4, rtol=0)


@pytest.mark.slow
def test_exporting_leaves_the_net_as_it_was_and_writes_one_file(net, exported):
    assert [p.name for p in exported.parent.iterdir()] == ["encoder.onnx"]
    assert not net.training
    assert not any(p.requires_grad for p in net.parameters())


@pytest.mark.slow
def test_export_at_another_size_resamples_as_torch_does(net, portraits, tmp_path):
    export_onnx(net, tmp_path / "encoder.onnx")
    encoder = ArcFaceEncoder(tmp_path / "encoder.onnx")
    images = [image.resize((112, 112), Image.Resampling.BICUBIC) for image in portraits]
    with torch.no_grad():
        expected = net(torch.stack([photo_tensor(image, 112) for image in images]))
    torch.testing.assert_close(encoder.embed(images), expected, atol=1e-4, rtol=0)


@pytest.mark.slow
def test_portrait_turned_and_shrunken_is_recognised_by_landmarks(exported, portraits):
    straight = ArcFaceEncoder(exported).embed(portraits[:1])[0]
    a, b = cmath.rect(2, 0.6), 160 + 40j  # where a portrait's pixel lies in the photo
    inverse = 1 / a
    shift = -b * inverse
    matrix = (inverse.real, -inverse.imag, shift.real, inverse.imag, inverse.real, shift.imag)
    photo = portraits[0].transform((320, 260), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
    z = a * (template(64) @ [1, 1j] + 0.5 + 0.5j) + b - 0.5 - 0.5j  # pixel centres
    landmarks = np.stack([z.real, z.imag], axis=1)
    found = ArcFaceEncoder(exported, detector=Sees(landmarks)).embed([photo])[0]
    assert float(found @ straight) > 0.97
    assert float(ArcFaceEncoder(exported).embed([photo])[0] @ straight) < 0.7  # unaligned


def test_without_its_packages_the_exporter_says_so(net, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingExtraError, match="pip install onnx onnxscript"):
        export_onnx(net, tmp_path / "encoder.onnx")
    assert list(tmp_path.iterdir()) == []


def test_export_of_no_size_is_refused(net, tmp_path):
    with pytest.raises(UsageError, match="at least 1 pixel, got 0"):
        export_onnx(net, tmp_path / "encoder.onnx", size=0)


# Conventions of foreign files.


@pytest.mark.parametrize(
    ("front", "pixels", "resolved"),
    [
        ([], "auto", "scaled"),
        ([("Sub", 127.5), ("Mul", 1 / 128)], "auto", "raw"),  # MXNet's, as in SFace and older ArcFace files
        ([("Identity", 0), ("Sub", 127.5), ("Mul", 1 / 128)], "auto", "raw"),
        ([("Mul", 0.5), ("Add", 0.5)], "auto", "scaled"),
        ([("Div", 2.0), ("Add", 0.5), ("Mul", 2.0), ("Sub", 1.0)], "auto", "scaled"),
        ([], "raw", "raw"),
        ([("Sub", 127.5), ("Mul", 1 / 128)], "scaled", "scaled"),
    ],
)
def test_pixels_have_the_range_that_the_file_takes(recogniser, front, pixels, resolved):
    encoder = ArcFaceEncoder(recogniser(front), pixels=pixels)
    assert encoder.pixels == resolved
    value = np.array([200.0, 100.0, 50.0])
    value = value if resolved == "raw" else (value - 127.5) / 127.5
    for operation, operand in front:
        value = {"Sub": np.subtract, "Mul": np.multiply, "Add": np.add, "Div": np.divide, "Identity": lambda x, _: x}[
            operation
        ](value, operand)
    expected = F.normalize(torch.tensor([*value, *[0.0] * 5]).float(), dim=0)
    torch.testing.assert_close(encoder.embed(colours((200, 100, 50)))[0], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("batch", ["B", 1, 4])
def test_fixed_batch_is_served_in_parts(recogniser, batch):
    encoder = ArcFaceEncoder(recogniser(batch=batch))
    images = colours("red", "lime", "blue", "red", "yellow", "white")
    embeddings = encoder.embed(images)
    torch.testing.assert_close(embeddings, torch.cat([encoder.embed([image]) for image in images]))
    torch.testing.assert_close(embeddings[0], embeddings[3])
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(6))


def test_recogniser_is_an_encoder_by_the_packages_protocol(recogniser):
    encoder = ArcFaceEncoder(recogniser())
    assert isinstance(encoder, Encoder)
    assert encoder.embed([]).shape == (0, 8)
    assert encoder.read([]) == []


def test_encoder_is_known_by_its_files_content_and_its_input(recogniser, red_scrfd):
    first = ArcFaceEncoder(recogniser(name="a.onnx"))
    same = ArcFaceEncoder(recogniser(name="b.onnx"), detector=Scrfd(red_scrfd[0]))
    assert first.record["files"]["recogniser"] == hashlib.sha256(first.graph.path.read_bytes()).hexdigest()
    assert (first.record["name"], first.record["detector"], same.record["detector"]) == ("a.onnx", None, "Scrfd")
    assert set(same.record["files"]) == {"recogniser", "detector"}
    assert same_encoder(first.record, same.record)
    assert not same_encoder(first.record, ArcFaceEncoder(recogniser(batch=1)).record)
    assert not same_encoder(first.record, ArcFaceEncoder(first.graph.path, pixels="raw").record)


def test_file_that_is_no_recogniser_is_named(constant_scrfd, recogniser, tmp_path):
    with pytest.raises(ModelError, match=r"expected a recogniser \(one input Bx3xSxS, one output BxD\), got an input"):
        ArcFaceEncoder(constant_scrfd([]))
    with pytest.raises(ModelError, match=r"none\.onnx: expected an ONNX file, got none \(No such file"):
        ArcFaceEncoder(tmp_path / "none.onnx")
    with pytest.raises(ModelError, match=r"Is a directory"):
        ArcFaceEncoder(tmp_path)
    for content, got in ((b"<html>", "HTML"), (b"version https://git-lfs", "Git LFS pointer"), (b"PK\x03\x04", "ZIP")):
        (tmp_path / "page.onnx").write_bytes(content)
        with pytest.raises(ModelError, match=f"page.onnx: expected an ONNX file, got {got}; get the file again"):
            ArcFaceEncoder(tmp_path / "page.onnx")
    path = recogniser()
    path.write_bytes(path.read_bytes()[:150])
    with pytest.raises(ModelError, match=r"net\.onnx: expected an ONNX file") as caught:
        ArcFaceEncoder(path)
    assert "\n" not in str(caught.value)


def test_wrong_range_is_refused(recogniser):
    with pytest.raises(UsageError, match="expected pixels='auto', 'scaled' or 'raw', got 'bgr'"):
        ArcFaceEncoder(recogniser(), pixels="bgr")


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_output_without_a_direction_is_named(recogniser, value):
    encoder = ArcFaceEncoder(recogniser(matrix=np.full((3, 8), value, np.float32)))
    with pytest.raises(ModelError, match="the embedding of photo 1 of 2 has norm"):
        encoder.embed(colours("red", "blue"))


def test_without_onnxruntime_the_extra_is_named(recogniser, monkeypatch):
    path = recogniser()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"onnxruntime; pip install 'lorasynth\[face\]'"):
        ArcFaceEncoder(path)


# From photo to person.


def test_photos_are_read_with_detector_file_and_recogniser_file(recogniser, red_scrfd):
    photo = Image.new("RGB", (640, 640), "grey")
    photo.paste("red", (320, 320, 352, 352))
    encoder = ArcFaceEncoder(recogniser(name="recogniser.onnx"), detector=Scrfd(red_scrfd[0]))
    (reading,) = encoder.read([photo])
    crop, *_ = encoder.prepare(photo)
    assert reading.embedding.shape == (8,)
    assert 0 <= reading.quality <= 1
    torch.testing.assert_close(reading.embedding[:3], F.normalize((2 * crop - 1).mean(dim=(1, 2)), dim=0))


def test_photo_that_is_refused_is_named_by_its_number(recogniser):
    two = Sees(TEMPLATE_112, TEMPLATE_112 + 100)
    encoder = ArcFaceEncoder(recogniser(), detector=two)
    images = colours("red", "blue", size=300)
    with pytest.raises(SeveralFacesError, match=r"^photo 1 of 2: expected one face, got 2: 0 at left"):
        encoder.embed(images)
    with pytest.raises(NoFaceError, match=r"^photo: expected a face, got none"):
        ArcFaceEncoder(recogniser(), detector=Sees()).embed(images[:1])
    with pytest.raises(UsageError, match=r"^photo 2 of 2: expected face='largest' or a number"):
        encoder.read(images, faces=[0, 2])
    with pytest.raises(UsageError, match="a choice of face for each of 2 photos, got 1"):
        encoder.read(images, faces=[0])


def test_face_that_is_chosen_is_the_one_that_is_embedded(recogniser):
    photo = Image.new("RGB", (400, 200), "red")
    photo.paste("blue", (200, 0, 400, 200))
    two = Sees(TEMPLATE_112 + np.array([30, 30]), TEMPLATE_112 + np.array([230, 30]))
    encoder = ArcFaceEncoder(recogniser(), detector=two)
    left, right = encoder.read([photo, photo], faces=[0, 1])
    red, blue = (ArcFaceEncoder(recogniser()).embed(colours(name))[0] for name in ("red", "blue"))
    torch.testing.assert_close(left.embedding, red)
    torch.testing.assert_close(right.embedding, blue)
    assert "number 1 of 2 faces was taken" in right.notes[0]


class SeesWithMargin(Sees):
    """A detector that overlooks a face unless there is room around it: some pixels of black at the photo's corner."""

    def detect(self, image):
        return super().detect(image) if image.getpixel((0, 0)) == (0, 0, 0) else []


def test_face_that_fills_the_frame_is_retried_once_and_noted(recogniser):
    image = Image.effect_noise((150, 150), 90).convert("RGB")
    for corner in ((0, 0), (0, 149), (149, 0), (149, 149)):
        image.putpixel(corner, (9, 9, 9))
    at = TEMPLATE_112 + np.array([15, 15])
    found = ArcFaceEncoder(recogniser(), detector=SeesWithMargin(at + 75)).read([image])[0]  # 75 pixels of margin
    expected = ArcFaceEncoder(recogniser(), detector=Sees(at)).read([image])[0]
    torch.testing.assert_close(found.embedding, expected.embedding)
    assert (expected.notes, len(found.notes)) == ((), 1)
    assert "found only after a margin" in found.notes[0]


def test_drawing_and_face_in_doubt_are_embedded_with_warning(recogniser, constant_scrfd):
    """A cartoon's landmarks, which a detector file reports with little confidence, as of a covered or a drawn face."""
    cartoon = np.array(
        [[-1.5, -0.5], [1.5, -0.5], [0, 0.5], [-0.4, 1.1], [0.4, 1.1]]
    )  # in strides of 32 from the centre
    box, points = np.full(4, 2.5, np.float32), cartoon.ravel().astype(np.float32)
    detector = Scrfd(constant_scrfd([(32, 10, 10, 0, 0.55, box, points)]))
    encoder = ArcFaceEncoder(recogniser(name="recogniser.onnx"), detector=detector)
    reading = encoder.read([Image.effect_noise((640, 640), 90).convert("RGB")])[0]
    assert [warning.partition(":")[0] for warning in reading.warnings[-2:]] == [
        "drawn, or seen steeply from above or below", "hardly a face to the detector"
    ]  # fmt: skip
    assert reading.quality < 0.56


def test_person_is_the_mean_of_photos_and_a_stranger_is_named(recogniser):
    encoder = ArcFaceEncoder(recogniser(), detector=Sees(TEMPLATE_112 + np.array([15, 15])))
    person = pool_readings(encoder.read(colours("red", (250, 5, 5), "cyan", (240, 0, 10))))
    strangers = [w for w in person.warnings if "somebody else" in w]
    assert len(strangers) == 1
    assert strangers[0].startswith("photo 3 of 4: may show somebody else: cosine -")
    assert any(w.startswith("photo 1 of 4: blurred") for w in person.warnings)
    torch.testing.assert_close(person.embedding.norm(), torch.tensor(1.0))
