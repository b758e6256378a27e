"""The border of the drawn world: its own pictures pass in any ordinary format, photographed faces on plain backgrounds do not."""

import io
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from lorasynth.drawn.domain_check import DomainCheck
from lorasynth.drawn.encoder import WorldEncoder
from lorasynth.encoders import photo_tensor, to_image
from lorasynth.errors import ModelError, OutsideWorldError
from lorasynth.synthesizer import Synthesizer
from lorasynth.worlds.world import get_domain, get_world

PEOPLE = list(range(40_000, 40_040))


@pytest.fixture(scope="module")
def model():
    return Synthesizer.from_pretrained()


@pytest.fixture(scope="module")
def encoder(model):
    return model.encoder


@cache
def drawn(size):
    return get_world("portraits128").draw(PEOPLE, [2] * len(PEOPLE), size)


@cache
def fitted_to(world):
    return DomainCheck.fit(get_domain(world).photos(list(range(300)), [0] * 300, 64))


def refused(encoder, images) -> int:
    count = 0
    for image in images:
        try:
            encoder.read([image])
        except OutsideWorldError:
            count += 1
    return count


def stored(image: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("size", "format", "options", "most"),
    [
        (128, "PNG", {}, 1),
        (256, "PNG", {}, 1),
        (256, "JPEG", {"quality": 85}, 1),
        (256, "JPEG", {"quality": 60}, 1),
        (256, "WEBP", {"quality": 80}, 1),
        (128, "JPEG", {"quality": 95}, 1),  # of quality 85 a sixth are refused
    ],
)
@pytest.mark.slow
def test_drawn_people_pass_in_ordinary_formats(encoder, size, format, options, most):
    assert refused(encoder, [stored(to_image(picture), format, **options) for picture in drawn(size)]) <= most


FEATURES = (
    (-0.1, -0.06, 0.045, 0.02, 0.6),
    (0.1, -0.06, 0.045, 0.02, 0.6),
    (0, 0.05, 0.03, 0.06, 0.2),
    (0, 0.17, 0.08, 0.02, 0.4),
)
"""Eyes, nose and mouth: centre, half width and height, darkness."""


def texture(generator: np.random.Generator, size: int) -> np.ndarray:
    """Irregularities of all sizes, as skin and hair have them: a spectrum that falls with the frequency."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)[None]) + 1 / size
    field = np.fft.ifft2(np.fft.fft2(generator.normal(size=(size, size))) / frequency).real
    return ((field - field.mean()) / field.std())[..., None]


@cache
def passport(seed: int, size: int = 256) -> Image.Image:
    """A face as a camera sees one before a plain wall: an ellipsoid lit from a side, soft features, texture, a little noise."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size - 0.5 + generator.uniform(-0.02, 0.02, (2, 1, 1))
    wall = generator.uniform(150, 250, 3) * np.ones((size, size, 1))
    inside = (x / 0.28) ** 2 + ((y + 0.02) / 0.38) ** 2
    towards = 0.8 * np.sqrt(np.clip(1 - inside, 0, 1)) + generator.uniform(-0.6, 0.6) * x / 0.28 - 0.3 * y / 0.38
    skin = (0.45 + 0.55 * np.clip(towards, 0, 1))[..., None] * np.array([225, 180, 155]) * generator.uniform(0.55, 1.05)
    for at_x, at_y, wide, high, dark in FEATURES:
        skin *= (1 - dark * np.exp(-(((x - at_x) / wide) ** 2) - ((y - at_y) / high) ** 2))[..., None]
    skin *= 1 + 0.08 * texture(generator, size)
    hair = np.array([60, 45, 35]) * (1 + 0.5 * texture(generator, size))
    picture = np.where((inside < 1)[..., None], np.where((y < -0.2)[..., None], hair, skin), wall)
    soft = Image.fromarray(picture.clip(0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(1))
    noisy = np.asarray(soft, dtype=np.float64) + generator.normal(0, 3, (size, size, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


@pytest.mark.slow
def test_most_faces_before_a_plain_wall_are_refused(encoder):
    photographs = [passport(seed) for seed in range(40)]
    readings = encoder.guard.readings(torch.stack([photo_tensor(photo, 128) for photo in photographs]))
    by_flatness = int((readings[:, 3] < encoder.guard.limits[3]).sum())
    assert refused(encoder, photographs) >= 30
    assert by_flatness >= 30  # the other readings find far fewer
    least_flat = photographs[int(readings[:, 3].argmin())]
    with pytest.raises(OutsideWorldError, match=r"flatness of the middle 0\.\d+, at least 0\.\d+"):
        encoder.read([least_flat])


@pytest.mark.parametrize(
    "filtered", [ImageFilter.GaussianBlur(r) for r in (2, 4, 8)] + [ImageFilter.MedianFilter(9)], ids=lambda f: f.name
)
@pytest.mark.slow
def test_blurred_or_retouched_faces_are_refused(encoder, filtered):
    """What blur and retouching take away is texture; the light on a round face stays."""
    photographs = [passport(seed).filter(filtered) for seed in range(12)]
    assert refused(encoder, photographs) >= 11
    readings = encoder.guard.readings(torch.stack([photo_tensor(photo, 128) for photo in photographs]))
    assert (readings[:, 4] > encoder.guard.limits[4]).sum() >= 11


def test_what_is_refused_can_be_asked_for(encoder):
    photo = passport(0)
    (reading,) = encoder.read([photo], allow_outside=True)
    assert reading.embedding.shape == (1024,)


@pytest.mark.parametrize("world", ["portraits", "emblems", "brushes"])
@pytest.mark.slow
def test_guard_fitted_to_a_world_lets_its_pictures_pass(world):
    domain = get_domain(world)
    fitted = fitted_to(world)
    assert fitted.limits.shape == (5,)
    others = domain.photos(list(range(600, 700)), [1] * 100, 64)
    flatness, shading = fitted.readings(others)[:, 3:].T
    assert (flatness >= fitted.limits[3]).float().mean() > 0.97
    assert (shading <= fitted.limits[4]).float().mean() > 0.97


@pytest.mark.parametrize("count", [3, 4, 5, 6])
def test_guard_with_and_without_its_newer_limits_is_read_back(model, tmp_path, count):
    """Older models have three or four limits, those that are trained now have five."""
    fitted = fitted_to("portraits")
    limits = torch.cat([fitted.limits, torch.ones(1)])[:count]
    guard = replace(fitted, limits=limits)
    replace(model, encoder=WorldEncoder(model.encoder.world, guard=guard)).save_pretrained(tmp_path / "model")
    if count == 6:
        with pytest.raises(ModelError, match=r"guard.safetensors: limits: expected shape \(3\), \(4\) or \(5\), got"):
            Synthesizer.from_pretrained(tmp_path / "model")
    else:
        loaded = Synthesizer.from_pretrained(tmp_path / "model").encoder.guard
        torch.testing.assert_close(loaded.limits, limits, rtol=1e-2, atol=1e-3)
