import cmath
import math
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from lorasynth.encoders.alignment import TEMPLATE_112, align, misfit, sharpness, similarity, template, turn
from lorasynth.errors import FaceError


def moved(points: np.ndarray, a: complex, b: complex) -> np.ndarray:
    z = a * (points @ [1, 1j]) + b
    return np.stack([z.real, z.imag], axis=1)


def umeyama(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The published form, by SVD (Umeyama 1991, equations 40 to 42)."""
    x, y = source - source.mean(0), target - target.mean(0)
    U, D, Vh = np.linalg.svd(y.T @ x / len(x))
    S = np.diag([1, np.sign(np.linalg.det(U) * np.linalg.det(Vh))])
    R = U @ S @ Vh
    c = np.trace(np.diag(D) @ S) / np.square(x).sum(1).mean()
    return c * R, target.mean(0) - c * R @ source.mean(0)


@cache
def dots(scale: float, degrees: float) -> tuple[Image.Image, np.ndarray]:
    """A photo of a face so large and so turned, with one smooth dot at each landmark, of another colour each; and landmarks."""
    landmarks, radius = moved(TEMPLATE_112 - 56, cmath.rect(scale, math.radians(degrees)), 400 + 350j), 3 * scale
    across, down = (
        np.exp(-((np.arange(count) - at[:, None]) ** 2) / (2 * radius**2))
        for count, at in zip((800, 700), landmarks.T, strict=True)
    )
    colours = np.array([(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (0, 1, 1)])
    values = np.stack([(down.T * shares) @ across for shares in colours.T], axis=-1)
    return Image.fromarray((values.clip(0, 1) * 255).round().astype(np.uint8)), landmarks


def dot_centres(crop: torch.Tensor) -> np.ndarray:
    """Where the dots are, in the order in which they were drawn: centres of mass of what only one of them can be."""
    red, green, blue = crop.double()
    parts = [
        (red - green).clamp(min=0),
        (green - red - blue).clamp(min=0),
        (blue - green).clamp(min=0),
        torch.minimum(red, green),
        torch.minimum(green, blue),
    ]
    y, x = torch.meshgrid(*[torch.arange(float(crop.shape[-1]))] * 2, indexing="ij")
    return np.array([[float((p * x).sum() / p.sum()), float((p * y).sum() / p.sum())] for p in parts])


@pytest.mark.parametrize("degrees", [0, 17, -40, 90, 180])
@pytest.mark.parametrize("scale", [0.7, 1.0, 2.4, 5.3])
@pytest.mark.parametrize("size", [112, 128, 224])
def test_drawn_landmarks_land_on_the_template(degrees, scale, size):
    photo, landmarks = dots(scale, degrees)
    centres = dot_centres(align(photo, landmarks, size))
    assert np.abs(centres - template(size)).max() < 0.5


def test_crop_at_the_photos_own_scale_is_the_photo():
    noise = Image.effect_noise((112, 112), 60).convert("RGB")
    crop = align(noise, TEMPLATE_112)
    torch.testing.assert_close(crop, torch.from_numpy(np.array(noise)).permute(2, 0, 1) / 255, atol=2e-4, rtol=0)


def test_warp_is_opencvs():
    cv2 = pytest.importorskip("cv2")
    photo = Image.effect_noise((300, 200), 60).convert("RGB").filter(ImageFilter.GaussianBlur(2))
    landmarks = moved(TEMPLATE_112, cmath.rect(1.3, 0.3), 60 + 10j)
    a, b = similarity(landmarks, TEMPLATE_112)
    matrix = np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])
    expected = cv2.warpAffine(np.asarray(photo), matrix, (112, 112), flags=cv2.INTER_LINEAR)
    difference = align(photo, landmarks).permute(1, 2, 0).numpy() * 255 - expected
    assert np.abs(difference).mean() < 1


points = st.lists(
    st.tuples(st.floats(-100, 100), st.floats(-100, 100)), min_size=5, max_size=5, unique_by=lambda p: round(p[0])
)


@given(source=points, target=points)
def test_similarity_is_umeyamas(source, target):
    x, y = np.array(source), np.array(target)
    a, b = similarity(x, y)
    z = np.array([[a.real, -a.imag], [a.imag, a.real]])
    error = np.square(x @ z.T + [b.real, b.imag] - y).sum()
    matrix, shift = umeyama(x, y)
    reference = np.square(x @ matrix.T + shift - y).sum()
    assert error == pytest.approx(reference, rel=1e-6, abs=1e-6)


def test_template_scales_by_insightfaces_rule():
    np.testing.assert_allclose(template(224), 2 * TEMPLATE_112)
    np.testing.assert_allclose(template(128), TEMPLATE_112 + np.array([8, 0]))
    np.testing.assert_allclose(template(256), 2 * TEMPLATE_112 + np.array([16, 0]))


def test_what_lies_outside_the_photo_is_black():
    white = Image.new("RGB", (112, 112), "white")
    crop = align(white, TEMPLATE_112 - np.array([56, 0]))  # the face lies half beyond the left side
    assert crop[:, :, :55].max() == 0
    assert crop[:, :, 58:].min() == pytest.approx(1)


def test_large_photo_is_averaged_and_does_not_alias():
    checks = Image.fromarray((np.indices((896, 896)).sum(0) % 2 * 255).astype(np.uint8))
    assert (align(checks, 8 * TEMPLATE_112)[:, 8:-8, 8:-8] - 0.5).abs().max() < 0.02


@pytest.mark.parametrize(
    ("landmarks", "said"),
    [
        (np.full((5, 2), 7.0), "coincide"),
        (np.full((5, 2), np.nan), "not finite"),
        (TEMPLATE_112 + 5000, "landmarks outside it"),
    ],
)
def test_useless_landmarks_are_named(landmarks, said):
    with pytest.raises(FaceError, match=said):
        align(Image.new("RGB", (112, 112)), landmarks)


def test_blurred_face_is_less_sharp():
    face = Image.effect_noise((112, 112), 60).convert("RGB")
    sharp, blurred = (
        sharpness(align(image, TEMPLATE_112)) for image in (face, face.filter(ImageFilter.GaussianBlur(3)))
    )
    assert sharp > 100
    assert blurred < 30


def test_sharpness_is_opencvs_variance_of_the_laplacian():
    cv2 = pytest.importorskip("cv2")
    crop = align(Image.effect_noise((112, 112), 60).convert("RGB"), TEMPLATE_112)
    grey = cv2.cvtColor((crop.permute(1, 2, 0).numpy() * 255).astype(np.float32), cv2.COLOR_RGB2GRAY)
    assert sharpness(crop) == pytest.approx(cv2.Laplacian(grey, cv2.CV_32F)[37:99, 25:87].var(ddof=1), rel=1e-3)


def test_turn_is_zero_for_the_template_and_half_under_an_eye():
    assert abs(turn(TEMPLATE_112)) < 0.01
    assert turn(moved(TEMPLATE_112, cmath.rect(3, 2), 5j)) == pytest.approx(turn(TEMPLATE_112))
    profile = TEMPLATE_112.copy()
    profile[:3] = [[30, 50], [80, 50], [80, 70]]
    assert turn(profile) == pytest.approx(0.5)
    assert turn(np.zeros((5, 2))) == math.inf


def test_misfit_is_that_of_the_best_turn_scale_and_shift():
    assert misfit(moved(TEMPLATE_112, cmath.rect(3, 2), 5j)) == pytest.approx(0, abs=1e-9)
    odd = TEMPLATE_112.copy()
    odd[2] += [0, -30]
    c, shift = umeyama(odd, TEMPLATE_112)
    left = odd @ c.T + shift - TEMPLATE_112
    assert misfit(odd) == pytest.approx(
        np.sqrt(np.square(left).sum(1).mean()) / np.linalg.norm(np.diff(TEMPLATE_112[:2], axis=0))
    )
    assert misfit(odd) == pytest.approx(misfit(moved(odd, cmath.rect(0.2, 1), 9)))


@pytest.mark.parametrize(("yaw", "pitch"), [(0, 0), (30, 0), (40, 0), (0, 40), (0, -40), (25, 25), (-25, -25)])
def test_head_that_turns_and_nods_keeps_a_faces_proportions(yaw, pitch):
    """The tip of the nose half an eye distance before the eyes, the corners of the mouth an eighth; seen from afar."""
    points = np.concatenate([TEMPLATE_112 - TEMPLATE_112.mean(0), [[0.0], [0], [-17.5], [-4.4], [-4.4]]], axis=1)
    (cy, sy), (cp, sp) = ((np.cos(a), np.sin(a)) for a in np.radians([yaw, pitch]))
    turned = (
        points @ np.array([[cy, 0, -sy], [0, 1, 0], [sy, 0, cy]]) @ np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
    )
    assert misfit(turned[:, :2]) < 0.2
