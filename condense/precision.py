"""What bfloat16 does to the gradient of a run, before the run begins."""

import logging
from dataclasses import replace

from torch import Tensor
from torch.nn import functional as F

from condense.methods import ALONE, Condenser, Problem
from condense.networks import Network
from condense.synthetic import State

logger = logging.getLogger("condense")

LOW = 0.99
"""A cosine below this is a warning."""


def report_precision(condenser: Condenser, problem: Problem) -> float | None:
    """Log `precision_cosine`, if there is one, and return it."""
    cosine = precision_cosine(condenser, problem)
    if cosine is None:
        return None
    words = (
        f"{problem.network.precision}: the cosine of the first change of the images with that in fp32 is {cosine:.5f}"
    )
    if cosine < LOW:
        logger.warning(f"{words}, below {LOW}: fp32 may give a better set")
    else:
        logger.info(words)
    return cosine


def precision_cosine(condenser: Condenser, problem: Problem) -> float | None:
    """The cosine of the first change of the images in the run's precision with that in float32, from one start.

    None if there is nothing to compare, because one of them is no change, as above the threshold of `datm`.
    """
    network = problem.network
    exact = Network(
        network.name,
        channels=network.channels,
        size=network.size,
        classes=network.classes,
        device=network.device,
        micro_batch=network.micro_batch,
    )
    start = condenser.init(replace(problem, network=exact))
    ours, theirs = (
        _first_change(condenser, replace(problem, network=used, work=ALONE), start) for used in (network, exact)
    )
    if not (ours.any() and theirs.any()):
        return None
    return float(F.cosine_similarity(ours.flatten(), theirs.flatten(), dim=0))


def _first_change(condenser: Condenser, problem: Problem, start: State) -> Tensor:
    state = {key: tensor.clone() for key, tensor in start.items()}
    condenser.step(state, problem, 0)
    return state["images"] - start["images"]
