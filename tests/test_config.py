"""The configuration: layers, origins, and every problem at once."""

import tomllib
from pathlib import Path

import pytest
from pydantic import BaseModel

from condense import config
from condense.config import (
    MIRROR_FREE,
    Layer,
    RunConfig,
    fields,
    find_row,
    parse_assignment,
    read_config_file,
    read_resolved,
    resolve,
    rows,
)
from condense.errors import ConfigError
from condense.methods import METHODS
from condense.runs import RunFolder
from condense.runs.config_file import to_toml

ROW = {
    "recipe": "small",
    "dataset": "digits",
    "ipc": 1,
    "source": "a paper",
    "values": {"syn_steps": 31, "dsa": "crop", "network": "lenet"},
}


@pytest.fixture
def one_row(monkeypatch):
    monkeypatch.setattr(config, "rows", lambda method: [ROW])  # noqa: ARG005


def resolved(*layers, **values):
    return resolve([*layers, Layer("here", {"method": "mtt", **values})])


def problems(**values):
    with pytest.raises(ConfigError) as caught:
        resolved(**values)
    return str(caught.value).splitlines()


@pytest.mark.usefixtures("one_row")
def test_each_layer_beats_those_below_it():
    """The layers are added from the lowest up; each changes the value of the one before, and says so."""
    method = Layer("--method", {"method": "mtt"})

    def steps(*layers):
        found = resolve([*layers, method])
        return found.method.syn_steps, found.origins["syn_steps"]

    no_recipe = Layer("x", {"recipe": "none"})
    file, assignment, flag = (Layer(name, {"syn_steps": n}) for n, name in enumerate(("file", "--set", "--flag"), 41))
    assert steps(no_recipe) == (20, "default")
    assert steps() == (31, "small recipe: digits ipc 1 (a paper)")
    assert steps(file) == (41, "file")
    assert steps(file, assignment) == (42, "--set")
    assert steps(file, assignment, flag) == (43, "--flag")


@pytest.mark.usefixtures("one_row")
def test_the_data_set_lies_between_defaults_and_recipe():
    def dsa(**values):
        found = resolved(**values)
        return found.run.dsa, found.origins["dsa"]

    assert dsa(dataset="cifar10", recipe="none") == ("color_crop_cutout_flip_scale_rotate", "default")
    assert dsa(recipe="none") == ("color_crop_cutout_scale_rotate", "data set digits")
    assert dsa(dataset="mnist") == (MIRROR_FREE, "data set mnist")
    assert dsa() == ("crop", "small recipe: digits ipc 1 (a paper)")
    assert dsa(dsa="none") == ("none", "here")


def test_every_key_has_a_value_an_origin_and_a_description():
    for method, cls in METHODS.items():
        found = resolved(method=method)
        keys = RunConfig.model_fields.keys() | cls.Config.model_fields.keys()
        assert found.values().keys() == found.origins.keys() == fields(method).keys() == keys
        assert all(fields(method).values())


def test_no_key_of_a_method_hides_one_of_the_run():
    for cls in METHODS.values():
        assert not RunConfig.model_fields.keys() & cls.Config.model_fields.keys()


def test_all_problems_are_found_together():
    found = problems(
        ipc=0,
        dataset="digit",
        network="covnet",
        eval_networks=["convnet", "lenett"],
        dsa="colour",
        device="gpu",
        tracker=["wandbb"],
        protocol="quik",
        baselines=["random", "kmean"],
        recipe="publishd",
        syn_steps="many",
        lr_img=-1,
        sin_steps=3,
    )
    words = [
        "unknown key 'sin_steps'. Did you mean 'syn_steps'",
        "ipc = 0: Input should be greater than or equal to 1",
        "unknown data set 'digit'. Did you mean 'digits'",
        "unknown network 'covnet'. Did you mean 'convnet'",
        "unknown network 'lenett'. Did you mean 'lenet'",
        "unknown operator 'colour'. Did you mean 'color'",
        "device 'gpu' cannot be used",
        "unknown tracker 'wandbb'. Did you mean 'wandb'",
        "unknown evaluation protocol 'quik'. Did you mean 'quick'",
        "'kmean'. Did you mean 'kmeans'",
        "unknown recipe 'publishd'. Did you mean 'published'",
        "syn_steps = 'many': Input should be a valid integer",
        "lr_img = -1: Input should be greater than 0",
    ]
    assert len(found) == len(words)
    for part in words:
        assert sum(part in line for line in found) == 1, part
    assert all(line.startswith("here: ") for line in found)


@pytest.mark.parametrize(
    "key, value",
    [
        ("ipc", True),
        ("ipc", "3"),
        ("ipc", 1.0),
        ("seed", -1),
        ("validation", 1.0),
        ("download", 1),
        ("network", 3),
        ("eval_repeats", 0),
        ("checkpoint_every", 0),
        ("buffer_dtype", "float16"),
        ("buffer", 3),
        ("momentum_img", 1.0),
        ("init", "zeros"),
        ("unroll", "adjoin"),
    ],
)
def test_a_wrong_value_is_named_with_its_key_and_meaning(key, value):
    (line,) = problems(**{key: value})
    assert line.startswith(f"here: {key} = {value!r}: Input ")
    assert line.endswith(f"({fields('mtt')[key]})")


def test_the_origin_of_a_problem_is_the_layer_of_its_value():
    with pytest.raises(ConfigError, match=r"^b\.toml: ipc = -3: "):
        resolve([Layer("a.toml", {"ipc": -1}), Layer("b.toml", {"ipc": -3}), Layer("--method", {"method": "mtt"})])


def test_a_method_is_needed_and_must_exist():
    with pytest.raises(ConfigError, match=r"no method\. Give --method NAME, one of .*ftd"):
        resolve([])
    with pytest.raises(ConfigError, match=r"unknown method 'fdt'\. Did you mean 'ftd'"):
        resolved(method="fdt")
    with pytest.raises(ConfigError, match="unknown key 'rho'"):
        resolved(rho=0.1)  # ftd has it, mtt has not


def test_a_trained_method_is_no_baseline():
    (line,) = problems(method="ftd", baselines=["random", "mtt"])
    assert (
        "unknown baseline (a method without iterations) 'mtt'" in line and "herding, kcenter, kd_subset, kmeans" in line
    )


def test_a_network_that_only_large_images_can_have_is_not_refused_early():
    assert resolved(network="convnet:depth=6").run.network == "convnet:depth=6"  # too deep for 32 px, not for 64


@pytest.mark.parametrize("word", ["none", "None"])
def test_none_unsets_the_keys_that_can_be_unset(word):
    below = Layer("below", {"batch_syn": 8, "buffer": "b", "eval_repeats": 3, "data_root": "d"})
    found = resolved(below, batch_syn=word, buffer=word, eval_repeats=word, data_root=word)
    assert (found.method.batch_syn, found.method.buffer, found.run.eval_repeats, found.run.data_root) == (None,) * 4


def test_none_is_a_word_like_others_where_it_is_allowed():
    found = resolved(dsa="none", recipe="none", network="convnet:norm=none")
    assert (found.run.dsa, found.run.recipe, found.run.network) == ("none", "none", "convnet:norm=none")
    assert problems(syn_steps="none")


@pytest.mark.parametrize(
    "text, expected",
    [
        ("syn_steps=20", ("syn_steps", 20)),
        (" syn_steps = 20 ", ("syn_steps", 20)),
        ("lr_img=1e2", ("lr_img", 100.0)),
        ("zca=true", ("zca", True)),
        ("zca=True", ("zca", "True")),
        ("network=convnet:width=32,depth=2", ("network", "convnet:width=32,depth=2")),
        ('network="mlp"', ("network", "mlp")),
        ("baselines=[]", ("baselines", [])),
        ('eval_networks=["mlp", "lenet"]', ("eval_networks", ["mlp", "lenet"])),
        ("dataset=folder:/a b/c", ("dataset", "folder:/a b/c")),
        ("dsa=none", ("dsa", "none")),
        ("network=", ("network", "")),
    ],
)
def test_assignments_are_toml_or_text(text, expected):
    key, value = parse_assignment(text)
    assert (key, value) == expected and type(value) is type(expected[1])


@pytest.mark.parametrize("text", ["syn_steps", "=3", " =3", ""])
def test_an_assignment_without_key_or_value_is_refused(text):
    with pytest.raises(ConfigError, match="must be key=value, for example --set syn_steps=20"):
        parse_assignment(text)


def test_config_files(tmp_path):
    file = tmp_path / "a.toml"
    file.write_text('method = "mtt"\nlr_img = 3\nbaselines = ["random"]\n', encoding="utf-8")
    found = resolve([read_config_file(file)])
    assert (found.method.lr_img, found.run.baselines) == (3.0, ("random",))
    assert found.origins["lr_img"] == found.origins["method"] == str(file)

    with pytest.raises(ConfigError, match=r"none\.toml: No such file"):
        read_config_file(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="Is a directory"):
        read_config_file(tmp_path)
    for content in (b"lr_img = ", b"lr_img: 3", b"\xff"):
        file.write_bytes(content)
        with pytest.raises(ConfigError, match=r"a\.toml: not valid TOML"):
            read_config_file(file)
    file.write_text("[mtt]\nlr_img = 3\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="unknown key 'mtt'"):
        resolved(read_config_file(file))


def test_the_nearest_row_is_chosen_by_ratio(monkeypatch):
    def row(recipe, ipc, **rest):
        return {"recipe": recipe, "ipc": ipc, "source": "s", "values": {}, **rest}

    mnist = [row("published", ipc, dataset="mnist") for ipc in (1, 50)]
    table = [row("small", 1), row("small", 10), *mnist]
    monkeypatch.setattr(config, "rows", lambda method: table)  # noqa: ARG005
    for ipc, nearest in ((1, 1), (3, 1), (4, 10), (10, 10), (1000, 10)):  # sqrt(1 * 10) = 3.16
        assert find_row("mtt", "digits", ipc, "auto") == row("small", nearest)
    assert find_row("mtt", "mnist", 7, "auto") == mnist[0]  # sqrt(1 * 50) = 7.07
    assert find_row("mtt", "mnist", 8, "auto") == mnist[1]
    assert find_row("mtt", "mnist", 8, "small") == table[1]
    assert find_row("mtt", "digits", 8, "published") is None
    assert find_row("mtt", "digits", 8, "none") is None

    monkeypatch.setattr(config, "rows", lambda method: [row("small", 10) | {"values": {"lr_img": 5.0}}])  # noqa: ARG005
    assert resolved(ipc=7).origins["lr_img"] == "small recipe: any data set ipc 10, nearest to ipc 7 (s)"


@pytest.mark.parametrize("method", METHODS)
def test_every_shipped_row_is_valid(method):
    for row in rows(method):
        found = resolved(method=method, ipc=row["ipc"], recipe="none", **row["values"])
        given = {key: value for key, value in found.values().items() if key in row["values"]}
        assert given == row["values"]
        assert set(row) <= {"recipe", "dataset", "ipc", "source", "values"} and row["source"]
        assert row["recipe"] in ("published", "small")


def test_a_resolved_configuration_survives_its_file():
    """config.toml of a run gives back every value, in one layer over the defaults."""
    first = resolved(
        data_root=Path("somewhere"), tracker=["tensorboard"], eval_networks=["mlp", "lenet"], batch_syn=5, lr_lr=1e-7
    )
    again = read_resolved(tomllib.loads(to_toml(first.values(), first.origins)), "config.toml")
    assert again.run == first.run and again.method == first.method
    assert again.origins["lr_lr"] == "config.toml"


@pytest.mark.usefixtures("one_row")
def test_an_earlier_configuration_gets_nothing_from_recipes():
    found = read_resolved({"method": "mtt", "dataset": "digits", "ipc": 1}, "config.toml")
    assert (found.method.syn_steps, found.run.dsa) == (20, "color_crop_cutout_flip_scale_rotate")


def test_the_networks_of_the_evaluation():
    assert resolved(network="mlp").run.networks == ("mlp",)
    assert resolved(network="mlp", eval_networks=["lenet", "vit"]).run.networks == ("lenet", "vit")


def test_a_configuration_does_not_change():
    found = resolved()
    for part, key in ((found.run, "ipc"), (found.method, "syn_steps")):
        assert isinstance(part, BaseModel)
        with pytest.raises(ValueError, match="frozen"):
            setattr(part, key, 3)


def test_paths_are_kept_absolute_so_that_a_run_resumes_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = {"method": "mtt", "dataset": "npz:sub/x.npz", "data_root": "data", "buffer": "b"}
    found = resolve([Layer("test", values)])
    assert found.run.dataset == f"npz:{tmp_path}/sub/x.npz"
    assert (found.run.data_root, found.method.buffer) == (tmp_path / "data", tmp_path / "b")


def test_one_name_is_a_list_of_one():
    found = resolved(tracker="tensorboard", baselines="random", eval_networks="mlp").run
    assert (found.tracker, found.baselines, found.eval_networks) == (("tensorboard",), ("random",), ("mlp",))


def test_an_unknown_method_hides_no_other_problem_of_the_run():
    with pytest.raises(ConfigError) as caught:
        resolve([Layer("test", {"method": "ftdd", "ipc": 0, "dataset": "digit"})])
    lines = str(caught.value).splitlines()
    assert len(lines) == 3 and all(any(word in line for line in lines) for word in ("'ftd'", "ipc = 0", "'digits'"))


def test_rows_of_another_data_set_can_be_asked_for_and_missing_ones_are_refused():
    found = resolved(dataset="npz:x.npz", ipc=10, recipe="published:tiny_imagenet")
    assert (found.method.batch_syn, found.method.lr_img) == (200, 1e4)
    (line,) = problems(dataset="digits", recipe="published")
    assert "mtt has no such row for digits" in line and "published:cifar10" in line


def test_origins_survive_the_run_folder(tmp_path):
    resolved = resolve([Layer("--set", {"method": "ftd", "syn_steps": 3, "dsa": "none", "network": "convnet:width=4"})])
    with RunFolder.create(tmp_path / "run") as folder:
        folder.write_config(resolved.values(), resolved.origins)
        again = read_resolved(folder.read_config(), "config.toml", folder.read_origins())
    assert again == resolved
