"""The augmentation with which DC trains networks on MNIST: one of crop, scale and rotate for each image.

Zhao, Mopuri and Bilen, "Dataset Condensation with Gradient Matching", 2021, arXiv 2006.05929, as its code does it.
Used in evaluation only, to compare with DC's published numbers; elsewhere `DSA` is the better choice. The operators act
in the preprocessed space on square images x [n, ch, s, s] with u [n, 2], uniform on [0, 1), and the mean m
[1, ch, 1, 1] of each channel over the batch.
"""

import torch
from torch import Tensor

PAD = 4  # largest shift of a crop, in pixels
SCALE = 0.2  # sides are scaled by 1 - SCALE to 1 + SCALE
ROTATE = 45  # largest angle, in degrees


def _take(x: Tensor, rows: Tensor, columns: Tensor, inside: Tensor, fill: Tensor) -> Tensor:
    """x[rows[i], columns[j]] of each image, `fill` where not inside; rows, columns [n, s], inside [n, 1, s, s]."""
    x = x.gather(2, rows.clamp(0, x.shape[2] - 1)[:, None, :, None].expand_as(x))
    x = x.gather(3, columns.clamp(0, x.shape[3] - 1)[:, None, None, :].expand_as(x))
    return torch.where(inside, x, fill)


def crop(x: Tensor, u: Tensor, m: Tensor) -> Tensor:
    """out[i, j] = x[i + a, j + b], m outside; a, b uniform on -4..3 (4 is never drawn in the published code either)."""
    side = x.shape[2]
    places = torch.arange(side, device=x.device) + torch.floor(u * 2 * PAD).long()[..., None] - PAD  # [n, 2, s]
    inside = (places >= 0) & (places < side)
    return _take(x, places[:, 0], places[:, 1], inside[:, 0, :, None].logical_and(inside[:, 1, None])[:, None], m)


def scale(x: Tensor, u: Tensor, m: Tensor) -> Tensor:
    """Resize to h x w by the nearest pixel, centre on zeros of side max(h, w, s), cut the centre s x s out.

    h, w = floor(s U(0.8, 1.2)), independent.
    """
    side = x.shape[2]
    new = torch.floor(side * (1 - SCALE + 2 * SCALE * u)).long()[..., None]  # [n, 2, 1]
    canvas = new.amax(1, keepdim=True).clamp(min=side)
    places = torch.arange(side, device=x.device) + (canvas - side) // 2 - (canvas - new) // 2
    inside = (places >= 0) & (places < new)
    places = places * side // new
    inside = inside[:, 0, :, None].logical_and(inside[:, 1, None])[:, None]
    return _take(x, places[:, 0], places[:, 1], inside, torch.zeros_like(m))


def rotate(x: Tensor, u: Tensor, m: Tensor) -> Tensor:
    """Turn by a whole angle of -45..44 degrees, interpolate by cubic splines, fill with the mean of m.

    The published code enlarges the canvas to side t = floor(s (|cos| + |sin|) + 1/2) and cuts s x s out of it from
    (t - s) // 2 on: half a pixel off the centre where t - s is odd.
    """
    n, channels, side, _ = x.shape
    angle = torch.deg2rad(torch.floor(u[:, 0] * 2 * ROTATE).to(x.dtype) - ROTATE)[:, None, None]
    cos, sin = angle.cos(), angle.sin()
    enlarged = torch.floor(side * (cos + sin.abs()) + 0.5)
    middle, pixels = (side - 1) / 2, torch.arange(side, dtype=x.dtype, device=x.device)
    place = pixels - middle - 0.5 * torch.remainder(enlarged - side, 2)  # [n, 1, s], from the centre of rotation
    down, right = place.mT, place
    rows = (cos * down + sin * right + middle).flatten(1)  # [n, s s], where each pixel comes from
    columns = (cos * right - sin * down + middle).flatten(1)
    knots = torch.linalg.inv(_splines(pixels, side))
    by_rows, by_columns = _splines(rows, side) @ knots, _splines(columns, side) @ knots
    turned = torch.einsum("npk,nckl,npl->ncp", by_rows, x, by_columns)
    inside = (rows >= 0) & (rows <= side - 1) & (columns >= 0) & (columns <= side - 1)
    return torch.where(inside[:, None], turned, m.mean()).view(n, channels, side, side)


def _splines(t: Tensor, side: int) -> Tensor:
    """[..., k]: the cubic B-spline of knot k = 0..side-1 at t, with the knots mirrored at both ends."""
    k = torch.arange(side, dtype=t.dtype, device=t.device)
    t = t[..., None]
    return _spline(t - k) + _spline(t + k) * (k > 0) + _spline(t + k - 2 * (side - 1)) * (k < side - 1)


def _spline(t: Tensor) -> Tensor:
    """2/3 - t² + |t|³/2 for |t| < 1, (2 - |t|)³/6 for |t| in [1, 2), else 0."""
    t = t.abs()
    return torch.where(t < 1, 2 / 3 - t**2 + t**3 / 2, (2 - t).clamp(min=0) ** 3 / 6)


def crop_scale_rotate(x: Tensor, generator: torch.Generator) -> Tensor:
    """Draw one operator and its parameters for each image of the batch, and apply them."""
    operation = torch.randint(3, (x.shape[0],), generator=generator)
    u = torch.rand(x.shape[0], 2, generator=generator)
    m = x.mean((0, 2, 3), keepdim=True)
    out = torch.empty_like(x)
    for k, function in enumerate((crop, scale, rotate)):
        chosen = (operation == k).nonzero().flatten()
        on_device = chosen.to(x.device)
        out[on_device] = function(x[on_device], u[chosen].to(x.device), m)
    return out
