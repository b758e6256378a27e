"""Pictures on a sheet with words: what a person looks at."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from PIL import Image, ImageDraw
from torch import Tensor

from lorasynth.encoders.images import to_image


def sheet(
    rows: Sequence[Float[Tensor, "_ 3 H W"]],
    row_titles: Sequence[str],
    column_titles: Sequence[str] = (),
    *,
    zoom: int = 2,
    margin: int = 96,
) -> Image.Image:
    """Rows of pictures with a title at the left of each row and above each column, enlarged ``zoom`` times."""
    size = rows[0].shape[-1] * zoom
    columns = max(len(r) for r in rows)
    top = 4 + 16 * max((title.count("\n") + 1 for title in column_titles), default=0)
    image = Image.new("RGB", (margin + columns * (size + 4), top + len(rows) * (size + 4)), "white")
    draw = ImageDraw.Draw(image)
    for j, title in enumerate(column_titles):
        draw.multiline_text((margin + j * (size + 4) + 4, 2), title, fill="black")
    for i, (row, title) in enumerate(zip(rows, row_titles, strict=True)):
        draw.multiline_text((4, top + i * (size + 4) + size // 3), title, fill="black")
        for j, picture in enumerate(row):
            tile = to_image(torch.as_tensor(picture)).resize((size, size), Image.Resampling.BICUBIC)
            image.paste(tile, (margin + j * (size + 4), top + i * (size + 4)))
    return image
