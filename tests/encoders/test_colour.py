"""Colour profiles of files are applied: what a picture looks like, not its numbers, is what is embedded."""

import io
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from lorasynth.encoders import open_photo, read_photo

from .profiles import (
    ADOBE_GAMMA,
    ADOBE_RGB,
    DISPLAY_P3,
    PROPHOTO,
    SRGB,
    cmyk_profile,
    encode,
    grey_profile,
    profile,
    srgb_light,
)

SIZE = (64, 64)


def colours() -> np.ndarray:
    """Colours that lie within sRGB, as of skin, leaves and sky."""
    generator = np.random.default_rng(0)
    return generator.integers(30, 225, (8, 8, 3)).astype(np.uint8).repeat(8, axis=0).repeat(8, axis=1)


def file(image: Image.Image, format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


SPACES = {"Display P3": (DISPLAY_P3, 2.2), "Adobe RGB": (ADOBE_RGB, ADOBE_GAMMA), "ProPhoto": (PROPHOTO, 1.8)}


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
@pytest.mark.parametrize("space", SPACES)
def test_picture_in_wider_space_has_colours_that_were_meant(space, format):
    primaries, gamma = SPACES[space]
    meant = colours()
    stored = encode(srgb_light(meant) @ SRGB.T @ np.linalg.inv(primaries).T, gamma)
    options = {"lossless": True} if format == "WEBP" else {}
    content = file(Image.fromarray(stored), format, icc_profile=profile(primaries, gamma), **options)
    found = np.asarray(open_photo(content)).astype(int)
    assert np.abs(found - meant).mean() < 1.5
    assert np.abs(stored.astype(int) - meant).mean() > 4  # as numbers alone would say
    assert read_photo(content).notes == ()


def test_srgb_itself_changes_no_value_by_more_than_rounding():
    from PIL import ImageCms

    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    found = np.asarray(open_photo(file(Image.fromarray(colours()), icc_profile=srgb))).astype(int)
    assert np.abs(found - colours()).max() <= 1


def test_inks_have_the_lightness_of_their_profile():
    """Half cyan, half black: lightness 100 - 10 - 30 = 60, which is a grey of 145 in sRGB (CIE 1976; IEC 61966-2-1)."""
    inks = Image.new("CMYK", SIZE, (128, 0, 0, 128))
    found = open_photo(file(inks, "JPEG", icc_profile=cmyk_profile(), quality=100)).getpixel((9, 9))
    np.testing.assert_allclose(found, (145, 145, 145), atol=3)
    plain = read_photo(file(inks, "JPEG", quality=100))
    assert plain.image.getpixel((9, 9)) != found
    assert [note.code for note in plain.notes] == ["colour-profile"]
    assert "CMYK without a colour profile" in plain.notes[0]


def test_grey_profile_is_applied_to_grey():
    linear = open_photo(file(Image.new("L", SIZE, 55), icc_profile=grey_profile(1.0))).getpixel((0, 0))
    np.testing.assert_allclose(linear, (128, 128, 128), atol=2)  # 55/255 of the light is a level of 128


def test_transparent_parts_stay_white_whatever_the_profile():
    image = Image.new("RGBA", SIZE, (10, 200, 30, 0))
    assert open_photo(file(image, icc_profile=profile(PROPHOTO, 1.8))).getextrema() == ((255, 255),) * 3


def test_palette_colours_are_converted_as_plain_ones():
    image = Image.fromarray(colours())
    few = image.quantize(32)
    icc = profile(DISPLAY_P3)
    assert (
        open_photo(file(few, icc_profile=icc)).tobytes()
        == open_photo(file(few.convert("RGB"), icc_profile=icc)).tobytes()
    )


@pytest.mark.parametrize(
    ("icc", "said"),
    [
        (b"no profile at all", "cannot be used"),
        (profile(DISPLAY_P3)[:150], "cannot be used"),
        (cmyk_profile(), "it describes CMYK, and the picture is RGB"),
        (grey_profile(2.2), "it describes GRAY, and the picture is RGB"),
        (profile(DISPLAY_P3) + b"mpet", "of a kind that may take hours"),
        (profile(DISPLAY_P3, space=b"Lab "), "cannot be used"),
    ],
    ids=["words", "cut off", "for inks", "for grey", "program", "of Lab"],
)
def test_profile_that_cannot_be_used_is_noted_and_left_out(icc, said):
    photo = read_photo(file(Image.fromarray(colours()), "JPEG", quality=100, subsampling=0, icc_profile=icc))
    assert [note.code for note in photo.notes] == ["colour-profile"]
    assert said in photo.notes[0]
    assert "taken as sRGB" in photo.notes[0]
    assert np.abs(np.asarray(photo.image).astype(int) - colours()).mean() < 2


@pytest.mark.parametrize(
    ("kind", "data", "said"),
    [
        (b"gAMA", struct.pack(">I", 100_000), "its gamma is 1: values are taken as sRGB"),
        (b"cICP", bytes([12, 13, 0, 1]), "of another space (cICP 12, 13): values are taken as sRGB"),
        (b"gAMA", struct.pack(">I", 45_455), ""),
        (b"cICP", bytes([1, 13, 0, 1]), ""),
    ],
)
def test_png_that_says_other_colours_is_noted(kind, data, said):
    plain = file(Image.fromarray(colours()), "PNG")
    chunk = struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    photo = read_photo(plain[:33] + chunk + plain[33:])
    assert [str(note) for note in photo.notes] == (
        [f"its colours are {said}"] if said.startswith("of") else [said] * bool(said)
    )
    assert photo.image.tobytes() == open_photo(plain).tobytes()


def test_profile_of_eight_megabytes_takes_no_time():
    icc = profile(DISPLAY_P3) + bytes(8_000_000)
    start = time.process_time()
    assert "bytes, or of a kind" in read_photo(file(Image.fromarray(colours()), "JPEG", icc_profile=icc)).notes[0]
    assert time.process_time() - start < 2
