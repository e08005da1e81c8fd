"""The teachers of decoupled methods: trained once, kept, and shared by all runs that name the same."""

import re
import signal
import weakref
from dataclasses import replace

import numpy
import pytest
import torch

from condense import api, provide, rehearsal
from condense.artifact import load_artifact, read_manifest
from condense.artifact.tensors import stored_bytes
from condense.comparison import baseline, validation_observer
from condense.config import Layer, resolve
from condense.errors import ConfigError, NumericsError
from condense.locks import lock
from condense.methods import METHODS
from condense.runs import StopFlag, Stopped
from condense.teachers import Teacher

WHOLE_NAMES = [f"convnet:width={width},depth=1,norm=batch,pooling=avg,activation=relu" for width in (4, 8)]
SMALL = {
    "network": "convnet:width=4,depth=1",
    "recipe": "none",
    "teachers": ["convnet:width=4,depth=1,norm=batch", "convnet:width=8,depth=1,norm=batch"],
    "teacher_epochs": 2,
    "teacher_lr": 0.05,
    "protocol": "kd_small",
    "eval_repeats": 1,
    "baselines": [],
    "full_data": False,
}
VIEWS = {"label_epochs": 2, "label_batch": 5}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CONDENSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(rehearsal, "TRY_SECONDS", 0.2)


@pytest.fixture
def trained(monkeypatch):
    """The networks that were trained as teachers, in order."""
    names, squeeze = [], provide.squeeze

    def watched(plan, *arguments, **options):
        names.append(plan.network)
        return squeeze(plan, *arguments, **options)

    monkeypatch.setattr(provide, "squeeze", watched)
    return names


def resolved_for(method="rded", **values):
    views = {} if method == "infer" else VIEWS  # by default its labels are not of views
    return resolve([Layer("test", SMALL | views | {"method": method} | values)])


def prepared(*arguments, **values):
    return api.prepare(resolved_for(*arguments, **values))


def pool(*arguments, **values):
    return provide.pool(*prepared(*arguments, **values), StopFlag())


def same(one, other):
    state, kept = one.state(), other.state()
    return state.keys() == kept.keys() and all(torch.equal(state[key], kept[key]) for key in state)


def test_teachers_are_trained_once_for_all_methods_that_name_them(trained):
    first, cost = pool("rded")
    assert trained == WHOLE_NAMES and cost.seconds > 0
    second, again = pool("cvdd", teacher_optimizer="sgd", teacher_weight_decay=5e-4, teacher_batch=128)
    assert trained == WHOLE_NAMES and again == cost  # what it took then
    assert all(same(*pair) and pair[0].accuracy == pair[1].accuracy for pair in zip(first, second, strict=True))
    (one,), _ = pool("rded", teachers=SMALL["teachers"][1:])  # in another place of another pool
    assert trained == WHOLE_NAMES and same(one, first[1])


@pytest.mark.parametrize("spelling", [SMALL["teachers"][0], "convnet:norm=batch,depth=1,width=4", WHOLE_NAMES[0]])
def test_two_teachers_of_one_kind_differ_however_it_is_spelt(spelling, trained):
    (one, other), _ = pool(teachers=[SMALL["teachers"][0], spelling])
    assert len(trained) == 2 and not same(one, other)
    (alone,), _ = pool(teachers=[spelling])
    assert len(trained) == 2 and same(alone, one)


@pytest.mark.parametrize(
    "values", [{"teacher_epochs": 3}, {"teacher_lr": 0.04}, {"seed": 1}, {"validation": 0.2}, {"zca": True}]
)
def test_what_decides_a_teacher_is_part_of_its_name(values, trained):
    pool()
    pool(**values)
    assert len(trained) == 4


def test_what_does_not_decide_a_teacher_is_no_part_of_its_name(trained):
    pool()
    pool(ipc=3, label_epochs=7, network="mlp", candidates=20)
    assert len(trained) == 2


def test_a_teacher_of_another_type_of_device_is_another_and_names_on_the_cpu_stay():
    """The name is that of the first version, whose files are still found."""
    resolved, problem = prepared(device="cpu")
    elsewhere = replace(problem, data=problem.data.to(torch.device("meta")))
    (plan, index), _ = provide.pool_plans(resolved, problem.data)
    here, there = (provide.pool_file(resolved, each, plan, index) for each in (problem, elsewhere))
    assert here.name == "fb7592a6b4f2062413a7cee20a7d7b14.safetensors" != there.name


def test_who_waited_for_a_teacher_then_does_not_train_it(trained, monkeypatch):
    """The process that has the lock trains the first meanwhile, and nobody the second."""

    def locked_by_another(path, wait):
        monkeypatch.setattr(provide, "lock", lock)
        pool(teachers=SMALL["teachers"][:1])
        return lock(path, wait)

    monkeypatch.setattr(provide, "lock", locked_by_another)
    pool()
    assert trained == WHOLE_NAMES


def test_a_teacher_that_is_damaged_is_trained_again_to_the_same_bits(trained, tmp_path):
    before, _ = pool()
    files = sorted((tmp_path / "cache" / "teachers").glob("*.safetensors"))
    files[0].write_bytes(files[0].read_bytes()[:-7])
    after, _ = pool()
    assert len(trained) == 3 and all(same(*pair) for pair in zip(before, after, strict=True))


def test_accuracies_are_of_the_validation_split():
    (teacher, _), _ = pool()
    _, problem = prepared()
    data = problem.data
    x = problem.preprocessing(data.validation.images)
    expected = (teacher.logits(x).argmax(1) == data.validation.labels).double().mean()
    assert teacher.accuracy == pytest.approx(float(expected))
    (without, _), _ = pool(validation=0.0)
    assert without.accuracy is None


CONVNET, MLP, VGG = "convnet:width=4,depth=2,norm=batch", "mlp", "vgg11:width=4,norm=batch"
REFUSED = {
    "no statistics to recover from": ("sre2l", {"teachers": [CONVNET, "convnet:width=4", MLP]}, 2, "has no batch norm"),
    "no map to choose patches by": ("sre2l", {"teachers": [MLP], "init": "critical"}, 2, "no class activation maps"),
    "a map of one position": ("nrrdd", {"teachers": [VGG, CONVNET]}, 1, "image of 8 px at a single position"),
    "no last layer": (
        "kd_subset",
        {"teachers": ["torchvision:squeezenet1_1"], "score": "grand", "score_epochs": 1, "dataset": "npz:large.npz"},
        1,
        "no last-layer gradients",
    ),
    "labels that nobody reads": ("rded", {"protocol": "quick"}, 1, "of rded are .* Choose .*: kd300, kd400, kd_small"),
    "the same of a baseline": (
        "infer",
        {"protocol": "quick", "ipc": 2, "baselines": ["random", "kd_subset"]},
        1,
        "those of kd_subset are what teachers say",
    ),
}


@pytest.mark.parametrize("method, values, lines, words", REFUSED.values(), ids=REFUSED.keys())
def test_what_would_be_in_vain_is_refused_before_any_work(method, values, lines, words, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    draws = torch.Generator().manual_seed(0)
    large = {"x": torch.rand(8, 1, 64, 64, generator=draws).numpy(), "y": torch.arange(8).numpy() % 2}
    numpy.savez("large.npz", x_train=large["x"], y_train=large["y"], x_test=large["x"], y_test=large["y"])
    with pytest.raises(ConfigError) as caught:
        prepared(method, **values)
    assert not trained and len(str(caught.value).splitlines()) == lines
    assert all(re.search(words, line) for line in str(caught.value).splitlines()[-1:]), caught.value


IDLE = {
    "sre2l": [
        {"view_area": 0.5},
        {"view_easy": 0.5},
        {"patch_factor": 2},
        {"init": "real", "crops": 3},
        {"label_group": 2},
        {"label_view": "shifted", "label_area": 1.0},
    ],
    "nrrdd": [{"labels": "logits", "dbr_weight": 2.0}],
    "cvdd": [{"vote": "equal", "vote_temperature": 1.0}, {"label_bn": "eval", "label_group": 4}],
    "kd_subset": [{"keep": "easy"}, {"score_networks": 2}],
    "infer": [
        {"ipc": 2, "label_epochs": 9},
        {"ipc": 2, "label_mix": "none"},
        {"ipc": 2, "label_batch": 32},
        {"ipc": 2, "label_bn": "batch", "label_group": 4, "label_batch": 32},
    ],
}


@pytest.mark.parametrize(("method", "values"), [(method, values) for method in IDLE for values in IDLE[method]])
def test_a_key_that_does_nothing_is_refused(method, values):
    key = list(values)[-1]
    with pytest.raises(ConfigError, match=f"^{key} = .* does nothing where .*: leave it out, or give its default, "):
        prepared(method, **values)
    default = METHODS[method].Config.model_fields[key].default
    prepared(method, **values | {key: "none" if default is None else default})


def test_a_key_that_does_something_is_not_refused():
    prepared("sre2l", view="resized", view_area=0.5, view_easy=0.5, init="easy", patch_factor=2)
    prepared("sre2l", label_bn="batch", label_group=2, label_area=1.0)
    prepared("nrrdd", dbr_weight=2.0)
    prepared("kd_subset", score="el2n", score_epochs=1, keep="easy")
    prepared("infer", ipc=2, label_bn="batch", label_batch=32)
    prepared("infer", ipc=2, labels="dynamic", label_epochs=9, label_mix="none")


def test_a_first_teacher_of_several_positions_may_have_others_after_it():
    prepared("nrrdd", teachers=[CONVNET, VGG])
    prepared("infer", protocol="quick", ipc=2)  # whose labels are those of the set


def test_methods_whose_labels_are_teachers_have_a_protocol_that_distils():
    def protocol(method, **values):
        found = resolve([Layer("here", {"method": method, "dataset": "mnist"} | values)])
        return found.run.protocol, found.origins["protocol"]

    assert protocol("rded") == ("kd_small", "method rded")
    assert protocol("rded", protocol="quick") == ("quick", "here")
    assert protocol("rded", dataset="cifar10")[0] == "kd300" and protocol("random") == ("quick", "default")


def test_a_stop_is_obeyed_between_two_epochs_of_a_teacher(monkeypatch):
    stop, calls = StopFlag(), []

    def check():
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(stop, "check", check)
    with pytest.raises(KeyboardInterrupt):
        provide.pool(*prepared(), stop)
    assert len(calls) == 3  # two epochs of the first teacher, which is kept, and one of the second


def test_a_teacher_that_diverges_is_not_kept(tmp_path):
    with pytest.raises(NumericsError, match=r"teacher 0 .* not\s+finite"):
        pool(teacher_lr=1e30)
    assert not list((tmp_path / "cache").glob("teachers/*.safetensors"))


class Stopping(StopFlag):
    """A stop that is asked for while it is looked for the n-th time."""

    def __init__(self, n):
        super().__init__()
        self.left = n

    def check(self):
        self.left -= 1
        if not self.left:
            raise Stopped(signal.SIGTERM)


def stopped_at(n, method, **values):
    """The set as it comes to be if the n-th look for a stop finds one; its teachers are there already."""
    resolved, problem = prepared(method, **values)
    provide.pool(resolved, problem, StopFlag())
    condenser = METHODS[method](resolved.method)
    provided, _ = provide.provide(resolved, problem, Stopping(n))
    return condenser.distilled(condenser.init(provided), provided)


def test_a_stop_is_obeyed_between_two_batches_of_labels(capsys):
    with pytest.raises(Stopped):
        stopped_at(3, "rded")
    assert "labels 3/4" in capsys.readouterr().err  # two epochs of ten images, five to a batch
    assert stopped_at(5, "rded").store is not None


def test_a_stop_is_obeyed_between_two_epochs_of_scores(capsys):
    scores = {"score": "el2n", "score_networks": 2, "score_epochs": 2}
    with pytest.raises(Stopped):
        stopped_at(3, "kd_subset", **scores)
    assert "scores 3/4" in capsys.readouterr().err
    assert stopped_at(9, "kd_subset", **scores).store is not None


def test_labels_for_the_log_are_not_stopped_as_the_loop_stops_between_two_iterations():
    resolved, problem = prepared("sre2l", iterations=1, eval_every=1, network="mlp")
    problem, _ = provide.provide(resolved, problem, StopFlag())
    condenser = METHODS["sre2l"](resolved.method)
    observe = validation_observer(resolved, condenser, replace(problem, watch=None))
    assert observe(condenser.init(problem), 0).keys() == {"validation_accuracy"}


def test_a_run_keeps_its_labels_and_says_what_all_of_it_took(tmp_path, trained):
    """Models are read once, not for each image of a class, and labels count in the bytes of the set."""
    result = api.run(resolved_for("sre2l", ipc=3, iterations=2), tmp_path / "run")
    assert len(trained) == 2 and set(result.making) == {"teachers", "distillation", "labels"}
    artifact, manifest = load_artifact(result.artifact), read_manifest(result.artifact)
    assert artifact.store is not None and artifact.store.values.shape == (2, 30, 10)
    assert stored_bytes(manifest)["labels"] == 30 * 8 + sum(t.nbytes for t in stored_tensors(artifact.store).values())
    assert result.evaluations[0].epochs == 2 and result.evaluations[0].updates == 2 * 6


def stored_tensors(store):
    """The tensors of a store in the types of the format."""
    types = {"order": torch.int32, "partners": torch.int32, "boxes": torch.int16, "patches": torch.int16}
    return {name: tensor.to(types.get(name, tensor.dtype)) for name, tensor in store.tensors().items()}


def test_labels_are_made_without_any_teacher_being_read_again(tmp_path, monkeypatch):
    resolved, problem = prepared("sre2l", ipc=3, iterations=2)
    read, load = [], provide.load
    monkeypatch.setattr(provide, "load", lambda content: read.append(1) or load(content))
    provide.pool(resolved, problem, StopFlag())
    api.run(resolved, tmp_path / "run")
    assert len(read) == 2  # by the run, each teacher once


def test_nothing_of_torch_is_replaced(tmp_path):
    """The published replay of labels puts functions of its own into torch's data loader."""
    from torch.utils.data import _utils

    before = dict(vars(_utils.fetch._MapDatasetFetcher))
    api.run(prepared("sre2l", iterations=1)[0], tmp_path / "run")
    assert dict(vars(_utils.fetch._MapDatasetFetcher)) == before


def test_a_baseline_beside_a_decoupled_run_has_its_teachers_and_labels():
    resolved, _ = prepared("sre2l", label_epochs=7, teacher_epochs=3)
    beside = baseline("rded", resolved).method
    assert (beside.label_epochs, beside.teacher_epochs, beside.teachers) == (7, 3, resolved.method.teachers)
    assert beside.iterations == 0
    assert baseline("kmeans", resolved).method.iterations == 0


def phases(resolved, problem):
    return {phase.name: phase for phase in rehearsal.Rehearsal(resolved, problem).whole()}


def test_a_rehearsal_counts_teachers_labels_and_the_updates_of_the_store():
    resolved, problem = prepared("sre2l", ipc=2, iterations=3)
    found = phases(resolved, problem)
    assert found["teachers"].units == 2 * -(-len(problem.data.train) // 128)
    assert found["distillation"].units == 3 and found["labels"].units == 2
    listed = [phase for phase in rehearsal.Rehearsal(resolved, problem).whole() if phase.name == "evaluation of sre2l"]
    assert listed[0].units == 2 * 4
    provide.pool(resolved, problem, StopFlag())
    assert "teachers" not in phases(resolved, problem)


def test_a_last_view_of_a_store_that_joins_its_neighbours_is_no_update(tmp_path):
    """Ten images in batches of nine are one batch."""
    resolved, problem = prepared("kd_subset", label_batch=9)
    listed = [phase.units for phase in rehearsal.Rehearsal(resolved, problem).whole() if "evaluation" in phase.name]
    (made,) = api.run(resolved, tmp_path / "run").evaluations
    assert listed[0] == made.updates == 2


def test_a_stand_in_for_a_teacher_has_the_statistics_of_real_images():
    """So its running statistics and those of the images agree, and it says finite things."""
    resolved, problem = prepared()
    (plan, _), _ = provide.pool_plans(resolved, problem.data)
    before = torch.get_rng_state()
    stand_in = rehearsal.Rehearsal(resolved, problem)._stand_in(plan)
    assert torch.equal(torch.get_rng_state(), before)
    images = problem.preprocessing(problem.data.train.images[: rehearsal.FEW])
    logits, distance = stand_in.describe(images)
    assert 0 < logits.abs().max() < 10 and distance < 0.1
    assert distance < 0.1 * stand_in.describe(images.roll(3, 2) * 2)[1]


@pytest.mark.parametrize("method", ["sre2l", "infer", "nrrdd"])
def test_labels_that_are_not_finite_end_a_rehearsal_with_words(method, monkeypatch):
    resolved, problem = prepared(method, iterations=1, ipc=2)
    monkeypatch.setattr(Teacher, "logits", lambda teacher, x, bn="eval": torch.full((len(x), 10), torch.nan))  # noqa: ARG005
    monkeypatch.setattr(Teacher, "activation_map", lambda teacher, x, y: torch.ones(len(x), 8, 8))  # noqa: ARG005
    with pytest.raises(ConfigError, match=rf"would not get to its end\. .*{method}.* not finite"):
        list(rehearsal.Rehearsal(resolved, problem).whole())


def test_a_rehearsal_holds_one_set_of_those_that_it_tries(monkeypatch):
    resolved, problem = prepared("rded", label_epochs=50)
    held, original = [], METHODS["rded"].distilled

    def distilled(condenser, state, problem):
        made = original(condenser, state, problem)
        alive = [each() for each in held]
        assert not any(alive)
        held.append(weakref.ref(made))
        return made

    monkeypatch.setattr(METHODS["rded"], "distilled", distilled)
    list(rehearsal.Rehearsal(resolved, problem).whole())
    assert len(held) > 2


def test_labels_for_the_log_count():
    """All epochs of views, each time."""
    resolved, problem = prepared("sre2l", ipc=2, iterations=7, eval_every=3)
    whole = rehearsal.Rehearsal(resolved, problem).whole()
    assert [phase.units for phase in whole if phase.name == "validation"] == [2 * 2 * 4, 2, 2 * 2]


def test_networks_that_score_are_rehearsed_a_batch_at_a_time(monkeypatch):
    monkeypatch.setattr("condense.methods.kd_subset.hardness", None)
    resolved, problem = prepared("kd_subset", score="grand", score_networks=3, score_epochs=2)
    assert phases(resolved, problem)["scores"].units == 3 * 2 * -(-len(problem.data.train) // 128)
    assert "scores" not in phases(*prepared("kd_subset"))


@pytest.mark.parametrize("method", ["sre2l", "infer", "nrrdd", "kd_subset"])
def test_a_rehearsal_tells_the_bytes_of_the_set(method, tmp_path):
    learns = {} if method == "kd_subset" else {"iterations": 1}
    resolved = resolved_for(method, ipc=3, **learns)
    made = read_manifest(api.run(resolved, tmp_path / "run").artifact)
    told = [phase.set_bytes for phase in rehearsal.Rehearsal(*api.prepare(resolved)).whole()]
    assert [size for size in told if size] == [sum(stored_bytes(made)[part] for part in ("images", "labels"))]


def test_teachers_that_several_sets_need_are_rehearsed_once():
    resolved, problem = prepared("sre2l", iterations=1)
    beside = replace(resolved, run=resolved.run.model_copy(update={"baselines": ("rded",)}))
    names = [phase.name for phase in rehearsal.Rehearsal(beside, problem).whole()]
    assert names.count("teachers") == 2 and names.count("labels") == 2
