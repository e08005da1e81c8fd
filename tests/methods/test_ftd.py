import torch
from problems import make_condenser, make_problem

from condense.experts import ExpertPlan
from condense.methods.ftd import FTDConfig


def test_without_gsam_and_average_it_is_mtt_bit_for_bit(tmp_path):
    mtt, ftd = make_condenser("mtt"), make_condenser("ftd", rho=0.0, ema_decay=0.0)
    states = []
    for condenser, folder in ((mtt, tmp_path / "mtt"), (ftd, tmp_path / "ftd")):
        problem = make_problem(condenser, folder)
        state = condenser.init(problem)
        for iteration in range(5):
            condenser.step(state, problem, iteration)
        states.append((state, condenser.distilled(state, problem)))
    (of_mtt, made_by_mtt), (of_ftd, made_by_ftd) = states
    assert of_mtt.keys() == of_ftd.keys()
    assert all(torch.equal(of_mtt[key], of_ftd[key]) for key in of_mtt)
    assert torch.equal(made_by_mtt.images, made_by_ftd.images)
    assert made_by_mtt.lr == made_by_ftd.lr


def test_gsam_changes_the_experts(tmp_path):
    trajectories = []
    for name, values in (("mtt", {}), ("ftd", {"rho": 0.01})):
        problem = make_problem(make_condenser(name, **values), tmp_path / name)
        trajectories.append([problem.experts.snapshot(0, epoch) for epoch in (0, 1)])
    (start, end), (same_start, other_end) = trajectories
    assert torch.equal(start, same_start)
    assert not torch.equal(end, other_end)


def test_the_average_is_on_unless_it_is_turned_off(tmp_path):
    """Its definition is tested for all methods together."""
    assert FTDConfig().ema_decay == 0.999
    ftd = make_condenser("ftd")
    problem = make_problem(ftd, tmp_path)
    state = ftd.init(problem)
    ftd.step(state, problem, 0)
    assert torch.equal(ftd.distilled(state, problem).images, state["ema"])
    assert not torch.equal(state["ema"], state["images"])


def test_the_plan_of_its_experts():
    config = FTDConfig(max_start_epoch=20, expert_epochs=2, rho=0.02, alpha=0.3)
    assert config.expert_plan("flip") == ExpertPlan(
        epochs=21, lr=0.01, batch=256, momentum=0.0, rho=0.02, alpha=0.3, adaptive=True, dsa="flip"
    )
