"""How hard images are for a network in training: what subsets are chosen by. High is hard.

z [n, classes] are the network's logits on n images, y int64 [n] their labels.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def error_norm(z: Tensor, y: Tensor) -> Tensor:
    """|softmax(z) - onehot(y)|, [n], from 0 to sqrt(2). EL2N is its mean over networks early in training.

    Paul, Ganguli and Dziugaite, "Deep Learning on a Data Diet", 2021, arXiv 2107.07075.
    """
    norms: Tensor = (z.softmax(1) - F.one_hot(y, z.shape[1])).norm(dim=1)
    return norms


def gradient_norm(z: Tensor, h: Tensor, y: Tensor) -> Tensor:
    """|softmax(z) - onehot(y)| sqrt(1 + |h|^2), [n]. GraNd is its mean over networks early in training.

    With p = softmax(z) it is the norm of the gradient of each image's cross-entropy by the last layer, z = W h + b of
    the features h [n, d]: p - onehot(y) by b, and its outer product with h by W. The paper (Paul, Ganguli and
    Dziugaite, 2021, arXiv 2107.07075) has the gradient by all parameters. This is what DeepCore computes (Guo, Zhao and
    Bai, 2022, arXiv 2204.08499), but of each image alone, where that divides by the size of the batch.
    """
    return error_norm(z, y) * (1 + h.square().sum(1)).sqrt()


def forgetting_events(correct: Tensor) -> Tensor:
    """How often an image that was classified right was wrong the next time, float [n]; infinite if it was never right.

    `correct` is bool [T, n], one row for each time that the images were presented, in order.

    Toneva et al., "An Empirical Study of Example Forgetting during Deep Neural Network Learning", ICLR 2019, arXiv
    1812.05159.
    """
    events = (correct[:-1] & ~correct[1:]).sum(0).to(torch.get_default_dtype())
    return torch.where(correct.any(0), events, torch.inf)
