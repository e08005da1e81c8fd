"""Loading libraries that change the process when they are loaded."""

import os
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np


@contextmanager
def undisturbed() -> Iterator[None]:
    """For imports: put back what they change beside, which is the user's.

    That is the environment, the warnings filters, and the global random states of Python and numpy.
    """
    environment, drawn, drawn_by_numpy = dict(os.environ), random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with warnings.catch_warnings():
            yield
    finally:
        random.setstate(drawn)
        np.random.set_state(drawn_by_numpy)  # noqa: NPY002
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)


def load_lazy_torch() -> None:
    """What torch loads at the first derivative and the first tensor without memory."""
    with undisturbed():
        import torch._dynamo
        import torch.fx.experimental.symbolic_shapes  # noqa: F401
