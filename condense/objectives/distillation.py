"""What a student learns from its teachers' labels, which may have been stored.

z [b, classes] are the student's logits on a batch of views; y are the labels of the images and y' those of the images
mixed into them, int64 [b] or probabilities [b, classes]; s in [0, 1] is the part that the image itself has in its view.
All losses are means over the batch.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def mixed_cross_entropy(z: Tensor, y: Tensor, partner: Tensor, share: float) -> Tensor:
    """s CE(z, y) + (1 - s) CE(z, y'), 0-dimensional; `partner` is y', `share` is s."""
    return share * F.cross_entropy(z, y) + (1 - share) * F.cross_entropy(z, partner)


def divergence(z: Tensor, q: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(q / T) || softmax(z / T)), for the logits q [b, classes] of a teacher; 0-dimensional.

    Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015, arXiv 1503.02531: with T^2 the
    gradient has the same size at every T. SRe2L and those after it leave it out, which AdamW does not notice.
    """
    student, teacher = (F.log_softmax(logits / temperature, 1) for logits in (z, q))
    return temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def logit_loss(
    z: Tensor, q: Tensor, y: Tensor, partner: Tensor, share: float, *, temperature: float, weight: float
) -> Tensor:
    """w `divergence`(z, q) + (1 - w) `mixed_cross_entropy`(z, y, y'), with the weight w in [0, 1] of the teacher.

    SRe2L (Yin, Xing and Shen, NeurIPS 2023, arXiv 2306.13092) and those after it have w = 1.
    """
    hard = mixed_cross_entropy(z, y, partner, share)
    return weight * divergence(z, q, temperature) + (1 - weight) * hard


def distances(z: Tensor, y: Tensor, partner: Tensor) -> Tensor:
    """(CE(z, y), CE(z, y')) of each image, [b, 2]: how far logits are from each of the two labels of a view."""
    return torch.stack([F.cross_entropy(z, label, reduction="none") for label in (y, partner)], 1)


def distance_loss(z: Tensor, d: Tensor, y: Tensor, partner: Tensor, share: float, *, weight: float) -> Tensor:
    """`mixed_cross_entropy`(z, y, y') + w mean_i(|d_i1(z) - d_i1| + |d_i2(z) - d_i2|), for a teacher's `distances` d.

    DBR of NRR-DD: Tran et al., "Enhancing Dataset Distillation via Non-Critical Region Refinement", CVPR 2025, arXiv
    2503.18267. Two numbers for a view, however many the classes.
    """
    apart = (distances(z, y, partner) - d).abs().sum(1).mean()
    return mixed_cross_entropy(z, y, partner, share) + weight * apart
