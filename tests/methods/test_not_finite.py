"""A value that is not finite, wherever it comes from, stops a run before its update, and says where that was."""

import copy
import logging
from dataclasses import replace

import pytest
import torch
from problems import make_condenser, make_problem

from condense.errors import NumericsError
from condense.loop import distillation_loop
from condense.methods import METHODS, Need
from condense.methods.mtt import MTT
from condense.methods.recover import Recover
from condense.runs import RunFolder, StopFlag, create_trackers

ALL = sorted(METHODS)
LEARNING = [name for name in ALL if METHODS[name].Config.model_fields["iterations"].default]
TAUGHT = [name for name in ALL if METHODS[name].needs & {Need.TEACHER, Need.POOL}]
WITH_EXPERTS = [name for name in ALL if Need.EXPERTS in METHODS[name].needs]
POOLED = [name for name in ALL if Need.POOL in METHODS[name].needs]
POOL_LEARNING = sorted(set(POOLED) & set(LEARNING))
NETWORKS = {"dc": "theta", "dsa": "theta", "idc": "theta", "idm": "nets", "ncfm": "psi"}
"""Those that are trained from one iteration to the next, by their name in the state."""
STRUCK = 3
"""The iteration in which it happens; the last checkpoint is the one before."""


def turns(names, first):
    """NaN for one method and infinity for the next, the other way round for the next part."""
    return [(name, (torch.nan, torch.inf)[(first + place) % 2]) for place, name in enumerate(names)]


@pytest.fixture(scope="module")
def problems(tmp_path_factory):
    """The small problem of each method, made once; whoever spoils a teacher spoils a copy."""
    held = {}

    def problem(condenser):
        name = condenser.name
        if name not in held:
            held[name] = make_problem(condenser, tmp_path_factory.mktemp(name))
        return replace(held[name], pool=copy.deepcopy(held[name].pool))

    return problem


@pytest.fixture
def case(tmp_path, problems):
    """A method and its problem, and the loop over them: three good iterations, a checkpoint after two."""

    class Case:
        def __init__(self, name, **values):
            self.condenser = make_condenser(name, **values, **({"iterations": 6} if name in LEARNING else {}))
            self.problem = problems(self.condenser)
            self.step, self.state = self.condenser.step, {}
            self.strike = lambda: None
            self.condenser.step = self.stepped

        def stepped(self, state, _, iteration):
            if iteration == STRUCK:
                self.state = state
                self.strike()
                self.before = {key: tensor.clone() for key, tensor in state.items()}
            return self.step(state, self.problem, iteration)

        def loop(self, iterations=6):
            settings = {"checkpoint_every": 2, "trackers": create_trackers((), tmp_path), "stop": StopFlag()}
            with RunFolder.create(tmp_path / "run") as self.folder:
                self.folder.write_config({"seed": 0}, {"seed": "test"})
                distillation_loop(self.condenser, self.problem, self.folder, iterations=iterations, **settings)

        def stops(self, *words):
            """Before the update, naming method, iteration and tensors; the good checkpoint is there."""
            with pytest.raises(NumericsError) as raised:
                self.loop()
            said = str(raised.value)
            assert said.startswith(f"{self.condenser.name}, iteration {STRUCK}: ")
            assert all(word in said for word in words), said
            for key, tensor in self.before.items():
                assert torch.equal(self.state[key].nan_to_num(9), tensor.nan_to_num(9)), key
            found = self.folder.latest_checkpoint()
            assert found.iteration == 2 and all(tensor.isfinite().all() for tensor in found.state.values())

    return Case


def spoilt(tensor, value):
    """A copy with one such value."""
    tensor = tensor.clone()
    tensor.view(-1)[0] = value
    return tensor


@pytest.mark.parametrize(("name", "value"), turns(LEARNING, 0))
def test_images(name, value, case):
    held = case(name)
    learned = getattr(held.condenser, "learned", "images")
    held.strike = lambda: held.state.update({learned: torch.full_like(held.state[learned], value)})
    held.stops(learned)


@pytest.mark.parametrize(("name", "value"), turns(LEARNING, 1))
def test_loss(name, value, case, monkeypatch):
    held = case(name)
    condenser = held.condenser

    def strike():
        if isinstance(condenser, MTT):
            unroll = condenser.unroll
            monkeypatch.setattr(
                condenser, "unroll", lambda *given: replace(found := unroll(*given), loss=found.loss + value)
            )
        elif isinstance(condenser, Recover):
            loss = condenser.loss
            monkeypatch.setattr(condenser, "loss", lambda *given: loss(*given) + value)
        else:
            part = "distances" if name == "ncfm" else "losses"
            losses = getattr(condenser, part)
            monkeypatch.setattr(condenser, part, lambda *given: losses(*given) + value)

    held.strike = strike
    held.stops("loss not finite.")


@pytest.mark.parametrize(("name", "value"), turns(LEARNING, 2))
def test_gradient(name, value, case, monkeypatch):
    held, grad, backward = case(name), torch.autograd.grad, torch.Tensor.backward

    def spoilt_grad(*given, **named):
        return tuple(None if found is None else spoilt(found, value) for found in grad(*given, **named))

    def strike():
        if name == "ncfm":  # whose gradients add up at the leaves
            monkeypatch.setattr(torch.Tensor, "backward", lambda loss, *given: backward(loss * value, *given))
        else:
            monkeypatch.setattr(torch.autograd, "grad", spoilt_grad)

    held.strike = strike
    held.stops("gradient")


class Spoilt:
    """Experts of which every snapshot after the start has one value that is not finite."""

    def __init__(self, experts, value):
        self.experts, self.value = experts, value

    def snapshot(self, expert, epoch):
        return spoilt(self.experts.snapshot(expert, epoch), self.value)


@pytest.mark.parametrize(("name", "value"), turns(WITH_EXPERTS, 3))
def test_expert(name, value, case):
    held = case(name)

    def strike():
        held.problem = replace(held.problem, experts=Spoilt(held.problem.experts, value))

    held.strike = strike
    held.stops("loss", ", as ", "expert")


@pytest.mark.parametrize(("name", "value"), turns(["datm", "pad"], 4))
def test_label(name, value, case):
    held = case(name)
    held.strike = lambda: held.state.update(labels=spoilt(held.state["labels"], value))
    held.stops("loss", ", as labels already")


@pytest.mark.parametrize(("name", "value"), turns(POOL_LEARNING, 5))
def test_statistic(name, value, case):
    held = case(name)

    def strike():
        for teacher in held.problem.pool:
            state = teacher.state()
            next(tensor for key, tensor in state.items() if key.endswith("running_mean")).fill_(value)

    held.strike = strike
    held.stops("loss", "running_mean of teacher 0 (convnet")


@pytest.mark.parametrize(("name", "value"), turns(NETWORKS, 6))
def test_network_of_the_state(name, value, case):
    key, values = NETWORKS[name], {"outer_loop": 6} if name in ("dc", "dsa") else {}  # no new network in between
    held = case(name, **values)
    held.strike = lambda: held.state.update({key: torch.full_like(held.state[key], value)})
    held.stops("loss", key)


@pytest.mark.parametrize("name", TAUGHT)
def test_a_teacher_is_refused_before_anything_is_chosen_with_it(name, case):
    held = case(name)
    if held.problem.teacher is not None:
        held.problem = replace(held.problem, teacher=spoilt(held.problem.teacher, torch.nan))
    for teacher in held.problem.pool:
        next(iter(teacher.state().values())).fill_(torch.inf)
    with pytest.raises(NumericsError, match=rf"^{name}, before iteration 0: .*teacher.* not finite"):
        held.loop(iterations=0)
    assert held.folder.latest_checkpoint() is None


@pytest.mark.parametrize("name", POOLED)
def test_a_label_that_a_teacher_gives(name, case, monkeypatch):
    held = case(name)
    condenser, problem = held.condenser, held.problem
    state, label = condenser.init(problem), condenser.label
    monkeypatch.setattr(condenser, "label", lambda *given: spoilt(label(*given), torch.inf))
    of_views = rf"^{name}: (logits|distances) of epoch 1, batch 1, are not finite"
    with pytest.raises(NumericsError, match="^infer, iteration .*: labels not finite" if name == "infer" else of_views):
        condenser.distilled(state, problem)


@pytest.mark.parametrize("name", LEARNING)
def test_an_update_that_overflows_is_never_saved(name, case, caplog):
    """Finite gradients can move images beyond what float32 holds; what is on disk stays good."""
    held = case(name)
    step = held.step

    def overflowing(state, problem, iteration):
        metrics = step(state, problem, iteration)
        if iteration == STRUCK:
            key = getattr(held.condenser, "learned", "images")
            state[key] = torch.full_like(state[key], torch.inf)
        return metrics

    held.step = overflowing
    with caplog.at_level(logging.WARNING), pytest.raises(NumericsError, match=rf"^{name}, after iteration {STRUCK}: "):
        held.loop()
    assert held.folder.latest_checkpoint().iteration == 2
