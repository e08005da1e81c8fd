"""What a run will take: disk, memory and time, from its configuration, without training anything.

With P parameters, S snapshots of an expert, b bytes for a stored parameter, n distilled images and D numbers in an
image:

    disk     buffer       (experts to train) S P b
             checkpoints  2 (3 * 4 n D + 4 s): the last two of images, momentum and moving average, and of the s
                          numbers that the method keeps besides
             artifact     4 n D, and 8 D^2 for the whitening matrix and its inverse
    memory   data         the splits as loaded, and 4 D for each whitened training image
             buffer       (experts) S P b on an accelerator; on the CPU it is mapped from disk
             state        4 s
             work         the largest of 4 P (vectors) + A (graphs) over all phases
    time     (passes) T, added up over the phases

A pass is the network forward and backward on a batch. Its time T and the bytes A that are kept for its backward half
are measured on random images. The phases, with their parameter vectors and graphs that are held at a time:

    experts, teacher  epochs * batches passes each, twice with GSAM's second gradient; 4 vectors, 1 graph
    distillation      what the method states (`MethodConfig.work`), times the iterations
    evaluation        the protocol's updates for every network and for every learning rate that it tries, with 4
                      vectors and 1 graph, and a third of a pass, without a graph, for each test batch

Augmentation, optimisers and logging are left out, and so is what the cache holds of teachers and of evaluations of
baselines. The true time may well be half or twice this.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from condense import rng
from condense.comparison import FULL_DATA
from condense.config import Resolved
from condense.evaluation import load_protocol
from condense.experts import ExpertPlan
from condense.methods import METHODS, ExpertConfig, Problem, TeacherConfig
from condense.networks import Network
from condense.provide import build_network, missing_experts

FLOAT = 4
BUFFER_BYTES = {"float32": 4, "bfloat16": 2}
TEST_BATCH = 512
LARGEST_PROBE = 64
"""Images in a measured pass, at most; larger batches are taken to cost in proportion."""
PROBE_SECONDS = 0.3


@dataclass(frozen=True)
class Phase:
    """Work of one kind: so many passes of a network over batches of `batch` images."""

    name: str
    network: Network
    batch: int
    passes: float
    vectors: int = 4
    graphs: float = 1


@dataclass(frozen=True)
class Cost:
    """Of one forward and backward pass: seconds, and bytes kept for the backward half."""

    seconds: float
    bytes: float


@dataclass(frozen=True)
class Estimate:
    """Bytes on disk, bytes in memory and seconds, each by what takes them."""

    disk: dict[str, float]
    memory: dict[str, float]
    seconds: dict[str, float]


def estimate(resolved: Resolved, problem: Problem) -> Estimate:
    """The equations above for one run. Measuring takes a second or so for each network and batch size."""
    costs: dict[tuple[str, int], Cost] = {}
    seconds: dict[str, float] = {}
    work = 0.0
    for phase in phases(resolved, problem):
        key = (phase.network.name, phase.batch)
        cost = costs[key] = costs.get(key) or measure(phase.network, phase.batch)
        seconds[phase.name] = seconds.get(phase.name, 0.0) + phase.passes * cost.seconds
        work = max(work, FLOAT * phase.network.num_parameters * phase.vectors + cost.bytes * phase.graphs)
    return Estimate(disk(resolved, problem), memory(resolved, problem) | {"work": work}, seconds)


def phases(resolved: Resolved, problem: Problem) -> Iterator[Phase]:
    """The phases of a run; several may have one name."""
    r, method, data = resolved.run, resolved.method, problem.data
    train, synthetic = len(data.train), data.num_classes * r.ipc

    def training(name: str, plan: ExpertPlan, count: int) -> Phase:
        passes = plan.passes(count) * math.ceil(train / plan.batch)
        return Phase(name, problem.network, min(plan.batch, train), passes)

    if isinstance(method, ExpertConfig):
        yield training("experts", method.expert_plan(r.dsa), len(missing_experts(resolved, problem)))
    baselines = [name for name in r.baselines if name != r.method]
    configs = [method, *(METHODS[name].Config.model_validate({}) for name in baselines)]
    for plan in {config.teacher_plan(r.dsa) for config in configs if isinstance(config, TeacherConfig)}:
        yield training("teacher", plan, 1)
    for work in method.work(data.num_classes, r.ipc):
        passes = work.passes * method.iterations
        yield Phase("distillation", problem.network, work.batch, passes, work.vectors, work.graphs)

    protocol = load_protocol(r.protocol)
    sets = dict.fromkeys((r.method, *baselines), (synthetic, protocol))
    sets[r.method] = (synthetic * method.cells, protocol)
    if r.full_data:
        sets[FULL_DATA] = (train, protocol.on_full_data())
    repeats, test = r.eval_repeats or protocol.networks, len(data.test)
    for spec in r.networks:
        network = build_network(spec, data, problem.device)
        for name, (images, used) in sets.items():
            passes = (repeats + len(used.lrs)) * used.steps(images)
            yield Phase(f"evaluation of {name}", network, min(protocol.batch, images), passes)
            tests = repeats * math.ceil(test / TEST_BATCH) / 3
            yield Phase(f"evaluation of {name}", network, min(TEST_BATCH, test), tests, graphs=0)


def measure(network: Network, batch: int) -> Cost:
    """The fastest of a few passes on random images, after one that is not timed but looks at what autograd keeps."""
    images = min(batch, LARGEST_PROBE)
    draws = rng.generator(0, "estimate")
    x = torch.randn(images, network.channels, network.size, network.size, generator=draws).to(network.device)
    y = torch.randint(network.classes, (images,), generator=draws).to(network.device)
    theta = network.init(0, "estimate").requires_grad_()
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    def one_pass() -> None:
        torch.autograd.grad(F.cross_entropy(network.logits(theta, x), y), theta)
        if network.device.type == "cuda":
            torch.cuda.synchronize(network.device)

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        one_pass()
    kept.pop(theta.untyped_storage().data_ptr(), None)
    times: list[float] = []
    began = time.perf_counter()
    while time.perf_counter() - began < PROBE_SECONDS or not times:
        start = time.perf_counter()
        one_pass()
        times.append(time.perf_counter() - start)
    scale = batch / images
    return Cost(min(times) * scale, sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) * scale)


def disk(resolved: Resolved, problem: Problem) -> dict[str, float]:
    """Bytes that the run will add to the disk."""
    pixels = _pixels(problem)
    images = FLOAT * problem.data.num_classes * resolved.run.ipc * pixels
    held = 3 * images + FLOAT * resolved.method.state_numbers(problem.network)
    checkpoints = 2 * held if resolved.method.iterations else 0
    artifact = images + (2 * FLOAT * pixels**2 if resolved.run.zca else 0)
    missing = len(missing_experts(resolved, problem))
    return {"buffer": _buffer(resolved, problem, missing), "checkpoints": checkpoints, "artifact": artifact}


def memory(resolved: Resolved, problem: Problem) -> dict[str, float]:
    """Bytes that stay on the run's device, apart from the work itself."""
    data, method = problem.data, resolved.method
    held: float = sum(part.images.nbytes + part.labels.nbytes for part in (data.train, data.validation, data.test))
    if resolved.run.zca:
        held += FLOAT * _pixels(problem) * len(data.train)
    buffer = 0.0
    if isinstance(method, ExpertConfig) and problem.device.type != "cpu":
        buffer = _buffer(resolved, problem, method.num_experts)
    return {"data": held, "buffer": buffer, "state": FLOAT * method.state_numbers(problem.network)}


def _buffer(resolved: Resolved, problem: Problem, experts: int) -> float:
    """Bytes of the trajectories of so many experts."""
    method = resolved.method
    if not isinstance(method, ExpertConfig):
        return 0
    snapshots = method.expert_plan(resolved.run.dsa).epochs + 1
    return experts * snapshots * problem.network.num_parameters * BUFFER_BYTES[method.buffer_dtype]


def _pixels(problem: Problem) -> int:
    return problem.data.channels * problem.data.size**2
