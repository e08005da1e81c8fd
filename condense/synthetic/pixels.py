"""Images kept to what a file can show."""

import torch
from torch import Tensor

from condense.data.preprocess import Preprocessing


def clamp_to_pixels(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Preprocessed images [n, ch, h, w] whose pixels are clamped to [0, 1]; the others keep their bits.

    Mean and std keep channels apart, so each has its bounds. Whitening mixes pixels: they are computed, clamped,
    and the change is whitened and added.
    """
    if preprocessing.kind == "mean_std":
        ends = torch.stack([torch.zeros_like(images[0]), torch.ones_like(images[0])])
        black, white = preprocessing(ends)
        return images.clamp(black, white)
    pixels = preprocessing.inverse(images)
    return images + (preprocessing(pixels.clamp(0, 1)) - preprocessing(pixels))
