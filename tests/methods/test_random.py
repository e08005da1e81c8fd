import torch
from problems import make_condenser, make_problem


def test_different_real_images_of_each_class(tmp_path):
    condenser = make_condenser("random")
    sets = []
    for seed in (0, 1):
        problem = make_problem(condenser, tmp_path, ipc=4, seed=seed)
        made = condenser.distilled(condenser.init(problem), problem)
        real = problem.preprocessing(problem.data.train.images)
        rows = [int((real - image).abs().flatten(1).sum(1).argmin()) for image in made.images]
        assert len(set(rows)) == 12
        assert torch.equal(real[rows], made.images)
        assert torch.equal(problem.data.train.labels[rows], made.labels)
        assert made.lr is None
        sets.append(rows)
    assert sets[0] != sets[1]
