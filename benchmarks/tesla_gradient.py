"""How far TESLA's gradient is from the exact one, as the inner runs get longer.

    python benchmarks/tesla_gradient.py --dataset fashion_mnist --data-root DATA [--ipc 1] [--updates 0]

Trains a few real experts (or finds them in the cache), learns a set by `updates` exact MTT iterations from real images,
and differentiates the same inner runs by both engines. Prints a Markdown table: cosine of the two gradients by the
images, and |difference| / |exact gradient|; mean and 95 % interval over the segments.
"""

import argparse

import torch
from torch.nn import functional as F

from condense import api, provide
from condense.config import Layer, resolve
from condense.evaluation.statistics import summary
from condense.methods.mtt import MTT
from condense.runs import stop_signals
from condense.unroll import adjoint, tesla


def cell(values: list[float]) -> str:
    mean, half = summary(values)
    return f"{mean:.3f}" if half is None else f"{mean:.3f} ± {half:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--data-root", default="none")
    parser.add_argument("--network", default="convnet:width=32")
    parser.add_argument("--ipc", type=int, default=1)
    parser.add_argument("--experts", type=int, default=3)
    parser.add_argument("--start-epochs", type=int, default=3, help="T: segments start at epochs 0 .. T - 1")
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 2, 5, 10, 20, 50])
    parser.add_argument("--lr", type=float, nargs="+", default=[0.01, 0.05])
    parser.add_argument("--updates", type=int, default=0, help="exact MTT iterations before the measurement")
    parser.add_argument("--lr-img", type=float, default=100.0, help="learning rate of the images in them")
    parser.add_argument("--segments", type=int, default=10)
    given = parser.parse_args()
    values = {"method": "mtt", "recipe": "none", "dataset": given.dataset, "data_root": given.data_root}
    values |= {"ipc": given.ipc, "network": given.network, "num_experts": given.experts, "lr_img": given.lr_img}
    values |= {"max_start_epoch": given.start_epochs, "expert_epochs": 2, "syn_steps": 20}
    resolved, problem = api.prepare(resolve([Layer("benchmark", values)]))
    with stop_signals() as stop:
        problem, _ = provide.provide(resolved, problem, stop)
    condenser = MTT(resolved.method)
    state = condenser.init(problem)
    for iteration in range(given.updates):
        condenser.step(state, problem, iteration)

    print("| a | N | cosine | relative error |")
    print("|---|---|---|---|")
    for lr in given.lr:
        state["log_lr"] = torch.tensor(lr).log()
        for steps in given.steps:
            runner = MTT(resolved.method.model_copy(update={"syn_steps": steps}))
            cosines, errors = [], []
            for number in range(given.segments):
                (segment,) = runner.segments(problem, number)
                batches = runner.inner_steps(len(state["images"]), problem, problem.rng("inner", number))
                run = runner.inner_run(state, problem, segment, state["images"], batches)
                exact, found = adjoint(run).images.flatten(), tesla(run).images.flatten()
                cosines.append(float(F.cosine_similarity(found, exact, 0)))
                errors.append(float((found - exact).norm() / exact.norm()))
            print(f"| {lr} | {steps} | {cell(cosines)} | {cell(errors)} |", flush=True)


if __name__ == "__main__":
    main()
