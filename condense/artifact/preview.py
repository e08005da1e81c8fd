"""The picture of a distilled set that a person looks at."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import matplotlib
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

ROWS, COLUMNS = 20, 10  # at most this many classes, and images of each
TILE, LARGEST_TILE = 64, 128  # pixels: smaller images are enlarged by a whole factor to about TILE
GAP, MARGIN = 4, 20
INK, FAINT, PAPER = (32, 32, 32), (110, 110, 110), (240, 240, 240)
NAME_LENGTH = 24  # characters


def to_picture(pixels: Tensor) -> Image.Image:
    """One image [ch, h, w] in 0..1 as 8 bit: RGB for 3 channels, grey for 1; grey mean of the channels otherwise."""
    if pixels.shape[0] != 3:
        pixels = pixels.mean(0, keepdim=True)
    levels = (pixels * 255).round().byte().permute(1, 2, 0).numpy()
    return Image.fromarray(levels.squeeze(2) if levels.shape[2] == 1 else levels)


def draw_preview(
    pixels: Tensor, classes_of: Tensor, classes: Sequence[str], *, title: str, compensators: Tensor | None = None
) -> bytes:
    """PNG with a row of images per class, its name in front. What is left out is said below the picture.

    `pixels` [n, ch, h, w] in 0..1, `classes_of` the class index of each image [n]. `compensators` [m, ch, h, w], in
    0..1 too, get a last row.
    """
    rows = [(classes_of == index).nonzero().flatten().tolist() for index in range(len(classes))]
    most, added = max(map(len, rows)), 0 if compensators is None else len(compensators)
    shown, columns = rows[:ROWS], min(max(most, added), COLUMNS)
    names = [name if len(name) <= NAME_LENGTH else name[: NAME_LENGTH - 1] + "…" for name in classes[:ROWS]]
    notes = [f"{columns} of {most} images per class"] if most > columns else []
    notes += [f"{columns} of {added} compensators"] if added > columns else []
    notes += [f"the first {len(shown)} of {len(rows)} classes"] if len(rows) > len(shown) else []
    notes += [f"mean of {pixels.shape[1]} channels"] if pixels.shape[1] not in (1, 3) else []
    if compensators is not None:
        shown, names = [*shown, list(range(len(pixels), len(pixels) + added))], [*names, "compensators"]
        pixels = torch.cat([pixels, compensators])

    width, height = _tile(to_picture(pixels[0])).size
    font, large = _font(15), _font(18)
    footer = "Shown: " + ", ".join(notes) if notes else ""
    left = MARGIN + round(max(map(font.getlength, names))) + 3 * GAP
    top = MARGIN + 32
    content = max(left + columns * (width + GAP), MARGIN + round(max(large.getlength(title), font.getlength(footer))))
    bottom = top + len(shown) * (height + GAP)
    sheet = Image.new("RGB", (content + MARGIN, bottom + (28 if footer else 0) + MARGIN), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, MARGIN), title, INK, large)
    pen.text((MARGIN, bottom + 8), footer, FAINT, font)
    for row, (name, indices) in enumerate(zip(names, shown, strict=True)):
        y = top + row * (height + GAP)
        pen.text((left - 3 * GAP, y + height // 2), name, INK, font, anchor="rm")
        for column, index in enumerate(indices[:columns]):
            sheet.paste(_tile(to_picture(pixels[index])), (left + column * (width + GAP), y))
    buffer = BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _tile(picture: Image.Image) -> Image.Image:
    """Whole-number enlargement of small images, so that each pixel stays a square; reduction of very large ones."""
    side = max(picture.size)
    if side > LARGEST_TILE:
        factor = LARGEST_TILE / side
        size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
        return picture.resize(size, Image.Resampling.LANCZOS)
    factor = max(1, round(TILE / side))
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans as matplotlib ships it: the same on every machine, with letters for most languages."""
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)
