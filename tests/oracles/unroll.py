"""An inner training run in numpy, and derivatives of any function without reverse mode."""

import numpy as np

TINY = 1e-30


def train(gradient, theta, images, labels, lr, steps, momentum):
    """theta_N of heavy-ball SGD; a step is (rows, mask), and trains on images[rows] * mask."""
    velocity = np.zeros_like(theta)
    for rows, mask in steps:
        velocity = momentum * velocity + gradient(theta, images[rows] * mask, labels[rows])
        theta = theta - lr * velocity
    return theta


def two_layer_loss_gradient(theta, x, y):
    """d/dtheta of the mean cross-entropy of tanh(x W + b) V + c against the probabilities y, by hand.

    theta joins W [d, h], b [h], V [h, k] and c [k], with d and k given by x [n, d] and y [n, k].
    """
    (n, d), k = x.shape, y.shape[1]
    h = (len(theta) - k) // (d + 1 + k)
    W, b, V, c = np.split(theta, np.cumsum([d * h, h, h * k]))
    W, V = W.reshape(d, h), V.reshape(h, k)
    hidden = np.tanh(x @ W + b)
    z = hidden @ V + c
    p = np.exp(z - z.real.max())
    p = p / p.sum(1, keepdims=True)
    dz = (p * y.sum(1, keepdims=True) - y) / n
    dh = (dz @ V.T) * (1 - hidden**2)
    return np.concatenate([(x.T @ dh).ravel(), dh.sum(0), (hidden.T @ dz).ravel(), dz.sum(0)])


def least_squares_gradient(theta, x, y):
    """d/dtheta of |x theta - y|^2 / 2n."""
    return x.T @ (x @ theta - y) / len(x)


def complex_step(function, at):
    """The gradient of an analytic function, entry by entry, as Im f(at + i tiny) / tiny: no difference, so exact."""
    at = np.asarray(at, dtype=complex)
    out = np.empty(at.shape)
    for place in np.ndindex(at.shape):
        moved = at.copy()
        moved[place] += 1j * TINY
        out[place] = function(moved).imag / TINY
    return out


def central_difference(function, step):
    """f'(0) by the five-point rule: its error is step^4 / 30 times the fifth derivative."""
    near, far = (function(k * step) - function(-k * step) for k in (1, 2))
    return (8 * near - far) / (12 * step)
