"""The gradient penalty that makes AST's experts smooth.

Shen, Yang and Lam, 2023, arXiv 2310.10541, in the form of Gulrajani et al., 2017, arXiv 1704.00028, eq. (3). With J
[b, ch, h, w] = d/dx of the sum of all logits, and r [b] its norm over each image,

    P(theta) = mean of (r - 1)^2

(The released code takes the norm over the channels alone, at each place of an image, which wants a derivative of 1
at every pixel and makes networks steeper instead of smoother.)

With u = dP/dJ held fixed, dP/dtheta is the derivative of <J, u>, which is a directional derivative of the sum of the
logits along the images: it is evaluated forward, and one ordinary backward pass gives the gradient (reverse over
forward), as for inner losses.
"""

import torch
from torch import Tensor
from torch.func import jvp

from condense.networks import Network

EPSILON = 1e-12


def penalty(jacobian: Tensor) -> Tensor:
    """P for J [b, ch, h, w]; 0-dimensional."""
    return (jacobian.square().sum((1, 2, 3)).clamp(min=EPSILON).sqrt() - 1).square().mean()


def penalty_gradient(network: Network, theta: Tensor, x: Tensor) -> Tensor:
    """dP/dtheta [P] for images x [b, ch, h, w], not augmented. Gives no graph; the network's `micro_batch` splits x."""
    gradient = torch.zeros_like(theta)
    for part in x.split(network.micro_batch or len(x)):
        gradient += len(part) / len(x) * _gradient(network, theta, part)
    return gradient


def _gradient(network: Network, theta: Tensor, x: Tensor) -> Tensor:
    with torch.enable_grad():
        images = x.detach().requires_grad_()
        (J,) = torch.autograd.grad(network.logits(theta.detach(), images).sum(), images)
        J = J.detach().requires_grad_()
        (u,) = torch.autograd.grad(penalty(J), J)
        point = theta.detach().requires_grad_()
        along = jvp(lambda images: network.logits(point, images).sum(), (x.detach(),), (u,))[1]
        (gradient,) = torch.autograd.grad(along, point)
    return gradient
