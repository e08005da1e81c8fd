"""DSA's operators on one image [ch, h, w] with its three numbers u, pixel by pixel (arXiv 2102.08259)."""

import math

import numpy as np


def color(image, u):
    """Brightness, saturation, contrast, in this order."""
    out = image + (u[0] - 0.5) * 1.0
    grey = sum(out) / len(out)
    out = np.stack([grey + 2.0 * u[1] * (channel - grey) for channel in out])
    mean = out.sum() / out.size
    return mean + (u[2] + 0.5) * (out - mean)


def crop(image, u):
    """Shift by whole pixels, at most an eighth of the side rounded half up; zeros come in."""
    channels, height, width = image.shape
    most_down, most_right = math.floor(height / 8 + 0.5), math.floor(width / 8 + 0.5)
    a = -most_down + math.floor(u[0] * (2 * most_down + 1))
    b = -most_right + math.floor(u[1] * (2 * most_right + 1))
    out = np.zeros_like(image)
    for c in range(channels):
        for i in range(height):
            for j in range(width):
                if 0 <= i + a < height and 0 <= j + b < width:
                    out[c, i, j] = image[c, i + a, j + b]
    return out


def cutout(image, u):
    """A square of half the side (rounded half up) set to zero around a centre, cut by the border."""
    out = image.copy()
    places = []
    for k, side in enumerate(image.shape[1:]):
        length = math.floor(side / 2 + 0.5)
        centres = list(range(side + 1)) if length % 2 == 0 else list(range(side))
        centre = centres[math.floor(u[k] * len(centres))]
        covered = [centre - length // 2 + step for step in range(length)]
        places.append([min(max(place, 0), side - 1) for place in covered])
    for i in places[0]:
        for j in places[1]:
            out[:, i, j] = 0
    return out


def flip(image, u):
    return image[:, :, ::-1] if u[0] < 0.5 else image


def scale(image, u):
    lowest, highest = 1 / 1.2, 1.2
    return _sample(image, [[lowest + u[0] * (highest - lowest), 0], [0, lowest + u[1] * (highest - lowest)]])


def rotate(image, u):
    angle = math.radians(-15 + 30 * u[0])
    return _sample(image, [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def _sample(image, matrix):
    """out(p) = image(matrix p), p = (right, down) with -1 and 1 at the centres of the outermost pixels."""
    _, height, width = image.shape
    out = np.zeros_like(image)
    for i in range(height):
        for j in range(width):
            right, down = np.array(matrix) @ [2 * j / (width - 1) - 1, 2 * i / (height - 1) - 1]
            out[:, i, j] = _bilinear(image, (down + 1) / 2 * (height - 1), (right + 1) / 2 * (width - 1))
    return out


def _bilinear(image, row, column):
    """The four neighbours, each with the area that the others leave it; a neighbour outside is zero."""
    value = np.zeros(len(image))
    top, left = math.floor(row), math.floor(column)
    for i in (top, top + 1):
        for j in (left, left + 1):
            if 0 <= i < image.shape[1] and 0 <= j < image.shape[2]:
                value += (1 - abs(row - i)) * (1 - abs(column - j)) * image[:, i, j]
    return value


OPERATIONS = {"color": color, "crop": crop, "cutout": cutout, "flip": flip, "scale": scale, "rotate": rotate}
