"""A small picture of a distilled set for a page."""

from base64 import b64encode
from io import BytesIO

from PIL import Image

from condense.artifact import Artifact
from condense.artifact.preview import to_picture
from condense.artifact.tensors import class_of_stored

CLASSES, IMAGES = 10, 3
"""At most so many classes, a column each, and images of each."""
GAP = 1
LARGEST = 64
"""Pixels of an image's side; larger ones are reduced."""


def picture(artifact: Artifact) -> tuple[str, int, int]:
    """A PNG as a data URI, with its width and height: a column per class, each stored pixel one pixel of the picture.

    The gaps are transparent, so that the paper shows.
    """
    images = artifact.stored.images
    labels = class_of_stored(images, artifact.stored.labels)
    pixels = artifact.preprocessing.inverse(images).clamp(0, 1)
    columns = [(labels == c).nonzero().flatten().tolist()[:IMAGES] for c in range(min(len(artifact.classes), CLASSES))]
    height, width = (min(side, LARGEST) for side in images.shape[2:])
    rows = max(map(len, columns))
    sheet = Image.new("RGBA", (len(columns) * (width + GAP) - GAP, rows * (height + GAP) - GAP))
    for column, members in enumerate(columns):
        for row, index in enumerate(members):
            tile = to_picture(pixels[index])
            if tile.size != (width, height):
                tile = tile.resize((width, height), Image.Resampling.LANCZOS)
            sheet.paste(tile, (column * (width + GAP), row * (height + GAP)))
    buffer = BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{b64encode(buffer.getvalue()).decode()}", *sheet.size
