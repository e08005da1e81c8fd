"""A small, seeded problem that every condenser is tried on."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from condense import rng
from condense.augment import DSA
from condense.comparison import training_set
from condense.data import Inputs, Preprocessing, RealData, Split, fit_preprocessing
from condense.evaluation import Protocol, TestSet, evaluate
from condense.experts import TrajectoryStore, rank_by_difficulty, train_expert
from condense.methods import METHODS, Condenser, DecoupledConfig, ExpertConfig, Need, Problem, TeacherConfig
from condense.networks import Network
from condense.synthetic import DistilledSet
from condense.teachers import SqueezePlan, Teacher, held_out_accuracy, squeeze
from condense.unroll import Unrolled

CLASSES = 3
TRAJECTORY: dict[str, Any] = {
    "num_experts": 2,
    "max_start_epoch": 2,
    "expert_epochs": 1,
    "syn_steps": 3,
    "expert_batch": 16,
    "expert_lr": 0.05,
    "lr_img": 3.0,
    "lr_lr": 1e-4,
    "lr_teacher": 0.03,
}
GRADIENTS: dict[str, Any] = {"outer_loop": 3, "inner_loop": 2, "lr_net": 0.05, "batch_real": 40, "lr_img": 1.0}
LABELS: dict[str, Any] = {
    "teachers": ("convnet:width=8,depth=2,norm=batch",),
    "teacher_epochs": 5,
    "teacher_lr": 0.05,
    "teacher_batch": 16,
    "label_epochs": 3,
    "label_batch": 4,
}
RECOVER: dict[str, Any] = LABELS | {"iterations": 30, "lr_img": 0.1, "jitter": 1, "r_bn": 0.1, "candidates": 12}
SMALL: dict[str, dict[str, Any]] = {
    "mtt": TRAJECTORY,
    "ftd": TRAJECTORY,
    "tesla": TRAJECTORY
    | {"syn_steps": 1, "lr_teacher": 0.05},  # the one number of steps for which its gradient is exact
    "datm": TRAJECTORY | {"lr_y": 1.0},
    "pad": TRAJECTORY | {"lr_y": 1.0, "depth_ratio": 0.25, "add_end_epoch": 1, "score_networks": 1, "score_epochs": 1},
    "ast": TRAJECTORY
    | {
        "expert_epochs": 2,
        "expert_lr": 0.02,
        "clip_epochs": 2,
        "gradient_penalty": 0.1,
        "weight_perturb": 0.3,
        "momentum_syn": 0.5,
        "syn_steps": 4,
        "lr_teacher": 0.04,
        "lr_img": 30.0,
    },
    "rded": LABELS | {"candidates": 12},
    "kd_subset": LABELS | {"score_networks": 2, "score_epochs": 3},
    "sre2l": RECOVER,
    "nrrdd": RECOVER | {"lr_img": 0.3},
    "cvdd": RECOVER
    | {
        "teachers": (*LABELS["teachers"], "resnet18:width=4,norm=batch"),
        "teacher_optimizer": "sgd",
        "init": "noise",
        "view": "whole",
        "label_group": 2,
    },
    "infer": {key: value for key, value in RECOVER.items() if key != "candidates"}
    | {"teachers": (*LABELS["teachers"], "resnet18:width=4,norm=batch")},
    "dc": GRADIENTS,
    "dsa": GRADIENTS | {"init": "noise"},
    "dm": {"batch_real": 16},
    "datadam": {"lr_img": 0.1},
    "atom": {"lr_img": 0.15, "batch_real": 40},
    "ncfm": {
        "num_experts": 2,
        "pretrain_epochs": 3,
        "expert_batch": 16,
        "expert_lr": 0.05,
        "batch_real": 40,
        "num_freqs": 128,
        "lr_psi": 1e-5,
        "factor": 1,
        "init": "mean",  # far from black and white, where the clamp has no derivative
        "optimizer": "sgd",
        "lr_img": 0.002,
        "momentum_img": 0.5,
    },
    # Factor 1, because the pixels of the blobs are independent: no mosaic of smaller images can show them.
    "idc": {
        "factor": 1,
        "init": "noise",
        "aug_type": "color_crop",
        "inner_loop": 8,
        "train_images": 16,
        "batch_train": 16,
        "batch_real": 40,
        "lr_img": 1.0,
    },
    "idm": {
        "factor": 1,
        "init": "noise",
        "batch_real": 40,
        "net_steps": 2,
        "net_batch": 32,
        "net_every": 5,
        "queue_size": 6,
        "ce_weight": 0.002,
        "lr_img": 3.0,
    },
}
"""Settings of each method that suit the small problem; lr_img is set so that 30 iterations lower the loss."""


def blobs(per_class: int = 40, size: int = 8, classes: int = CLASSES, channels: int = 1) -> RealData:
    """Noisy images around one random pattern for each class."""
    draws = rng.generator(0, "test.blobs")
    patterns = torch.rand(classes, channels, size, size, generator=draws)

    def split(count: int) -> Split:
        labels = torch.arange(classes).repeat(count)
        noise = torch.randn(len(labels), channels, size, size, generator=draws)
        return Split(((patterns[labels] + 0.5 * noise).clamp(0, 1) * 255).to(torch.uint8), labels)

    return RealData(
        "blobs", split(per_class), split(4), split(20), tuple("abcdefgh"[:classes]), "0" * 64, "test", mirrored=False
    )


def relative_error(a: torch.Tensor, b: torch.Tensor) -> float:
    """|a - b| / |b|"""
    return float((a - b).norm() / b.norm())


def trajectory_parts(condenser: Any, problem: Problem) -> dict[str, Any]:
    """What an iteration of a trajectory-matching method is made of: tensors, and values that can be compared."""
    state = condenser.init(problem)
    segments = [segment for iteration in range(20) for segment in condenser.segments(problem, iteration)]
    steps = condenser.inner_steps(len(state["images"]), problem, problem.rng("inner"))
    run = condenser.inner_run(state, problem, segments[0], state["images"], steps)
    before, slopes = state["images"].clone(), torch.ones_like(state["images"])
    by_labels = torch.ones_like(run.labels) if run.soft else None
    condenser.update(state, Unrolled(torch.tensor(2.0), slopes, by_labels, torch.ones_like(run.lr)))
    return {
        "experts": condenser.config.expert_plan("none").model_dump(),
        "images": before,
        "labels": run.labels,
        "segments": [(segment.expert, segment.epoch) for segment in segments],
        "start": run.start,
        "outer loss": run.outer_loss(0.9 * run.start),
        "steps": [step.index.tolist() for step in run.steps],
        "waypoints": {i: float(loss(0.9 * run.start)) for i, loss in run.waypoints.items()},
        "lr": run.lr,
        "momentum": run.momentum,
        "update": state["images.momentum"],
    }


def differing(one: dict[str, Any], other: dict[str, Any]) -> set[str]:
    """The parts that are not the same, to the bit."""
    return {
        name
        for name, part in one.items()
        if not (torch.equal(part, other[name]) if isinstance(part, torch.Tensor) else part == other[name])
    }


def states(condenser: Condenser, problem: Problem, iterations: int = 4) -> Iterator[dict[str, torch.Tensor]]:
    """The state at the start and after each iteration, as copies."""
    state = condenser.init(problem)
    yield {key: tensor.clone() for key, tensor in state.items()}
    for iteration in range(iterations):
        condenser.step(state, problem, iteration)
        yield {key: tensor.clone() for key, tensor in state.items()}


def assert_same_bits(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


def accuracies(made: DistilledSet, problem: Problem, network: str, protocol: Protocol) -> tuple[float, ...]:
    """Of three fresh networks that are trained on a set of the small problem, without augmentation."""
    test = TestSet(problem.data.test.images, problem.data.test.labels, preprocess=problem.preprocessing)
    return evaluate(
        training_set(made),
        test,
        network,
        classes=CLASSES,
        protocol=protocol,
        dsa="none",
        seed=0,
        device=torch.device("cpu"),
        n=3,
    ).values


def make_condenser(name: str, **values: Any) -> Condenser:
    cls = METHODS[name]
    return cls(cls.Config(**SMALL.get(name, {}) | values))


def make_problem(
    condenser: Condenser,
    folder: Path,
    *,
    ipc: int = 2,
    dtype: torch.dtype = torch.float32,
    dsa: str = "color_crop_cutout_scale_rotate",
    seed: int = 0,
    data: RealData | None = None,
    network: str = "convnet:width=4,depth=2",
) -> Problem:
    """The small problem with whatever the condenser needs, trained into `folder`."""
    data = data or blobs()
    preprocessing: Preprocessing = fit_preprocessing("mean_std", data, None).to("cpu", dtype)
    net = Network(network, channels=data.channels, size=data.size, classes=data.num_classes, dtype=dtype)
    problem = Problem(data, preprocessing, net, DSA(dsa), ipc, seed)
    inputs, labels = Inputs(data.train, preprocessing), data.train.labels
    if Need.EXPERTS in condenser.needs:
        config = condenser.config  # type: ignore[attr-defined]
        assert isinstance(config, ExpertConfig)
        plan = config.expert_plan(dsa)
        store = TrajectoryStore.open(
            folder / "buffer",
            identity=plan.model_dump(),
            snapshots=plan.epochs + 1,
            parameters=net.num_parameters,
        )
        ranking = rank_by_difficulty(net, inputs, labels, plan, seed=seed) if plan.curriculum else None
        for index in store.missing(config.num_experts):
            store.write(index, train_expert(net, inputs, labels, plan, seed=seed, index=index, ranking=ranking))
        problem = replace(problem, experts=_InDtype(store, dtype))  # type: ignore[arg-type]
    if Need.TEACHER in condenser.needs:
        config = condenser.config  # type: ignore[attr-defined]
        assert isinstance(config, TeacherConfig)
        *_, theta = train_expert(net, inputs, labels, config.teacher_plan(dsa), seed=seed, index=0)
        problem = replace(problem, teacher=theta)
    if Need.POOL in condenser.needs:
        config = condenser.config  # type: ignore[attr-defined]
        assert isinstance(config, DecoupledConfig)
        problem = replace(problem, pool=tuple(_taught(plan, problem, k) for k, plan in enumerate(config.plans(dsa))))
    return problem


def _taught(plan: SqueezePlan, problem: Problem, index: int) -> Teacher:
    """A teacher in the dtype of the problem."""
    data = problem.data
    inputs = Inputs(data.train, problem.preprocessing)
    *_, module = squeeze(plan, inputs, data.train.labels, classes=data.num_classes, seed=problem.seed, index=index)
    held_out = Inputs(data.validation, problem.preprocessing)
    return Teacher(plan.network, module, held_out_accuracy(module, held_out, data.validation.labels))


class _InDtype:
    """A store whose snapshots come in the dtype of the problem, so that gradients can be checked in float64."""

    def __init__(self, store: TrajectoryStore, dtype: torch.dtype) -> None:
        self.store, self.dtype = store, dtype

    def snapshot(self, expert: int, epoch: int) -> torch.Tensor:
        return self.store.snapshot(expert, epoch).to(self.dtype)
