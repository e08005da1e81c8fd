"""The command line: flags, precedence, output, exit codes, and every kind of bad input."""

import hashlib
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.torch import load_file

import condense
from condense import api, config
from condense.cli import main
from condense.cli.report import columns, difference
from condense.cli.verbs import split_networks
from condense.data.named import CIFAR10_SHA256
from condense.errors import NumericsError
from condense.evaluation import load_protocol, protocols
from condense.methods import METHODS
from condense.runs import Stopped
from condense.text import seal

NETWORK = "convnet:width=4"
CANONICAL = "convnet:width=4,depth=2,norm=instance,pooling=avg,activation=relu"
SMALL = ["--set", "num_experts=1", "max_start_epoch=1", "expert_epochs=1", "syn_steps=2", "iterations=40"]
SMALL += ["eval_repeats=2", "baselines=['random']", "full_data=false", "protocol=quick", "--network", NETWORK]
RUN = ["run", "--method", "ftd", "--ipc", "1", *SMALL]

CONFIGURATION = ["--method", "--ipc", "--dataset", "--data-root", "--network", "--seed", "--device", "--tracker"]
CONFIGURATION += ["--download", "--config", "--set"]
EXECUTOR = ["--executor", "--jobs", "--ray-address", "--gpus-per-unit"]
EVALUATION = ["--networks", "--protocol", "--n", "--seed", "--dataset", "--data-root", "--device"]
FLAGS = {
    "run": [*CONFIGURATION, "--out", "--json"],
    "buffer": [*CONFIGURATION, *EXECUTOR],
    "resume": ["RUN", "--elsewhere", "--json"],
    "eval": ["ARTIFACT", *EVALUATION, "--robust", *EXECUTOR, "--json"],
    "bench": ["GRID", "--out", *EXECUTOR],
    "report": ["BENCH", "--out"],
    "export": ["ARTIFACT", "--format", "--out"],
    "import": ["SOURCE", "--out", "--dataset", "--data-root", "--labels", "--index"],
    "inspect": ["ARTIFACT", "--json"],
    "verify": ["ARTIFACT"],
    "ls": ["WHAT", "METHOD"],
    "show": [*CONFIGURATION, "--json"],
    "check": CONFIGURATION,
    "cite": ["METHOD"],
}
FLAGS["import"] += ["--mean", "--std", "--zca", "--preprocessing", "--method", "--citation", "--lr"]
"""Every verb with every argument: scripts depend on them, so a change here is a change of the public interface."""


def call(*arguments):
    """The exit code."""
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return stopped.value.code


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONDENSE_CACHE", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Each test runs in an empty folder of its own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run, made by the program as users start it; with what it printed."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    command = [sys.executable, "-m", "condense", *RUN, "--out", str(folder), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return SimpleNamespace(run=folder, artifact=folder / "distilled", stdout=done.stdout, stderr=done.stderr)


@pytest.fixture
def artifact(finished, here):
    """A copy of the distilled set, to be damaged or added to."""
    shutil.copytree(finished.artifact, here / "set")
    return here / "set"


def show(capsys, *arguments):
    assert call("show", *arguments, "--json") == 0
    return json.loads(capsys.readouterr().out)


# --- help and flags


def test_help_needs_neither_torch_nor_anything_else_that_is_slow():
    code = f"""
import sys
from condense.cli import main
for verb in {["", *FLAGS]!r}:
    try:
        main([*verb.split(), "--help"])
    except SystemExit as stopped:
        assert stopped.code == 0
print(sorted({{"torch", "numpy", "pydantic", "matplotlib", "sklearn"}} & set(sys.modules)), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"
    for verb in FLAGS:
        assert re.search(rf"^│ {verb} ", done.stdout, re.MULTILINE) and f"Usage: condense {verb}" in done.stdout


@pytest.mark.parametrize("verb", FLAGS)
def test_the_flags_are_frozen(verb, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    assert call(verb, "--help") == 0
    names = re.findall(r"^│ [ *]{0,3}(--[a-z-]+|[A-Z]+) ", capsys.readouterr().out, re.MULTILINE)
    assert names == FLAGS[verb]


def test_the_verbs_are_frozen(capsys):
    assert call("--help") == 0
    assert re.findall(r"^│ ([a-z]+) ", capsys.readouterr().out, re.MULTILINE) == sorted(FLAGS)


def test_the_reference_names_every_verb_and_flag():
    text = (Path(__file__).parent.parent / "docs" / "cli.md").read_text(encoding="utf-8")
    for verb, flags in FLAGS.items():
        assert f"| `{verb}" in text
        assert all(f"`{flag}" in text for flag in flags if flag.startswith("--") and verb != "export")


def test_a_closed_pipe_is_no_error():
    process = subprocess.Popen(
        [sys.executable, "-m", "condense", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()  # long before the program has started
    assert (process.stderr.read(), process.wait()) == (b"", 1)
    process.stderr.close()


def test_version(capsys):
    assert call("--version") == 0
    assert capsys.readouterr().out.strip() == condense.__version__


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["rnu"], 'Unknown command "rnu"'),
        (["run", "--icp", "3"], "Unknown option: --icp. Did you mean --ipc"),
        (["run", "--no-download"], "Unknown option: --no-download"),
        (["run", "--ipc", "many"], 'unable to convert "many" into int'),
        (["run", "--ipc"], "--ipc requires an argument"),
        (["run", "--set"], "--set"),
        (["run", "ftd"], "ftd"),
        (["eval"], "ARTIFACT requires an argument"),
        (["export", "x", "--format", "npz"], "--out requires an argument"),
        (["ls", "things"], 'Choose from: "methods"'),
        (["ls", "keys"], "needs a method"),
        (["ls", "methods", "ftd"], "takes no method, but 'ftd' was given"),
        (["cite", "fdt"], "Did you mean 'ftd'"),
    ],
)
def test_wrong_usage(arguments, words, capsys):
    assert call(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and words in err and err.startswith("error: ") and len(err.splitlines()) == 1


# --- configuration


def test_flags_beat_set_beats_config_beats_recipe_beats_default(capsys, here, monkeypatch):
    row = {"recipe": "small", "ipc": 1, "source": "a paper", "values": {"network": "lenet", "lr_img": 3.0}}
    monkeypatch.setattr(config, "rows", lambda method: [row])  # noqa: ARG005
    first, second = here / "first.toml", here / "second.toml"
    first.write_text("network = 'vgg11'\nlr_img = 5.0\n", encoding="utf-8")
    second.write_text("network = 'vit'\n", encoding="utf-8")

    def network(*arguments):
        return tuple(show(capsys, "--method", "mtt", *arguments)["network"].values())

    recipe = "small recipe: any data set ipc 1 (a paper)"
    config_flags = ["--config", first, "--config", second]
    assert network("--set", "recipe=none") == ("convnet", "default")
    assert network() == ("lenet", recipe)
    assert network("--config", first) == ("vgg11", str(first))
    assert network(*config_flags) == ("vit", str(second))
    assert network("--set", "network=mlp", *config_flags) == ("mlp", "--set")
    everything = ["--network", "alexnet", "--set", "network=mlp", *config_flags]
    assert network(*everything) == ("alexnet", "--network")

    shown = show(capsys, "--method", "mtt", *everything)
    assert shown["lr_img"] == {"value": 5.0, "origin": str(first)}
    assert shown["method"] == {"value": "mtt", "origin": "--method"}
    assert shown["ipc"] == {"value": 1, "origin": "default"}


def test_every_configuration_flag_reaches_its_key(capsys):
    given = {
        "method": "mtt",
        "ipc": 7,
        "dataset": "mnist",
        "data_root": str(Path("d").absolute()),
        "network": "mlp",
        "seed": 5,
        "device": "cpu",
    }
    flags = [text for key, value in given.items() for text in (f"--{key.replace('_', '-')}", value)]
    flags += ["--tracker", "wandb", "--tracker", "tensorboard", "--download"]
    shown = show(capsys, *flags)
    for key, value in {**given, "tracker": ["wandb", "tensorboard"], "download": True}.items():
        assert shown[key] == {"value": value, "origin": f"--{key.replace('_', '-')}"}


def test_assignments_can_be_repeated_and_listed(capsys):
    shown = show(
        capsys, "--method", "mtt", "--set", "syn_steps=3", "lr_lr=1e-3", "--set", "dsa=none", "--set", "syn_steps=4"
    )
    assert [shown[key]["value"] for key in ("syn_steps", "lr_lr", "dsa")] == [4, 0.001, "none"]


def test_show_has_a_line_for_every_key(capsys):
    assert call("show", "--method", "mtt", "--set", "recipe=none", "batch_syn=none") == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert lines.keys() == config.fields("mtt").keys()
    assert re.fullmatch(r"batch_syn +none +--set", lines["batch_syn"])
    assert re.fullmatch(r"full_data +true +default", lines["full_data"])
    assert re.fullmatch(r"network +convnet +default", lines["network"])
    assert lines["syn_steps"].index("20") == lines["method"].index("mtt")


# --- bad input: an error, an exit code, and nothing written

BAD = {
    "no method": ([], 2, "no method. Give --method NAME"),
    "unknown method": (["--method", "fdt"], 2, "unknown method 'fdt'. Did you mean 'ftd'"),
    "ipc 0": (["--ipc", "0"], 2, "--ipc: ipc = 0: Input should be greater than or equal to 1"),
    "ipc larger than a class": (["--ipc", "500"], 2, "ipc = 500: class '8' of digits has only 125 training images"),
    "unknown key": (["--config", "unknown.toml"], 2, "unknown.toml: unknown key 'sin_steps'. Did you mean 'syn_steps'"),
    "unknown key in --set": (["--set", "lr_imgs=3"], 2, "--set: unknown key 'lr_imgs'. Did you mean 'lr_img'"),
    "key of another method": (["--method", "mtt", "--set", "rho=0.1"], 2, "--set: unknown key 'rho'"),
    "wrong type": (["--config", "types.toml"], 2, "types.toml: syn_steps = 'many': Input should be a valid integer"),
    "wrong type in --set": (["--set", "zca=3"], 2, "--set: zca = 3: Input should be a valid boolean"),
    "assignment without =": (["--set", "zca"], 2, "--set 'zca': must be key=value"),
    "no config file": (["--config", "none.toml"], 2, "--config none.toml: No such file or directory"),
    "config file not TOML": (["--config", "broken.toml"], 2, "--config broken.toml: not valid TOML"),
    "unknown data set": (["--dataset", "cifra10"], 2, "unknown data set 'cifra10'. Did you mean 'cifar10'"),
    "unknown network": (["--network", "convent"], 2, "unknown network 'convent'. Did you mean 'convnet'"),
    "network for larger images": (["--network", "convnet:depth=4"], 2, "depth 4 halves images of 8 px to nothing"),
    "unknown device": (["--device", "gpu"], 2, "device 'gpu' cannot be used"),
    "unknown tracker": (["--tracker", "wandbb"], 2, "unknown tracker 'wandbb'. Did you mean 'wandb'"),
    "unknown protocol": (["--set", "protocol=quik"], 2, "unknown evaluation protocol 'quik'. Did you mean 'quick'"),
    "no validation split for the protocol": (
        ["--set", "protocol=fair", "validation=0"],
        2,
        "protocol 'fair' chooses the learning rate on a validation split, and there is none. Set validation above 0",
    ),
    "no validation split": (["--set", "eval_every=5", "validation=0"], 2, "eval_every needs a validation split"),
    "no data folder": (["--dataset", "cifar10", "--data-root", "nowhere"], 3, "/nowhere: no such folder"),
    "no data in the folder": (["--dataset", "mnist", "--data-root", "empty"], 3, "Add --download to the command"),
    "wrong checksum": (["--dataset", "cifar10", "--data-root", "cifar"], 3, "data_batch_1.bin is damaged: its SHA-256"),
    "no npz file": (["--dataset", "npz:none.npz"], 3, "/none.npz: not there"),
    "store of another network": (
        ["--network", "mlp", "--set", "buffer=store", "num_experts=1"],
        3,
        f"/store was made for another run: network: store has '{CANONICAL}', this run needs 'mlp'",
    ),
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A folder with the files that `BAD` names."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "unknown.toml").write_text("sin_steps = 3", encoding="utf-8")
    (folder / "types.toml").write_text("syn_steps = 'many'", encoding="utf-8")
    (folder / "broken.toml").write_text("syn_steps = ", encoding="utf-8")
    (folder / "empty").mkdir()
    (folder / "cifar" / "cifar-10-batches-bin").mkdir(parents=True)
    for name in CIFAR10_SHA256:
        (folder / "cifar" / "cifar-10-batches-bin" / name).write_bytes(b"not the official file")
    assert call("buffer", "--method", "ftd", *SMALL, "--set", f"buffer={folder / 'store'}") == 0
    return folder


def contents(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize("verb", ["run", "check"])
@pytest.mark.parametrize("arguments, code, words", BAD.values(), ids=BAD.keys())
def test_bad_input(verb, arguments, code, words, inputs, monkeypatch, capsys):
    monkeypatch.chdir(inputs)
    before = contents(inputs)
    method = [] if "--method" in arguments or not arguments else ["--method", "ftd"]
    out = ["--out", "new/run"] if verb == "run" else []
    capsys.readouterr()
    assert call(verb, *method, *arguments, *out) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert words in printed.err and all(line.startswith("error: ") for line in printed.err.splitlines())
    assert contents(inputs) == before


def test_several_problems_are_several_lines(capsys, here):
    assert call("run", "--method", "ftd", "--ipc", "0", "--network", "convent", "--set", "zca=3", "lr_imgs=2") == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4 and all(line.startswith("error: ") for line in lines)
    assert call("run", "--method", "ftd", "--ipc", "500", "--network", "convnet:depth=4") == 2
    assert len(capsys.readouterr().err.splitlines()) == 2  # what only the data can tell
    assert not list(here.iterdir())


def test_a_run_folder_that_is_taken_is_refused(capsys, finished, here):
    before = contents(finished.run)
    assert call(*RUN, "--out", finished.run) == 2
    assert (
        f"exists and is not empty. Continue that run with `condense resume {finished.run}`" in capsys.readouterr().err
    )
    assert contents(finished.run) == before
    assert call("resume", here) == 2
    assert "is not a run folder" in capsys.readouterr().err


DAMAGED = [["verify"], ["eval"], ["export", "--format", "npz", "--out", "out.npz"]]


@pytest.mark.parametrize("verb", DAMAGED, ids=lambda verb: verb[0])
def test_a_truncated_artifact_is_refused(verb, artifact, here, capsys):
    data = artifact / "data.safetensors"
    data.write_bytes(data.read_bytes()[:-1])
    before = contents(here)
    assert call(verb[0], artifact, *verb[1:]) == 3
    assert "data.safetensors: truncated" in capsys.readouterr().err
    assert contents(here) == before


@pytest.mark.parametrize("verb", [*DAMAGED, ["inspect"]], ids=lambda verb: verb[0])
def test_a_missing_or_broken_manifest_is_refused(verb, artifact, capsys):
    assert call(verb[0], "nowhere", *verb[1:]) == 3
    assert "nowhere: no such folder" in capsys.readouterr().err
    (artifact / "manifest.json").write_bytes(b"{")
    assert call(verb[0], artifact, *verb[1:]) == 3
    assert "manifest.json: not JSON" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--n", "0"], "eval_repeats = 0"),
        (["--protocol", "quik"], "Did you mean 'quick'"),
        (["--networks", "mlp,convent"], "unknown network 'convent'"),
        (["--networks", "convnet:depth=4"], "depth 4 halves images of 8 px to nothing"),
        (["--device", "gpu"], "device 'gpu' cannot be used"),
        (["--seed", "-1"], "seed = -1"),
    ],
)
def test_a_wrong_evaluation_is_refused(flags, words, artifact, here, capsys):
    before = contents(here)
    assert call("eval", artifact, *flags) == 2
    assert words in capsys.readouterr().err
    assert contents(here) == before


def test_a_wrong_export_is_refused(artifact, here, capsys):
    before = contents(here)
    assert call("export", artifact, "--format", "npy", "--out", "x") == 2
    assert call("export", artifact, "--format", "npz", "--out", artifact) == 2
    err = capsys.readouterr().err
    assert "Did you mean 'npz'" in err and "exists and is not overwritten" in err
    assert contents(here) == before


@pytest.mark.parametrize(
    "error, code, words",
    [
        (NumericsError("ftd, iteration 3: loss not finite"), 1, "error: ftd, iteration 3: loss not finite"),
        (OSError(28, "No space left on device"), 1, "error: [Errno 28] No space left on device"),
        (KeyboardInterrupt(), 130, "error: interrupted"),
        (Stopped(signal.SIGINT), 130, "stopped by SIGINT; `condense resume there` continues"),
        (Stopped(signal.SIGTERM), 75, "stopped by SIGTERM; `condense resume there` continues"),
    ],
)
def test_exit_codes_of_what_happens_during_a_run(error, code, words, monkeypatch, capsys):
    def run(resolved, out):  # noqa: ARG001
        raise error

    monkeypatch.setattr(api, "run", run)
    assert call(*RUN, "--out", "there") == code
    assert capsys.readouterr().err.strip() == words


def test_a_bug_keeps_its_traceback(monkeypatch):
    def run(resolved, out):  # noqa: ARG001
        raise RuntimeError("a bug")

    monkeypatch.setattr(api, "run", run)
    with pytest.raises(RuntimeError, match="a bug"):
        main([*RUN, "--out", "there"])


@pytest.mark.parametrize(
    "dataset, name",
    [
        ("digits", "digits-ftd-ipc1-seed3"),
        ("npz:a/b.npz", "npz-b-ftd-ipc1-seed3"),
        ("folder:/a/b", "folder-b-ftd-ipc1-seed3"),
    ],
)
def test_the_default_run_folder(dataset, name, monkeypatch, capsys):
    def run(resolved, out):  # noqa: ARG001
        raise NumericsError(str(out))

    monkeypatch.setattr(api, "run", run)
    call(*RUN, "--dataset", dataset, "--seed", "3")
    assert capsys.readouterr().err == f"error: runs/{name}\n"


# --- runs


def test_a_run_prints_one_json_object_on_stdout(finished):
    result = json.loads(finished.stdout)
    assert list(result) == ["artifact", "run", "evaluation", "evaluations", "baselines"]
    assert (result["artifact"], result["run"]) == (str(finished.artifact), str(finished.run))
    evaluation, random = result["evaluation"], result["baselines"]["random"]
    assert list(random) == [*evaluation, "evaluations"]
    assert result["evaluations"] == [evaluation] and list(result["baselines"]) == ["random"]
    assert (evaluation["network"], evaluation["protocol"], evaluation["n"]) == (CANONICAL, "quick", 2)
    assert len(evaluation["values"]) == 2 and 0.2 < evaluation["mean"] < 1  # fractions, above chance
    assert evaluation["mean"] == pytest.approx(sum(evaluation["values"]) / 2)
    manifest = json.loads((finished.artifact / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["evaluations"] == [evaluation]


def test_a_run_ends_with_a_table_on_stderr(finished):
    result = json.loads(finished.stdout)
    rows = re.findall(r"^│ (\w+) +│ +([\d.]+) ± [\d.]+ │ +(\d+) │$", finished.stderr, re.MULTILINE)
    means = [result["baselines"]["random"]["mean"], result["evaluation"]["mean"]]
    assert rows == [(name, f"{100 * mean:.1f}", "2") for name, mean in zip(("random", "ftd"), means, strict=True)]
    gain = 100 * (means[1] - means[0])
    assert re.search(rf"^ftd minus random: {re.escape(f'{gain:+.1f}')} ± ", finished.stderr, re.MULTILINE)
    assert finished.stderr.endswith(f"artifact  {finished.artifact}\npreview   {finished.artifact / 'preview.png'}\n")
    assert f"{CANONICAL}, protocol quick\n" in finished.stderr
    assert f"evaluating ftd on {NETWORK}: protocol quick\n" in finished.stderr  # the log


def test_resume_reports_a_finished_run(finished, capsys):
    assert call("resume", finished.run, "--json") == 0
    assert json.loads(capsys.readouterr().out) == json.loads(finished.stdout)
    assert call("resume", finished.run) == 0
    out, err = capsys.readouterr()
    assert out == "" and "ftd minus random" in err


def test_sigterm_gives_75_and_resume_the_same_bits(finished, here, capsys):
    command = [sys.executable, "-m", "condense", *RUN, "--out", "run"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    log = here / "run" / "metrics.jsonl"
    while process.poll() is None and not (log.exists() and log.stat().st_size):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate()
    assert process.returncode == 75 and "stopped by SIGTERM; `condense resume run` continues" in err
    assert list((here / "run" / "checkpoints").iterdir()) and not (here / "run" / "distilled").exists()
    assert 0 < len(log.read_text(encoding="utf-8").splitlines()) < 40

    assert call("resume", "run", "--json") == 0
    result, whole = json.loads(capsys.readouterr().out), json.loads(finished.stdout)
    assert result["evaluation"] == whole["evaluation"] and result["baselines"] == whole["baselines"]
    digests = [hashlib.sha256((folder / "distilled" / "data.safetensors").read_bytes()).hexdigest()
               for folder in (here / "run", finished.run)]  # fmt: skip
    assert digests[0] == digests[1]


def test_the_difference_to_random_is_over_pairs():
    ours, random = SimpleNamespace(values=(0.5, 0.7), n=2), SimpleNamespace(values=(0.4, 0.3), n=2)
    # differences 10 and 40 points: mean 25, standard error 15, t(0.975, 1) = 12.706
    assert difference("ftd", ours, random) == "ftd minus random: +25.0 ± 190.6 points, over 2 pairs of equal networks"


# --- the other verbs


def test_buffer_prints_the_folder_and_trains_once(here, capsys):
    command = ["buffer", "--method", "ftd", *SMALL, "--set", "buffer=store"]
    assert call(*command) == 0
    out, err = capsys.readouterr()
    assert out == f"{here}/store\n" and "experts 1/1" in err
    before = contents(here)
    assert call(*command) == 0
    assert "experts" not in capsys.readouterr().err and contents(here) == before
    assert call("buffer", "--method", "random") == 2
    assert "needs no experts" in capsys.readouterr().err


def test_eval_adds_to_the_manifest(finished, artifact, capsys):
    """The first network is the run's: the same numbers again, network by network."""
    assert call("eval", artifact, "--networks", f"{NETWORK},norm=instance,mlp", "--n", "1", "--json") == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert (result["artifact"], result["run"], result["baselines"]) == (str(artifact), None, {})
    assert result["evaluation"] == result["evaluations"][0]
    assert [e["network"] for e in result["evaluations"]] == [CANONICAL, "mlp"]
    assert result["evaluation"]["values"] == json.loads(finished.stdout)["evaluation"]["values"][:1]
    assert (result["evaluation"]["n"], result["evaluation"]["ci95"]) == (1, None)
    assert err.count("│ ftd ") == 2
    records = json.loads((artifact / "manifest.json").read_text(encoding="utf-8"))["evaluations"]
    assert [record["network"] for record in records] == [CANONICAL, CANONICAL, "mlp"]
    assert call("verify", artifact) == 0


def test_eval_takes_protocol_and_seed(artifact, capsys):
    assert call("eval", artifact, "--protocol", "dc300", "--seed", "4", "--n", "1", "--device", "cpu") == 0
    assert capsys.readouterr().out == ""
    record = json.loads((artifact / "manifest.json").read_text(encoding="utf-8"))["evaluations"][-1]
    assert (record["protocol"], record["seed"], record["augmentation"]) == ("dc300", 4, "none")


def test_eval_robust_prints_the_rows_and_the_scores(artifact, capsys, monkeypatch):
    brief = replace(load_protocol("quick"), epochs=2, full_data_epochs=1)
    monkeypatch.setattr(protocols, "load_protocols", lambda: {"quick": brief})
    assert call("eval", artifact, "--robust", "--networks", f"{NETWORK},mlp", "--n", "2", "--json") == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert list(result) == ["artifact", "run", "evaluation", "evaluations", "baselines", "robustness"]
    assert [evaluation["network"] for evaluation in result["evaluations"]] == [CANONICAL, "mlp"]
    found = result["robustness"]
    numbers = ["hlr", "ior", "lrs", "ars", "best_augmentation", "mean_augmentation", "mean_transfer"]
    assert list(found) == ["rows", *numbers] and len(found["rows"]) == 10
    first = found["rows"][0]
    assert first["evaluation"] == result["evaluation"]
    assert (first["training"], first["labels"], first["augmentation"]) == ("ftd", "hard", "dsa")
    assert found["mean_transfer"] == result["evaluations"][1]["mean"]
    shown = re.findall(
        r"^│ (ftd|random|full data) +│ (\w+) +│ hard +│ (\w+) +│ +([\d.]+) ± [\d.]+ │ +2 │ +[\d.]+ │$", err, re.M
    )
    means = [(row["training"], row["augmentation"], f"{100 * row['evaluation']['mean']:.1f}") for row in found["rows"]]
    assert [(training, augmentation, mean) for training, _, augmentation, mean in shown] == means
    for word in ("HLR", "IOR", "LRS", "DC-BENCH"):
        assert re.search(rf"^{word} ", err, re.MULTILINE)


def test_eval_refuses_other_data(artifact, here, capsys):
    images = np.zeros((20, 8, 8), np.uint8)
    labels = np.arange(20) % 10
    np.savez(here / "a.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    manifest = artifact / "manifest.json"
    content = json.loads(manifest.read_text(encoding="utf-8"))
    content["config"]["dataset"] = "npz:a.npz"
    manifest.write_bytes(seal(content, indent=2))
    assert call("eval", artifact) == 3
    assert "was made from another npz:a.npz" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text, specs",
    [
        ("convnet", ["convnet"]),
        ("convnet,resnet18,vit", ["convnet", "resnet18", "vit"]),
        ("convnet:width=32,depth=2,mlp", ["convnet:width=32,depth=2", "mlp"]),
        ("mlp,convnet:width=8,convnet:norm=batch,width=4", ["mlp", "convnet:width=8", "convnet:norm=batch,width=4"]),
        ("torchvision:mobilenet_v2,mlp", ["torchvision:mobilenet_v2", "mlp"]),
    ],
)
def test_network_lists(text, specs):
    assert split_networks(text) == specs


def test_export(artifact, here, capsys):
    assert call("export", artifact, "--format", "npz", "--out", "set.npz") == 0
    out, err = capsys.readouterr()
    assert out == "" and "10 images, exact, in set.npz" in err
    tensors = load_file(artifact / "data.safetensors")
    with np.load(here / "set.npz") as arrays:
        for name in ("images", "labels"):
            assert np.array_equal(arrays[name], tensors[name].numpy())


def test_inspect(finished, capsys):
    assert call("inspect", finished.artifact, "--json") == 0
    manifest = json.loads(capsys.readouterr().out)
    assert manifest == json.loads((finished.artifact / "manifest.json").read_text(encoding="utf-8"))
    assert call("inspect", finished.artifact) == 0
    out = capsys.readouterr().out
    (record,) = manifest["evaluations"]
    facts = {
        "method": "ftd, 1 images per class",
        "dataset": "digits (scikit-learn load_digits)",
        "images": "10 of 1x8x8",
        "labels": "hard, 10 classes: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9",
        "preprocessing": "mean_std",
        "learned lr": f"{manifest['lr']:.6g}",
        "bytes": "2652: images 2560, labels 80, preprocessing 8, lr 4",
        "evaluation": f"{100 * record['mean']:.1f} ± {100 * record['ci95']:.1f} % on {CANONICAL}, protocol quick, 2",
        "data.safetensors": hashlib.sha256((finished.artifact / "data.safetensors").read_bytes()).hexdigest(),
        "made": manifest["versions"]["torch"],
    }
    for name, fact in facts.items():
        assert re.search(rf"^{re.escape(name)} .*{re.escape(fact)}", out, re.MULTILINE), name


def test_verify(finished, capsys):
    assert call("verify", finished.artifact) == 0
    assert capsys.readouterr().out == f"{finished.artifact}: sound (data.safetensors, preview.png; 10 images)\n"


@pytest.mark.parametrize(
    "what, names",
    [
        (["methods"], list(METHODS)),
        (["datasets"], ["digits", "cifar10", "cifar100", "mnist", "fashion_mnist", "svhn", "folder:PATH", "npz:PATH"]),
        (["networks"], ["convnet", "mlp", "lenet", "alexnet", "vgg11", "resnet18", "vit", "torchvision:NAME"]),
        (["keys", "ftd"], list(config.fields("ftd"))),
        (["recipes", "ftd"], ["ftd"] * len(config.rows("ftd"))),
    ],
    ids=lambda value: value[0],
)
def test_ls(what, names, capsys):
    assert call("ls", *what) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == names


def test_ls_says_what_things_are(capsys):
    call("ls", "methods")
    out = capsys.readouterr().out
    summary = re.escape(METHODS["ftd"].summary)
    assert re.search(rf"^ftd +trajectory +arXiv 2211.11004 +experts +{summary}$", out, re.MULTILINE)
    assert re.search(r"^random +real images +arXiv 2006.05929 +- +real images of each class", out, re.MULTILINE)
    call("ls", "protocols")
    assert {"mtt1000", "dsa1000", "dc300", "quick"} <= {
        line.split()[0] for line in capsys.readouterr().out.splitlines()
    }
    call("ls", "recipes")
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines()} >= {"mtt", "ftd"}


def test_columns():
    assert columns([("a", "bcd", ""), ("ef", "g", "h")]) == "a   bcd\nef  g    h"


@pytest.mark.parametrize("method", METHODS)
def test_cite(method, capsys):
    assert call("cite", method) == 0
    out = capsys.readouterr().out
    assert out == METHODS[method].citation + "\n" and out.startswith("@")


def test_check_estimates_and_writes_nothing(here, cache, capsys):
    before = {path for path in cache.rglob("*") if "preprocessing" not in str(path)}
    assert call("check", *RUN[1:], "--set", "expert_lr=0.02") == 0
    out = capsys.readouterr().out
    for name in ("configuration", "data", "network", "disk", "memory", "time", "  experts", "  distillation"):
        assert re.search(rf"^{name} ", out, re.MULTILINE), name
    assert f"{CANONICAL}, 374 parameters" in out  # (4*9 + 4 + 8) + (4*4*9 + 4 + 8) + (16*10 + 10)
    assert "1295 training, 143 validation and 359 test images, 1x8x8, 10 classes" in out
    assert not list(here.iterdir())
    assert before == {path for path in cache.rglob("*") if "preprocessing" not in str(path)}
