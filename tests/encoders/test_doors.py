"""Whatever a photo is given as, it is the same picture: files by name, bytes, open files, arrays, Pillow images."""

import io
import struct
import subprocess
import sys
import time
import zlib
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lorasynth.encoders import open_photo, read_photo, to_image
from lorasynth.encoders.images import MAX_FILE_MB, is_photo
from lorasynth.encoders.jpeg import MAX_SCANS
from lorasynth.errors import PhotoError
from lorasynth.opening import open_encoder
from lorasynth.synthesizer import Synthesizer
from lorasynth.worlds.world import get_world

from .profiles import DISPLAY_P3, PROPHOTO, cmyk_profile, profile

SIZE = (96, 72)


def picture(mode="RGB") -> Image.Image:
    """A smooth picture in which no two corners are alike."""
    y, x = np.mgrid[0 : SIZE[1], 0 : SIZE[0]]
    return Image.fromarray(np.stack([x * 2, y * 3, 255 - x - y], axis=-1).astype(np.uint8)).convert(mode)


def cutout() -> Image.Image:
    pixels = np.array(picture("RGBA"))
    pixels[:20] = 0
    pixels[20:40, :, 3] = 100
    return Image.fromarray(pixels)


def grey16() -> Image.Image:
    return Image.fromarray(np.linspace(0, 65535, SIZE[0] * SIZE[1]).reshape(SIZE[::-1]).astype(np.uint16))


def lying(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def encoded(image: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


KINDS = {
    "plain JPEG": encoded(picture(), "JPEG"),
    "progressive JPEG": encoded(picture(), "JPEG", progressive=True),
    "grey JPEG": encoded(picture("L"), "JPEG"),
    "CMYK JPEG": encoded(picture("CMYK"), "JPEG"),
    "CMYK JPEG with its profile": encoded(picture("CMYK"), "JPEG", icc_profile=cmyk_profile()),
    "phone's JPEG on its side": encoded(picture(), "JPEG", exif=lying(6)),
    "phone's JPEG in Display P3 on its head": encoded(picture(), "JPEG", exif=lying(3), icc_profile=profile(DISPLAY_P3)),
    "JPEG of several frames": encoded(picture(), "MPO", save_all=True, append_images=[picture("L").convert("RGB")]),
    "JPEG with a broken profile": encoded(picture(), "JPEG", icc_profile=b"no profile"),
    "PNG": encoded(picture(), "PNG"),
    "PNG on its side": encoded(picture(), "PNG", exif=lying(8)),
    "PNG of a palette": encoded(picture("P"), "PNG"),
    "PNG of a palette with a clear colour": encoded(picture("P"), "PNG", transparency=0),
    "PNG of one bit": encoded(picture("1"), "PNG"),
    "PNG with alpha": encoded(cutout(), "PNG"),
    "PNG with alpha in ProPhoto on its side": encoded(cutout(), "PNG", icc_profile=profile(PROPHOTO, 1.8), exif=lying(6)),
    "grey PNG with alpha": encoded(cutout().convert("LA"), "PNG"),
    "grey PNG of 16 bits": encoded(grey16(), "PNG"),
    "WebP": encoded(picture(), "WEBP"),
    "WebP with alpha in Display P3": encoded(cutout(), "WEBP", lossless=True, icc_profile=profile(DISPLAY_P3)),
}  # fmt: skip


def loaded(path: Path) -> Image.Image:
    image = Image.open(path)
    image.load()
    return image


def copied(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.copy()


DOORS = {
    "name": str,
    "path": Path,
    "bytes": Path.read_bytes,
    "bytearray": lambda path: bytearray(path.read_bytes()),
    "memoryview": lambda path: memoryview(path.read_bytes()),
    "open file": lambda path: path.open("rb"),
    "bytes as a file": lambda path: io.BytesIO(path.read_bytes()),
    "image not yet read": Image.open,
    "image of bytes": lambda path: Image.open(io.BytesIO(path.read_bytes())),
    "image read": loaded,
    "copy of an image": copied,
    "array of the opened photo": lambda path: np.asarray(open_photo(path)),
    "floats of the opened photo": lambda path: np.asarray(open_photo(path), dtype=np.float32) / 255,
    "photo that was opened": open_photo,
}


@contextmanager
def through(door: str, path: Path):
    """What is given for a photo; closed afterwards, as whoever opened it does."""
    given = DOORS[door](path)
    try:
        yield given
    finally:
        if hasattr(given, "close"):
            given.close()


@pytest.fixture(scope="module")
def by_name(tmp_path_factory):
    """Kind -> its file, and the photo that is opened by the file's name."""
    folder, opened = tmp_path_factory.mktemp("kinds"), {}
    for kind, content in KINDS.items():
        (folder / kind).write_bytes(content)
        opened[kind] = folder / kind, open_photo(folder / kind)
    return opened


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("door", DOORS)
def test_photo_is_the_same_bytes_through_every_door(kind, door, by_name):
    path, photo = by_name[kind]
    with through(door, path) as given:
        other = open_photo(given).copy()  # of a photo that was opened, it is the same object
    assert (other.mode, other.size, other.info) == ("RGB", photo.size, {})
    assert other.tobytes() == photo.tobytes()


@pytest.mark.parametrize("door", [d for d in DOORS if "opened" not in d])
@pytest.mark.parametrize("kind", ["phone's JPEG in Display P3 on its head", "CMYK JPEG", "JPEG with a broken profile"])
def test_remarks_are_the_same_through_every_door(kind, door, tmp_path):
    path = tmp_path / "photo"
    path.write_bytes(KINDS[kind])
    with through(door, path) as given:
        assert read_photo(given).notes == read_photo(path).notes


def test_image_that_was_given_is_not_changed(tmp_path):
    image = Image.open(io.BytesIO(KINDS["phone's JPEG on its side"]))
    open_photo(image)
    assert (image.size, image.getexif()[0x0112]) == (SIZE, 6)
    assert image.tobytes() == Image.open(io.BytesIO(KINDS["phone's JPEG on its side"])).tobytes()


@pytest.mark.parametrize(
    ("mode", "values"),
    [
        ("L", np.asarray(picture("L"))),
        ("L", np.asarray(picture("L"))[..., None]),
        ("LA", np.asarray(cutout().convert("LA"))),
        ("RGBA", np.asarray(cutout())),
        ("RGBA", np.asarray(cutout())[:, ::-1][:, ::-1]),  # rows that do not lie one after the other
        ("I;16", np.asarray(grey16())),
    ],
)
def test_array_is_the_photo_of_its_png(mode, values):
    file = encoded(grey16() if mode == "I;16" else cutout().convert(mode) if "A" in mode else picture(mode), "PNG")
    assert open_photo(values).tobytes() == open_photo(file).tobytes()


def test_array_of_16_bit_colours_is_read_as_its_file():
    values = np.random.default_rng(0).integers(0, 65536, (*SIZE[::-1], 3)).astype(np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    assert open_photo(values).tobytes() == open_photo(png(*SIZE, rows, depth=16)).tobytes()


def frame(bits: int, kind: int = 0xC0) -> bytes:
    """The beginning of a JPEG of so many bits and that kind of frame."""
    return b"\xff\xd8\xff" + bytes([kind]) + struct.pack(">HBHHB", 11, bits, 64, 64, 1) + b"\1\x11\0\xff\xda\0\2"


def closed_image() -> Image.Image:
    image = Image.new("RGB", (64, 64))
    image.close()
    return image


@pytest.mark.parametrize(
    ("photo", "said"),
    [
        (np.zeros((3, 64, 64)), r"expected an array of height x width x 1 to 4 channels, got shape \(3, 64, 64\); .*transpose"),
        (np.zeros((1, 64, 64, 3)), "give several photos as a list"),
        (np.zeros(64), r"got shape \(64,\)"),
        (np.zeros((0, 64, 3)), "at least 48 pixels a side, got 64 x 0"),
        (np.zeros((64, 64, 3), np.int64), "expected integers of 8 or 16 bits .* got int64; bring the array to uint8"),
        (np.full((64, 64, 3), 200.0), "expected floats from 0 to 1, got 200 to 200; scale"),
        (np.full((64, 64, 3), np.nan), "expected floats from 0 to 1, got nan"),
        (np.zeros((64, 64, 3), complex), "got complex128"),
        (np.zeros((64, 64), object), "got object"),
        (np.random.default_rng(0).uniform(-0.5, 0.5, (64, 64, 3)), r"expected floats from 0 to 1, got -0\.\d+ to 0\.\d+; scale"),
        (np.ma.masked_less(np.zeros((64, 64), np.uint8), 1), r"got one with a mask; fill what is masked"),
        (frame(12), "expected a baseline or progressive JPEG of 8 bits, got one of 12 bits; save the picture anew"),
        *((frame(8, kind), "got a lossless or hierarchical one") for kind in (0xC3, 0xC5, 0xC7, 0xCB, 0xCF)),
        (closed_image(), "expected an open image, got one that was closed; open it again"),
        (np.zeros((40, 64, 3), np.uint8), "at least 48 pixels a side, got 64 x 40"),
        (np.zeros((60, 241, 3), np.uint8), "sides of at most 4 to 1, got 241 x 60"),
        (np.broadcast_to(np.uint8(0), (9000, 9000, 3)), "at most 64 megapixels .* got 9000 x 9000"),
        (Image.new("I", (64, 64)), "mode I of unknown range"),
        (Image.new("F", (64, 64)), "mode F of unknown range"),
        (Image.new("RGB", (40, 64)), "at least 48 pixels a side, got 40 x 64"),
        (b"", "empty file"),
        (b"Dear Sir,\n", "got text"),
        (io.BytesIO(), "empty file"),
        (io.StringIO("text"), "got StringIO"),
    ],
)  # fmt: skip
def test_what_is_no_photo_is_refused_in_one_line(photo, said):
    with pytest.raises(PhotoError, match=f"^photo: .*({said})") as caught:
        open_photo(photo)
    assert "\n" not in str(caught.value)


def test_name_that_is_empty_is_refused():
    with pytest.raises(PhotoError, match=r"^'': expected a file's name, got an empty one"):
        open_photo("")


def test_matrix_and_premultiplied_grey_are_photos_too():
    grey = np.asarray(picture("L"))
    assert open_photo(grey.view(np.matrix)).tobytes() == open_photo(grey).tobytes()
    assert open_photo(picture("L").convert("LA").convert("La")).tobytes() == open_photo(grey).tobytes()


def test_animation_is_refused_as_an_image_too():
    frames = [Image.new("RGB", SIZE, colour) for colour in ("red", "blue")]
    for format in ("PNG", "WEBP", "GIF"):
        image = Image.open(io.BytesIO(encoded(frames[0], format, save_all=True, append_images=frames[1:])))
        with pytest.raises(PhotoError, match="expected a still photo, got 2 frames"):
            open_photo(image)


def test_file_that_is_closed_or_too_long_is_refused(tmp_path):
    closed = io.BytesIO(b"x")
    closed.close()
    with pytest.raises(PhotoError, match=r"photo: cannot be read \(I/O operation on closed file"):
        open_photo(closed)
    with pytest.raises(PhotoError, match=f"at most {MAX_FILE_MB} MB, got more"):
        open_photo(b"\xff\xd8\xff" + bytes(MAX_FILE_MB * 1_000_000))
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as file:
        file.truncate(MAX_FILE_MB * 1_000_000 + 1)
    with pytest.raises(PhotoError, match=f"at most {MAX_FILE_MB} MB, got {MAX_FILE_MB + 1} MB"):
        open_photo(sparse)


def test_one_photo_is_told_from_a_list_of_photos():
    assert all(
        map(is_photo, ["a.jpg", Path("a.jpg"), b"", io.BytesIO(), picture(), np.zeros((2, 2)), np.zeros((2, 2, 3))])
    )
    assert not any(map(is_photo, [["a.jpg"], (picture(),), np.zeros((1, 2, 2, 3)), 5, None]))


# Encoders and the synthesizer.


@pytest.fixture(scope="module")
def portrait_files(tmp_path_factory):
    """One drawn portrait: as it is, as a phone stores it, and cut out."""
    folder = tmp_path_factory.mktemp("portraits")
    upright = to_image(get_world("portraits").draw([7], [0], 256)[0])
    upright.save(folder / "upright.png")
    upright.transpose(Image.Transpose.ROTATE_90).save(folder / "phone.png", exif=lying(6))
    alpha = Image.new("L", upright.size, 255)
    alpha.paste(0, (0, 0, 40, 40))
    cut = upright.copy()
    cut.putalpha(alpha)
    cut.save(folder / "cutout.png")
    return folder


@pytest.mark.parametrize("name", ["phone.png", "cutout.png"])
@pytest.mark.parametrize("door", [d for d in DOORS if "opened" not in d])
def test_embedding_is_the_same_through_every_door(name, door, portrait_files):
    encoder = open_encoder("portraits")
    path = portrait_files / name
    (by_name,) = encoder.read([path], allow_outside=True)
    with through(door, path) as given:
        (other,) = encoder.read([given], allow_outside=True)
    assert torch.equal(other.embedding, by_name.embedding)


def test_synthesizer_takes_every_door_and_lists(portrait_files):
    model = Synthesizer.from_pretrained()
    upright, phone = portrait_files / "upright.png", portrait_files / "phone.png"
    expected = model.embed(upright)
    image = np.asarray(open_photo(upright))
    for photo in (phone, phone.read_bytes(), io.BytesIO(phone.read_bytes()), image, image[None], [image], (phone,)):
        assert torch.equal(model.embed(photo), expected)
    with Image.open(phone) as lying_image:
        assert torch.equal(model.embed(lying_image), expected)


@pytest.mark.slow
def test_what_is_no_photo_by_its_type_is_named():
    """In a process of its own: here the tests' type checker would refuse it first."""
    code = """
import torch
from lorasynth import Synthesizer
model = Synthesizer.from_pretrained()
for photo in (5, None, torch.zeros(3, 64, 64), [b"text", 5], torch.zeros(64, 64), {"photo": "me.jpg"}):
    try:
        model.embed(photo)
    except Exception as error:
        print(type(error).__name__, error)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert out[0].startswith("UsageError expected a photo or a list of photos, got int; give a file's name")
    assert out[1].startswith("UsageError expected a photo or a list of photos, got NoneType")
    assert out[2].startswith(
        "PhotoError photo 1 of 3: expected a file's name, bytes, an array or a Pillow image, got Tensor"
    )
    assert out[3].startswith("PhotoError photo 1 of 2: expected JPEG, PNG or WebP, got text")
    assert out[4].startswith("PhotoError photo 1 of 64: expected a file's name")
    assert out[5].startswith("PhotoError photo: cannot be read") or "no such file" in out[5]


# Large JPEGs.


@pytest.fixture(scope="module")
def huge():
    """A JPEG of 81 megapixels, its left half white."""
    image = Image.new("L", (9000, 9000))
    image.paste(255, (0, 0, 4500, 9000))
    return encoded(image, "JPEG", exif=lying(3))


@pytest.mark.parametrize("door", [bytes, io.BytesIO, lambda content: Image.open(io.BytesIO(content))])
def test_jpeg_of_81_megapixels_is_read_at_half_its_size(huge, door):
    photo = read_photo(door(huge))
    assert photo.image.size == (4500, 4500)
    assert photo.image.getpixel((10, 10)) == (0, 0, 0)  # upright: white is at the right
    assert photo.image.getpixel((4400, 10)) == (255, 255, 255)
    assert [note.code for note in photo.notes] == ["reduced"]
    assert "of 9000 x 9000 pixels" in photo.notes[0]


def test_jpeg_of_more_than_200_megapixels_is_refused():
    header = b"\xff\xd8\xff\xc0" + struct.pack(">HBHHB", 17, 8, 15_000, 15_000, 3) + bytes(9)
    with pytest.raises(PhotoError, match="at most 200 megapixels and 32768 pixels a side, got 15000 x 15000"):
        open_photo(header)


# Malformed pictures, and those that are made to keep a decoder busy: all end, soon, as a picture or in one line.


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, rows: bytes, depth: int = 8, colour: int = 2, extra: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


PALETTE_ROWS = b"".join(b"\0" + bytes(range(64)) for _ in range(64))


@pytest.mark.parametrize(
    "content",
    [
        png(64, 64, PALETTE_ROWS, colour=3),
        png(64, 64, PALETTE_ROWS, colour=3, extra=chunk(b"tRNS", b"\0")),
        png(64, 64, PALETTE_ROWS, colour=3, extra=chunk(b"PLTE", b"")),
        png(64, 64, b"", colour=3, extra=chunk(b"PLTE", bytes(3))),
        png(64, 64, PALETTE_ROWS, depth=7, colour=3),
        png(64, 64, PALETTE_ROWS, colour=5),
        b"\xff\xd8\xff\xd9",
    ],
    ids=["no palette", "clear, no palette", "empty palette", "no rows", "7 bits", "kind 5", "no frame"],
)
def test_malformed_picture_is_refused_as_damaged(content):
    with pytest.raises(PhotoError, match=r"^photo: damaged") as caught:
        open_photo(content)
    assert "\n" not in str(caught.value)


def scan_bomb(scans: int, side: int = 8000) -> bytes:
    """A progressive JPEG whose scans are empty: some hundred bytes each, and each goes over the whole picture."""
    frame = b"\xff\xc2" + struct.pack(">HBHHB", 11, 8, side, side, 1) + bytes([1, 0x11, 0])
    tables = b"".join(
        b"\xff\xc4" + struct.pack(">HB", 20, table) + bytes([1] + [0] * 15 + [symbol])
        for table, symbol in ((0x00, 0), (0x10, 0xE0))
    )
    blocks = (side // 8) ** 2
    first = b"\xff\xda" + struct.pack(">HBBBBBB", 8, 1, 1, 0, 0, 0, 0) + bytes((blocks + 7) // 8)
    bits = ("0" + "1" * 14) * -(-blocks // 32767)
    bits += "1" * (-len(bits) % 8)
    data = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    scan = b"\xff\xda" + struct.pack(">HBBBBBB", 8, 1, 1, 0, 1, 63, 0) + data
    quantization = b"\xff\xdb" + struct.pack(">HB", 67, 0) + bytes([1] * 64)
    return b"\xff\xd8" + quantization + frame + tables + first + scan * scans + b"\xff\xd9"


EXIF_BOMB = b"MM\0*\0\0\0\x08\xff\xff" + b"".join(struct.pack(">HHII", i, 7, 700_000, 8) for i in range(65535))
SMALL = encoded(picture(), "JPEG")
ROWS = bytes(64 * (3 * 64 + 1))


def exif_segments(exif: bytes) -> bytes:
    parts = [exif[i : i + 65_000] for i in range(0, len(exif), 65_000)]
    return b"".join(b"\xff\xe1" + struct.pack(">H", len(part) + 8) + b"Exif\0\0" + part for part in parts)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: scan_bomb(2000), f"expected a JPEG of at most {MAX_SCANS} scans, got more; save the picture anew"),
        (lambda: scan_bomb(MAX_SCANS - 1), "(8000, 8000)"),
        (lambda: b"\xff\xd8" + b"\xff\xe1\0\2" * 10_000_000, "expected a JPEG of at most 20000 segments"),
        (lambda: b"\xff\xd8\xff" + b"\xd0\xff" * 20_000_000, "expected a JPEG of at most 20000 segments"),
        (lambda: b"\xff\xd8" + b"\xff" * 60_000_000, "damaged or cut off JPEG"),
        (lambda: SMALL[:2] + exif_segments(EXIF_BOMB) * 20 + SMALL[2:], str(SIZE)),
        (lambda: SMALL[:2] + exif_segments(b"Exif\0\0" * 3_000_000) + SMALL[2:], str(SIZE)),
        (lambda: png(64, 64, ROWS, extra=chunk(b"eXIf", EXIF_BOMB)), "(64, 64)"),
        (lambda: png(64, 64, ROWS, extra=chunk(b"tEXt", b"") * 4_000_000), "expected a PNG of at most 100000 chunks"),
        (lambda: png(64, 64, ROWS, extra=chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(50_000_000)))), "damaged or cut off PNG"),
    ],
    ids=["2000 scans", "63 scans", "segments", "markers", "fill bytes", "EXIF", "EXIF prefixes", "eXIf", "chunks", "profile"],
)  # fmt: skip
def test_picture_that_keeps_decoders_busy_ends_soon(make, said):
    content = make()
    start = time.process_time()
    try:
        outcome = str(open_photo(content).size)
    except PhotoError as error:
        outcome = str(error)
    assert said in outcome
    assert time.process_time() - start < 8  # CPU time: the slowest takes a second, what is refused took up to hours
