import os
import struct
import time
import zlib
from io import BytesIO

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from lorasynth.encoders import open_photo, photo_tensor, to_image, to_square
from lorasynth.encoders.headers import file_format, picture_size
from lorasynth.errors import PhotoError, UsageError

SIZE = (64, 52)


def picture(mode: str = "RGB") -> Image.Image:
    """A smooth picture in which no two corners are alike."""
    y, x = np.mgrid[0 : SIZE[1], 0 : SIZE[0]]
    values = np.stack([x * 4, y * 4.8, 255 - x * 2 - y * 2], axis=-1).astype(np.uint8)
    return Image.fromarray(values).convert(mode)


def encoded(image: Image.Image, format: str, **options) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    """One PNG chunk."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, rows: bytes, depth: int = 8, colour: int = 2) -> bytes:
    """A PNG made by hand."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def difference(a: Image.Image, b: Image.Image) -> float:
    """Mean absolute difference, in levels of 255."""
    assert a.size == b.size
    return float(np.abs(np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)).mean())


@pytest.fixture
def file(tmp_path):
    def write(content: bytes, name: str = "me.png"):
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


GOOD = {
    "JPEG": encoded(picture(), "JPEG", quality=95),
    "progressive JPEG": encoded(picture(), "JPEG", quality=95, progressive=True),
    "PNG": encoded(picture(), "PNG"),
    "lossy WebP": encoded(picture(), "WEBP", quality=95),
    "lossless WebP": encoded(picture(), "WEBP", lossless=True),
    "WebP with alpha": encoded(picture("RGBA"), "WEBP", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0"),
}


@pytest.mark.parametrize("content", GOOD.values(), ids=GOOD)
def test_each_format_is_opened_whatever_the_file_is_called(content, file):
    opened = open_photo(file(content, "holiday.txt"))
    assert (opened.mode, opened.size) == ("RGB", SIZE)
    assert difference(opened, picture()) < 4


@pytest.mark.parametrize("content", GOOD.values(), ids=GOOD)
def test_header_reader_agrees_with_pillow(content):
    reader = Image.open(BytesIO(content))
    assert file_format(content) == reader.format
    assert picture_size(content, reader.format) == reader.size == SIZE


def test_png_comes_back_bit_for_bit(file):
    assert open_photo(file(GOOD["PNG"])).tobytes() == picture().tobytes()


# Modes.


@pytest.mark.parametrize("mode", ["L", "1", "P"])
def test_other_modes_look_as_pillow_converts_them(mode, file):
    image = picture(mode)
    assert open_photo(file(encoded(image, "PNG"))).tobytes() == image.convert("RGB").tobytes()


def test_cmyk_jpeg_has_the_colours_of_the_rgb_one(file):
    assert difference(open_photo(file(encoded(picture("CMYK"), "JPEG", quality=95))), picture()) < 4


def test_inverted_cmyk_jpeg_of_photo_editors_is_no_negative(file):
    content = encoded(ImageOps.invert(picture("CMYK").convert("L")).convert("CMYK"), "JPEG")
    adobe = b"\xff\xee" + struct.pack(">H", 14) + b"Adobe" + struct.pack(">HHHB", 100, 0, 0, 0)
    plain, inverted = open_photo(file(content, "a.jpg")), open_photo(file(content[:2] + adobe + content[2:], "b.jpg"))
    assert difference(ImageOps.invert(plain).convert("L"), inverted.convert("L")) > 0  # they differ, and
    with Image.open(BytesIO(content[:2] + adobe + content[2:])) as reference:
        assert inverted.tobytes() == reference.convert("RGB").tobytes()


@pytest.mark.parametrize(("mode", "clear"), [("RGBA", (200, 10, 10, 0)), ("LA", (90, 0))])
def test_what_is_transparent_becomes_white(mode, clear, file):
    opened = open_photo(file(encoded(Image.new(mode, SIZE, clear), "PNG")))
    assert opened.getextrema() == ((255, 255),) * 3


def test_what_is_half_transparent_is_mixed_with_white(file):
    opened = open_photo(file(encoded(Image.new("RGBA", SIZE, (0, 100, 200, 128)), "PNG")))
    np.testing.assert_allclose(opened.getpixel((0, 0)), (127, 177, 227), atol=1)


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_transparent_colour_of_a_png_becomes_white(mode, file):
    image = Image.new(mode, SIZE)
    key = (0, 0, 0) if mode == "RGB" else 0
    assert open_photo(file(encoded(image, "PNG", transparency=key))).getextrema() == ((255, 255),) * 3


def test_16_bit_grey_is_scaled_and_not_clipped(file):
    levels = np.linspace(0, 65535, SIZE[0] * SIZE[1]).reshape(SIZE[1], SIZE[0]).astype(np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    opened = open_photo(file(png(*SIZE, rows, depth=16, colour=0)))
    np.testing.assert_array_equal(np.asarray(opened)[..., 1], np.round(levels / 257))


def test_16_bit_colour_keeps_its_range(file):
    row = b"\0" + struct.pack(">HHH", 0, 32896, 65535) * 48
    assert open_photo(file(png(48, 48, row * 48, depth=16))).getpixel((0, 0)) == (0, 128, 255)


# Orientation.


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_as_pillow_applies_it(orientation, format, file):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(picture(), format, exif=exif)
    opened = open_photo(file(content))
    assert opened.tobytes() == ImageOps.exif_transpose(Image.open(BytesIO(content))).convert("RGB").tobytes()
    assert opened.size == (SIZE if orientation < 5 else SIZE[::-1])
    assert not opened.getexif()


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x63\0\0\0\0\0\0",  # orientation 99
        b"Exif\0\0garbage and more garbage",
        b"Exif\0\0MM\0*\xff\xff\xff\xff",
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01\x02\0\xff\xff\xff\xff",
    ],
)
def test_nonsense_in_exif_is_ignored_without_a_warning(exif, file):
    assert difference(open_photo(file(encoded(picture(), "JPEG", exif=exif, quality=95))), picture()) < 4


# Refusals. Every message names the file, and is one line.


def refused(path, match: str) -> str:
    with pytest.raises(PhotoError, match=match) as caught:
        open_photo(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty file"),
        (b"Dear Sir or Madam,\n", "got text"),
        ("Grüße, 世界".encode() * 60, "got text"),
        (b"\xef\xbb\xbf  <!DOCTYPE html><html>", "got HTML"),
        (b"<?xml version='1.0'?><svg></svg>", "got SVG"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "got HEIC"),
        (b"\0\0\0\x18ftypavif\0\0\0\0", "got AVIF"),
        (b"\0\0\0\x18ftypqt  \0\0\0\0", "got MP4 or QuickTime"),
        (b"%PDF-1.7\n", "got PDF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "got PostScript"),
        (b"II*\0" + bytes(40), "got TIFF or camera RAW"),
        (b"PK\x03\x04" + bytes(40), "got ZIP"),
        (b"version https://git-lfs.github.com/spec/v1\n", "got Git LFS pointer"),
        (bytes(range(1, 256)), "got an unknown format"),
        (encoded(picture(), "GIF"), "got GIF"),
        (encoded(picture(), "BMP"), "got BMP"),
    ],
)
def test_another_format_is_named(content, said, file):
    message = refused(file(content, "me.jpg"), said)
    assert "me.jpg: expected" in message
    assert "; g" in message  # give ..., get ...


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_animation_is_refused(format, file):
    frames = [Image.new("RGB", SIZE, colour) for colour in ("red", "green", "blue")]
    content = encoded(frames[0], format, save_all=True, append_images=frames[1:], duration=50)
    refused(file(content), "expected a still photo, got 3 frames")


def test_phones_jpeg_of_several_frames_is_its_first_frame(file):
    frames = [picture(), Image.new("RGB", SIZE, "red")]
    content = encoded(frames[0], "MPO", save_all=True, append_images=frames[1:], quality=95)
    assert difference(open_photo(file(content, "me.jpg")), picture()) < 4


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_file_cut_off_anywhere_is_refused_or_still_whole_picture(format, file):
    y, x = np.mgrid[0:50, 0:50]
    noisy = Image.fromarray(((x * 7919 + y * 104729) % 251).astype(np.uint8)).convert("RGB")
    content = encoded(noisy, format, **({"lossless": True} if format == "WEBP" else {}))
    whole = open_photo(file(content)).tobytes()
    num_refused = 0
    cuts = range(1, len(content), max(1, len(content) // 150))
    for length in cuts:
        try:
            assert open_photo(file(content[:length])).tobytes() == whole
        except PhotoError:
            num_refused += 1
    assert num_refused > 0.9 * len(cuts)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_half_a_file_says_damaged_or_cut_off(format, file):
    noise = Image.effect_noise((64, 64), 90).convert("RGB")
    content = encoded(noise, format)
    refused(file(content[: len(content) // 2]), f"damaged or cut off {format}")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (png(20_000, 20_000, b""), "64 megapixels and 16384 pixels a side, got 20000 x 20000"),
        (png(2**31 - 1, 2**31 - 1, b""), "64 megapixels and 16384 pixels a side, got 2147483647 x 2147483647"),
        (
            b"\xff\xd8\xff\xc0" + struct.pack(">HBHHB", 17, 8, 65_000, 65_000, 3) + bytes(9),
            "200 megapixels and 32768 pixels a side, got 65000",
        ),
        (
            b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\xff\x3f\0\xff\x3f\0",
            "64 megapixels and 16384 pixels a side, got 16384 x 16384",
        ),
    ],
    ids=["PNG", "PNG of 2^31", "JPEG", "WebP"],
)
def test_bomb_is_refused_from_its_header_at_once(content, said, file):
    path = file(content)
    start_s = time.process_time()  # CPU time: what other processes do does not count
    refused(path, f"expected at most {said}")
    assert time.process_time() - start_s < 0.5  # decoding one of these takes seconds and gigabytes


def test_small_file_that_unpacks_to_81_megapixels_is_refused(file):
    content = png(9_000, 9_000, bytes(9_000 * 9_000 // 8 + 9_000), depth=1, colour=0)
    assert len(content) < 80_000
    refused(file(content), "at most 64 megapixels and 16384 pixels a side, got 9000 x 9000")


def test_text_chunk_that_unpacks_to_much_is_refused(file):
    content = png(*SIZE, b"")
    bomb = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(200_000_000)))
    refused(file(content[:33] + bomb + content[33:]), "damaged or cut off PNG")


@pytest.mark.parametrize(
    ("size", "said"),
    [
        ((1, 1), "at least 48 pixels a side, got 1 x 1"),
        ((47, 180), "at least 48 pixels a side, got 47 x 180"),
        ((1, 6000), "at least 48 pixels a side, got 1 x 6000"),
        ((60, 241), "sides of at most 4 to 1, got 60 x 241; crop it"),
        ((20_000, 60), "16384 pixels a side, got 20000 x 60"),
    ],
)
def test_picture_of_a_useless_size_is_refused(size, said, file):
    refused(file(encoded(Image.new("RGB", size), "PNG")), said)


def test_file_of_very_many_bytes_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "me.jpg"
    with path.open("wb") as sparse:
        sparse.truncate(200 * 10**9)
    refused(path, "at most 64 MB, got 200000 MB")


def test_what_is_no_regular_file_is_refused(tmp_path):
    refused(tmp_path, "got a folder")
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "not a regular file")


def test_file_that_cannot_be_had_is_named(tmp_path):
    refused(tmp_path / "none.png", "none.png: expected a photo, got no such file; check the path")
    refused(tmp_path / ("a" * 5_000), "File name too long")
    refused("a\0b.png", "cannot be read")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    refused(tmp_path / "loop", "cannot be read")


def test_name_with_a_newline_still_makes_one_line(tmp_path):
    assert "a\\nb.png" in refused(tmp_path / "a\nb.png", "no such file")


@given(
    content=st.sampled_from(sorted(GOOD.values())),
    changes=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_file_with_any_bytes_changed_is_picture_or_photo_error(tmp_path_factory, content, changes):
    damaged = bytearray(content)
    for at, value in changes:
        damaged[at % len(damaged)] = value
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(damaged)
    try:
        mode = open_photo(path).mode
    except PhotoError as error:
        mode = f"refused: {error}"
    assert mode == "RGB" or mode.startswith(f"refused: {path}: ")


# The square.


def test_square_picture_of_the_right_size_keeps_every_value():
    image = Image.effect_noise((64, 64), 50).convert("RGB")
    assert to_square(image, 64).tobytes() == image.tobytes()


@pytest.mark.parametrize("size", [(90, 30), (30, 90)])
def test_middle_is_kept(size):
    image = Image.new("RGB", size, "red")
    image.paste("blue", (size[0] // 2 - 15, size[1] // 2 - 15, size[0] // 2 + 15, size[1] // 2 + 15))
    square = to_square(image, 30)
    assert square.size == (30, 30)
    assert square.getcolors() == [(900, (0, 0, 255))]


def test_shrinking_averages_and_does_not_skip_pixels():
    fine = Image.fromarray((np.indices((256, 256)).sum(axis=0) % 2 * 255).astype(np.uint8)).convert("RGB")
    values = np.asarray(to_square(fine, 32), dtype=np.float64)
    assert np.abs(values - 127.5).max() < 2  # nearest or unwidened bilinear would give 0 or 255


def test_picture_and_its_tensor_are_the_same_values():
    image = Image.effect_noise((64, 64), 50).convert("RGB")
    tensor = photo_tensor(image, 64)
    assert (tensor.shape, tensor.min() >= 0, tensor.max() <= 1) == ((3, 64, 64), True, True)
    assert tensor[1, 5, 7].item() * 255 == pytest.approx(image.getpixel((7, 5))[1])
    assert to_image(tensor).tobytes() == image.tobytes()


def test_values_outside_the_range_are_clamped_and_do_not_wrap():
    colour = to_image(torch.tensor([-0.2, 0.5, 1.3]).reshape(3, 1, 1).requires_grad_()).getpixel((0, 0))
    assert colour == (0, 128, 255)


def test_size_below_one_is_refused():
    with pytest.raises(UsageError, match="at least 1 pixel, got 0"):
        to_square(picture(), 0)
