"""The grid: which cells there are, where their keys come from, and every mistake before anything starts."""

import numpy as np
import pytest
from fabricated_bench import grid_text

from condense.bench import grid as module
from condense.bench.grid import BASELINES, check, given, read_grid
from condense.config import Layer, resolve
from condense.errors import ConfigError, DataError
from condense.methods import METHODS


def write(path, text):
    (path / "grid.toml").write_text(text, encoding="utf-8")
    return path / "grid.toml"


def problems(path, text, kind=ConfigError):
    with pytest.raises(kind) as raised:
        check(read_grid(write(path, text)).cells())
    return str(raised.value).splitlines()


def test_every_combination_is_a_cell_with_the_baselines_first(tmp_path):
    cells = read_grid(write(tmp_path, grid_text())).cells()
    assert len(cells) == len({cell.name for cell in cells}) == 2 * 5 * 3
    assert [cell.name for cell in cells[:4]] == [
        "digits-random-ipc1-seed0",
        "digits-random-ipc1-seed1",
        "digits-random-ipc1-seed2",
        "digits-kmeans-ipc1-seed0",
    ]
    assert cells[-1].name == "digits-dm-flip-ipc10-seed2"


def test_without_a_list_of_baselines_there_are_all_real_image_ones(tmp_path):
    text = "\n".join(line for line in grid_text().splitlines() if not line.startswith("baselines"))
    assert read_grid(write(tmp_path, text)).baselines == BASELINES
    assert {"random", "herding", "kmeans", "kcenter"} <= set(BASELINES)
    assert set(BASELINES) <= METHODS.keys()


def test_a_method_that_is_also_a_baseline_is_there_once(tmp_path):
    grid = read_grid(write(tmp_path, grid_text(methods=["dm", "random"], ipc=[1], seeds=[0]).partition("[method")[0]))
    assert grid.labels == ("dm", "random", "kmeans")


def test_where_the_keys_of_a_cell_come_from(tmp_path):
    found = check(read_grid(write(tmp_path, grid_text())).cells())
    flip = found["digits-dm-flip-ipc10-seed2"]
    r = flip.run
    assert (r.method, r.ipc, r.dataset, r.seed, r.protocol) == ("dm", 10, "digits", 2, "quick")
    assert r.eval_networks == ("convnet", "mlp", "resnet18:norm=batch")
    assert flip.method.flip and not found["digits-dm-ipc10-seed2"].method.flip
    assert [flip.origins[key] for key in ("seed", "eval_repeats", "flip")] == ["grid", "[set]", "[method.dm-flip]"]
    assert "recipe" in flip.origins["lr_img"]  # what the grid does not say is looked up as for any run


def test_only_the_random_cells_hold_the_full_data(tmp_path):
    found = check(read_grid(write(tmp_path, grid_text())).cells())
    assert {resolved.run.baselines for resolved in found.values()} == {()}
    assert {name for name, resolved in found.items() if resolved.run.full_data} == {
        name for name in found if "-random-" in name
    }


def test_what_a_cell_is_given_makes_the_same_run(tmp_path):
    """Also a key that is unset, which TOML has no word for, and a path, which does not depend on the folder."""
    text = grid_text(methods=["mtt"], ipc=[1], seeds=[0]).partition("[method")[0]
    cells = read_grid(write(tmp_path, text + "data_root = 'data'\n[method.mtt]\nbatch_syn = 'none'\n")).cells()
    cell, resolved = cells[-1], cells[-1].resolve()
    values, origins = given(cell, resolved)
    assert (values["batch_syn"], origins["batch_syn"]) == ("none", "[method.mtt]")
    assert resolved.method.batch_syn is None and values["data_root"].startswith("/")
    assert resolve([Layer("cell.toml", values)]).values() == resolved.values()


# wrong grids


def test_every_problem_of_a_grid_is_a_line(tmp_path):
    text = grid_text(ipc=[0, 1], seeds=[1, 1.5]) + "[colours]\n"
    lines = problems(tmp_path, text)
    assert len(lines) == 3 and all(line.startswith(f"grid {tmp_path}/grid.toml: ") for line in lines)
    assert "ipc.0 = 0: Input should be greater than or equal to 1" in lines[0]
    assert "seeds.1 = 1.5" in lines[1] and "unknown key 'colours'" in lines[2]


@pytest.mark.parametrize(
    "text, words",
    [
        (grid_text() + "[methd]\n", "unknown key 'methd'. Did you mean 'method' or 'methods'?"),
        (
            grid_text(methods=["dm", "dm-flop"]),
            "[method.dm-flip] is used by no cell: unknown method 'dm-flip'. Did you",
        ),
        (grid_text() + "seed = 3\n", "[method.dm-flip]: seed is decided by the grid's own seeds; take it out"),
        (grid_text().replace("[set]", "[set]\nipc = 3"), "[set]: ipc is decided by the grid's own ipc; take it out"),
        (
            grid_text().replace("[set]", "[set]\nnetwrk = 'mlp'"),
            "[set]: unknown key of every run 'netwrk'. Did you mean",
        ),
        (grid_text().replace("[set]", "[set]\nlr_img = 1.0"), "Those of one method go to [method.NAME]"),
        (grid_text(baselines=["random", "mtt"]), "unknown baseline (a method without iterations) 'mtt'"),
        (grid_text(methods=["dm", "datadm", "dm-flip"]), "unknown method 'datadm'. Did you mean 'datadam'"),
        (grid_text() + "[method.mtt]\nmethod = 'ftd'\n", "mtt is a method; give the variant of ftd another name"),
        (grid_text(methods=["dm", "../dm-flip"]), "methods.1 = '../dm-flip': String should match pattern"),
        (grid_text(seeds=[0, 1, 0]), "seeds has 0 more than once"),
        (grid_text(seeds=[]), "seeds = []: Tuple should have at least 1 item"),
        (grid_text(datasets=["npz:a/x.npz", "npz:b/x.npz"]), "two cells would be called npz-x-random-ipc1-seed0"),
        ("methods = ", "not valid TOML"),
        ('methods = ["dm"]', "no ipc. A grid needs methods, ipc, datasets, seeds, networks and protocol"),
    ],
)
def test_a_wrong_grid(text, words, tmp_path):
    assert any(words in line for line in problems(tmp_path, text))


def test_a_grid_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        read_grid(tmp_path / "grid.toml")


def test_wrong_keys_of_any_cell_are_found_once_and_together(tmp_path):
    text = grid_text(protocol="quik", networks=["convent"]).replace("eval_repeats = 2", "eval_repeats = 0")
    lines = problems(tmp_path, text + "[method.mtt]\nsin_steps = 3\n[method.kmeans]\nteacher_lr = -1\n")
    words = ["'quik'. Did you mean 'quick'", "'convent'. Did you mean", "eval_repeats = 0", "Did you mean 'syn_steps'"]
    words.append("[method.kmeans]: teacher_lr = -1")
    assert len(lines) == len(words)
    assert all(sum(word in line for line in lines) == 1 for word in words)


def test_what_the_data_forbid_is_found_before_anything_runs(tmp_path, monkeypatch):
    loads, load = [], module.load_dataset
    monkeypatch.setattr(module, "load_dataset", lambda *names, **keys: loads.append(names) or load(*names, **keys))
    lines = problems(tmp_path, grid_text(ipc=[1, 500, 600], networks=["convnet:depth=4", "mlp"]))
    assert len(loads) == 1  # of 90 cells
    assert [line[:9] for line in lines if "class '8'" in line] == ["ipc = 500", "ipc = 600"]
    assert sum("depth 4 halves images of 8 px to nothing" in line for line in lines) == 1
    assert not (tmp_path / "cache").exists()


def test_missing_data_of_several_sets_are_found_together(tmp_path):
    np.savez(tmp_path / "broken.npz", x_train=np.zeros(3))
    names = ["digits", f"npz:{tmp_path}/broken.npz", f"npz:{tmp_path}/none.npz"]
    lines = problems(tmp_path, grid_text(datasets=names), DataError)
    assert len(lines) == 2 and "broken.npz" in lines[0] and "none.npz" in lines[1]
