"""What one unit of work takes: the code that `condense run` runs, on random data of CIFAR-10's shape.

    python benchmarks/steps.py trajectory --steps 10 --batch 100     one MTT iteration: the exact gradient
    python benchmarks/steps.py tesla --steps 10 --batch 100          one TESLA iteration: its approximate gradient
    python benchmarks/steps.py dm                                    one DM iteration, 256 real images per class
    python benchmarks/steps.py gm                                    one DC iteration, likewise
    python benchmarks/steps.py expert --images 2560                  one epoch of an expert, batches of 256
    python benchmarks/steps.py eval --epochs 20                      one evaluation network on 100 synthetic images

Each prints `WHAT seconds X peak_mb Y`: the least of --repeats, after a first unit that is not timed, and the peak
of the resident memory of the process.
"""

import argparse
import resource
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch

from condense.allocator import tune_allocator
from condense.augment import DSA
from condense.data import Preprocessing, RealData, Split
from condense.evaluation import TrainingSet, load_protocol
from condense.evaluation.augmentation import augmentation
from condense.evaluation.fresh import compiled_network
from condense.evaluation.train import train_network
from condense.experts import ExpertPlan
from condense.experts.train import train_expert
from condense.methods import METHODS, Problem
from condense.networks import CompiledNetwork, Network, Precision, create
from condense.synthetic import hard_labels

CLASSES = 10


class RandomExperts:
    """Stands in for a trajectory store: two nearby points."""

    def __init__(self, network: Network) -> None:
        self.theta = network.init(0, "benchmark")

    def snapshot(self, expert: int, epoch: int) -> torch.Tensor:  # noqa: ARG002 (the store's signature)
        return self.theta + 0.01 * epoch


def random_problem(
    spec: str,
    per_class: int,
    ipc: int,
    *,
    classes: int = CLASSES,
    size: int = 32,
    compiled: bool = True,
    precision: Precision = "fp32",
) -> Problem:
    """A data set of random images, without augmentation, and experts for it."""
    draws = torch.Generator().manual_seed(0)
    images = torch.randint(256, (classes * per_class, 3, size, size), generator=draws, dtype=torch.uint8)
    split = Split(images, hard_labels(classes, per_class, images.device))
    names = tuple(str(c) for c in range(classes))
    shape = {"channels": 3, "size": size, "classes": classes}
    network = CompiledNetwork(spec, precision=precision, **shape) if compiled else Network(spec, **shape)
    return Problem(
        data=RealData("random", split, split, split, names, "0" * 64, "random", mirrored=True),
        preprocessing=Preprocessing("mean_std", {"mean": torch.full((3,), 0.5), "std": torch.full((3,), 0.25)}),
        network=network,
        augmentation=DSA("none"),
        ipc=ipc,
        seed=0,
        experts=RandomExperts(network),  # type: ignore[arg-type]
    )


def iterations(method: str, setting: Problem, **keys: object) -> Callable[[], object]:
    """One iteration of a method after another."""
    condenser = METHODS[method](METHODS[method].Config.model_validate(keys))
    state, numbers = condenser.init(setting), iter(range(10**6))
    return lambda: condenser.step(state, setting, next(numbers))


def unit(given: argparse.Namespace) -> Callable[[], object]:
    spec = f"convnet:width={given.width}"
    problem = partial(random_problem, spec, precision=given.precision)
    match given.what:
        case "trajectory" | "tesla":
            ipc = given.batch // given.classes
            setting = problem(ipc, ipc, classes=given.classes, size=given.size)
            method, unroll = ("mtt", given.unroll) if given.what == "trajectory" else ("tesla", "tesla")
            return iterations(method, setting, syn_steps=given.steps, num_experts=1, unroll=unroll)
        case "dm":
            return iterations("dm", problem(256, 10))
        case "gm":
            return iterations("dc", problem(256, 10), outer_loop=1)
        case "expert":
            setting = problem(given.images // CLASSES, 10)
            plan = ExpertPlan(epochs=1, lr=0.01, batch=256, momentum=0.9, dsa="none")
            labels = setting.data.train.labels
            return lambda: list(train_expert(setting.network, setting.inputs, labels, plan, seed=0, index=0))
    assert given.what == "eval"
    setting = problem(10, 10)
    training = TrainingSet(setting.inputs[torch.arange(100)], setting.data.train.labels)
    protocol = load_protocol("dc300")
    compiled = compiled_network(spec, training, CLASSES, protocol, setting.device)  # for all of its 300 epochs it is
    protocol = replace(protocol, epochs=given.epochs)
    _, augment = augmentation(protocol, "none")

    def one() -> object:
        model = create(spec, channels=3, size=32, classes=CLASSES)
        return train_network(model, training, protocol, lr=0.01, augment=augment, seed=0, index=0, compiled=compiled)

    return one


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["trajectory", "tesla", "dm", "gm", "expert", "eval"])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--classes", type=int, default=CLASSES, help="of the trajectory, as --size is")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--images", type=int, default=2560)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--unroll", default="adjoint")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    given = parser.parse_args()
    tune_allocator()
    work = unit(given)
    work()
    times = []
    for _ in range(given.repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{given.what} seconds {min(times):.3f} peak_mb {peak:.0f}")


if __name__ == "__main__":
    main()
