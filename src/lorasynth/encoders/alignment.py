"""Five landmarks of a face -> the face upright in a square, as recognisers were trained on it. How sharp, turned and odd it is.

Points are pixel indices (x, y): (0, 0) is the centre of the upper left pixel. Shapes: S pixels a side of the square.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from lorasynth.errors import FaceError

TEMPLATE_112 = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
"""Where the landmarks lie in a square of 112 pixels: the eye at the image's left, the eye at its right, the tip of the nose, the
corner of the mouth at the left, at the right (the crops of CASIA-WebFace and MS1MV2 that ArcFace is trained on)."""


USUAL_LIGHT = 80.0
"""Mean grey level within a lit face, of 255; many are brighter."""


def template(size: int) -> Float[np.ndarray, "5 2"]:
    """The landmarks in a square of ``size`` pixels, ArcFace's way: multiples of 128 have wider margins left and right."""
    if size % 112 != 0 and size % 128 == 0:
        return TEMPLATE_112 * (size / 128) + [8 * size / 128, 0]
    return TEMPLATE_112 * (size / 112)


def similarity(source: Float[np.ndarray, "n 2"], target: Float[np.ndarray, "n 2"]) -> tuple[complex, complex]:
    """The turn, scale and shift that bring points onto others best, by least squares: x + iy ↦ a (x + iy) + b.

    Differs from Umeyama (IEEE TPAMI 13(4), 1991, equations 40 to 42) in form only: in the plane a turn and a scale are one
    complex factor, whose least-squares value is in closed form without SVD, and a mirror image cannot come out.

    Raises:
        FaceError: the source points coincide or are not finite.
    """
    z, w = source @ [1, 1j], target @ [1, 1j]
    spread = float(np.square(np.abs(z - z.mean())).sum())
    if not math.isfinite(spread) or spread < 1e-6:
        raise FaceError(
            "expected five landmarks of a face, got points that coincide or are not finite; give another photo"
        )
    a = np.vdot(z - z.mean(), w - w.mean()) / spread
    return complex(a), complex(w.mean() - a * z.mean())


def align(image: Image.Image, landmarks: Float[np.ndarray, "5 2"], size: int = 112) -> Float[Tensor, "3 S S"]:
    """The face upright in a square, in [0, 1]. Bilinear, black outside the photo.

    Differs from insightface's warp: a photo that shrinks to half or less is first averaged over whole pixels, so that fine detail
    does not alias.

    Raises:
        FaceError: the landmarks coincide, are not finite, or lie outside the photo.
    """
    a, b = similarity(landmarks, template(size))
    # The square's pixels in the photo.
    index = np.arange(size)
    points = ((index[None, :] + 1j * index[:, None]) - b) / a
    # The part of the photo that they touch.
    left, right = max(0, math.floor(points.real.min()) - 1), min(image.width, math.ceil(points.real.max()) + 2)
    top, bottom = max(0, math.floor(points.imag.min()) - 1), min(image.height, math.ceil(points.imag.max()) + 2)
    if left >= right or top >= bottom:
        raise FaceError("expected a face within the photo, got landmarks outside it; give another photo")
    # Average, then interpolate.
    factor = max(1, int(1 / abs(a)))
    part = image.convert("RGB").reduce(factor, (left, top, right, bottom))
    x = (points.real - left + 0.5) / factor - 0.5
    y = (points.imag - top + 0.5) / factor - 0.5
    grid = np.stack([2 * x / max(part.width - 1, 1) - 1, 2 * y / max(part.height - 1, 1) - 1], axis=-1)
    values = torch.from_numpy(np.array(part, dtype=np.float32)).permute(2, 0, 1)[None] / 255
    crop = F.grid_sample(values, torch.from_numpy(grid).float()[None], padding_mode="zeros", align_corners=True)
    return crop[0].clamp(0, 1)


def sharpness(crop: Float[Tensor, "3 S S"]) -> float:
    """Variance of the Laplacian of the grey picture, in levels of 255, within the face, in usual light.

    Why this: it is the common reading of focus (Pech-Pacheco et al., ICPR 2000) and needs no model. A sharp face has hundreds, a
    blurred one some tens. An upscaled one reads as blurred, which it is. Differs from the paper's: a darker face than usual is
    read as if its levels were multiplied up to the usual ones, for in a dark photo a sharp face has a small Laplacian, too.
    """
    grey = _grey_face(crop)
    kernel = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])
    laplacian = float(F.conv2d(grey[None, None], kernel[None, None]).var())
    return laplacian * max(1.0, USUAL_LIGHT / max(float(grey.mean()), 1.0)) ** 2


def brightness(crop: Float[Tensor, "3 S S"]) -> float:
    """Mean level of the grey picture within the face, of 255. Lit faces of any skin have 50 and more."""
    return float(_grey_face(crop).mean())


def _grey_face(crop: Float[Tensor, "3 S S"]) -> Float[Tensor, "h w"]:
    """The face from brows to chin, in grey levels of 255."""
    size = crop.shape[-1]
    grey = 255 * (crop * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(dim=0)
    return grey[size * 36 // 112 : size * 100 // 112, size * 24 // 112 : size * 88 // 112]


def turn(landmarks: Float[np.ndarray, "5 2"]) -> float:
    """How far a face is turned away: the nose's tip along the line of the eyes, in eye distances from their middle.

    0 is frontal. Beyond 0.5 on either side the nose is no longer between the eyes (a turn of about 40 degrees).
    Infinite if the eyes coincide.
    """
    left, right, nose = landmarks[:3] @ [1, 1j]
    eyes = right - left
    return float(((nose - (left + right) / 2) / eyes).real) if abs(eyes) > 1e-6 else math.inf


def misfit(landmarks: Float[np.ndarray, "5 2"]) -> float:
    """How far landmarks lie from a frontal face's after the best turn, scale and shift: root mean square, in eye distances.

    Why this: it needs no model. A head turned or nodded by 30 degrees has 0.1, by 40 some 0.15. People differ by some 0.05. Drawn
    faces with eyes or mouth of other proportions have 0.2 and more.

    Raises:
        FaceError: the landmarks coincide or are not finite.
    """
    a, b = similarity(landmarks, TEMPLATE_112)
    left, right, *_ = target = TEMPLATE_112 @ [1, 1j]
    return float(np.sqrt(np.square(np.abs(a * (landmarks @ [1, 1j]) + b - target)).mean()) / abs(right - left))
