"""Cards of the hub, by huggingface_hub's own classes: front matter, and a gallery of pictures with their prompts."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lorasynth.errors import UsageError
from lorasynth.storage.files import png, write_bytes
from lorasynth.storage.hub import Kind
from lorasynth.storage.outputs import make_folder
from lorasynth.storage.reading import read_bytes

if TYPE_CHECKING:
    from huggingface_hub import CardData
    from PIL.Image import Image

CARD, PICTURES = "README.md", "images"
MAX_PICTURES, MAX_PICTURE_MB = 32, 8
_GALLERY = re.compile(r"\n*(<Gallery />|!\[[^\]\n]*\]\(images/\d+\.png\))(?=\n|$)")


def front_matter(data: "CardData") -> str:
    """The YAML block that a card begins with."""
    return f"---\n{data.to_yaml()}\n---\n"


def one_line(name: str, text: str) -> str:
    """A text of a card that is one line.

    Raises:
        UsageError: it is empty, or holds what cannot be printed.
    """
    if not text.strip() or not text.isprintable():
        raise UsageError(f"expected a {name} of one line, got {text!r:.80}; give its words")
    return text


def with_gallery(card: str, prompts: Sequence[str], kind: Kind) -> str:
    """The card with the pictures ``images/1.png``, ``images/2.png``, … under its title, in place of those that it had.

    A model's are the hub's widget, each under its prompt. A data set's card has none, so its text shows them.

    Args:
        card: Markdown with front matter.
        prompts: of the pictures, in their order; none takes the gallery away.
        kind: of the repository.

    Raises:
        UsageError: the card's front matter is no YAML, or a prompt is not one line.
    """
    from huggingface_hub import DatasetCard, ModelCard
    from yaml import YAMLError

    try:
        parsed = (ModelCard if kind == "model" else DatasetCard)(card)
    except (YAMLError, ValueError):
        raise UsageError(f"{CARD}: expected front matter in YAML between two lines ---; mend it") from None
    files = {f"{PICTURES}/{number}.png": one_line("prompt", text) for number, text in enumerate(prompts, 1)}
    if kind == "model":
        parsed.data["widget"] = [{"text": text, "output": {"url": file}} for file, text in files.items()] or None
        shown = "<Gallery />" if files else ""
    else:
        shown = "\n".join(f"![{re.sub(r'[][]', '', text)}]({file})" for file, text in files.items())
    body = without_gallery(parsed.text)
    title = re.search(r"^# .*$", body, re.MULTILINE)
    at = title.end() if title else 0
    parsed.text = body[:at] + (f"\n\n{shown}" if shown else "") + body[at:]
    return f"{front_matter(parsed.data)}{parsed.text}"


def without_gallery(card: str) -> str:
    """The card's text without the pictures that it shows."""
    return _GALLERY.sub("", card)


def write_pictures(folder: Path, pictures: "Sequence[Image]") -> list[str]:
    """Write the pictures of a gallery as PNG, and say their names in the folder."""
    names = [f"{PICTURES}/{number}.png" for number in range(1, len(pictures) + 1)]
    if names:
        make_folder(folder / PICTURES)
    for name, picture in zip(names, pictures, strict=True):
        write_bytes(folder / name, png(picture))
    return names


def write_gallery(
    folder: Path, card: str, pictures: "Sequence[Image]", prompts: Sequence[str], kind: Kind
) -> list[str]:
    """Write a card with its gallery into its folder, the pictures first, and say the names of these. See `with_gallery`."""
    text = with_gallery(card, prompts, kind)
    names = write_pictures(folder, pictures)
    write_bytes(folder / CARD, text.encode())
    return names


def read_pictures(folder: Path, card: str) -> dict[str, bytes]:
    """The pictures that a folder's card shows, by their names in the folder. One that is not there is left out.

    Raises:
        ModelError: one is no regular file, or larger than 8 MB.
    """
    named = sorted(set(re.findall(rf"\b{PICTURES}/\d{{1,3}}\.png\b", card)))[:MAX_PICTURES]
    return {name: read_bytes(folder / name, MAX_PICTURE_MB) for name in named if (folder / name).exists()}
