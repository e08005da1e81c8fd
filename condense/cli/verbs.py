"""The verbs. Each parses its flags, calls one function of the package and hands the result to condense.cli.report."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from condense import __version__
from condense.cli.flags import NO_FLAGS, THIS_PROCESS, ExecutorFlags, RunFlags
from condense.errors import ConfigError
from condense.processes import rank, started

logger = logging.getLogger("condense")

app = App(
    name="condense",
    help="Dataset distillation: turn a large labelled data set into a few synthetic images per class.",
    version=__version__,
    help_format="plaintext",
    default_parameter=Parameter(negative=(), show_default=False),
    suppress_keyboard_interrupt=False,
)

AsJson = Annotated[bool, Parameter(name="--json", help="Print one JSON object on stdout, all else on stderr.")]


@contextmanager
def _stoppable(advice: str) -> Iterator[None]:
    """Exit with 75 after SIGTERM and 130 after SIGINT, with a line that says what to do next."""
    from condense.runs import Stopped

    try:
        yield
    except Stopped as stopped:
        print(f"{stopped}; {advice}", file=sys.stderr)
        sys.exit(stopped.exit_code)


def _likewise() -> str:
    return ", started in the same way," if started() > 1 else ""


def _follow() -> None:
    """A run or resume on another rank than 0, which does what that says. It takes no flags, and reports nothing."""
    from condense import api
    from condense.runs import Stopped

    try:
        api.follow()
    except Stopped as stopped:
        sys.exit(stopped.exit_code)


@app.command
def run(flags: RunFlags = NO_FLAGS, *, out: Path | None = None, as_json: AsJson = False) -> None:
    """Distil a data set, evaluate the result and compare it with real images.

    Parameters
    ----------
    out
        Folder of the run, new or empty; default: runs/DATASET-METHOD-ipcIPC-seedSEED.
    """
    from condense import api
    from condense.cli import report
    from condense.runs import run_name

    if rank():
        _follow()
        return
    resolved = flags.resolve()
    if out is None:
        r = resolved.run
        out = Path("runs") / run_name(r.dataset, r.method, r.ipc, r.seed)
    with _stoppable(f"`condense resume {out}`{_likewise()} continues"):
        report.print_run(api.run(resolved, out), as_json)


@app.command
def buffer(flags: RunFlags = NO_FLAGS, *, where: ExecutorFlags = THIS_PROCESS) -> None:
    """Train the experts, or the teachers, that a run needs, and print the folder that holds them."""
    from condense import api

    with _stoppable("the same command continues"):
        print(api.train_buffer(flags.resolve(), where.choose()))


@app.command
def resume(run: Path, /, *, elsewhere: bool = False, as_json: AsJson = False) -> None:
    """Continue a run that was stopped, to the same bits as if it had not been; report a finished one.

    Parameters
    ----------
    run
        Its folder.
    elsewhere
        Go on where other bits may come out than where the run began (threads, instruction set, torch); the set says so.
    """
    from condense import api
    from condense.cli import report

    if rank():
        _follow()
        return
    with _stoppable(f"`condense resume {run}`{_likewise()} continues"):
        report.print_run(api.resume(run, elsewhere=elsewhere), as_json)


@app.command
def bench(grid: Path, /, *, out: Path, where: ExecutorFlags = THIS_PROCESS) -> None:
    """Run every cell of a grid of methods, data sets, images per class and seeds, and write the report.

    The same command continues a bench that was stopped or killed, tries failed cells again, and adds new ones.

    Parameters
    ----------
    grid
        TOML file of the grid, see docs/bench.md.
    out
        Folder of the bench.
    """
    from condense.bench import run_bench, write_report

    with _stoppable("the same command continues"):
        unfinished = run_bench(grid, out, where.choose())
        print(write_report(out))
    if unfinished:
        logger.warning("%d cells failed; the report says how, and the same command tries them again", len(unfinished))
        sys.exit(1)


@app.command(name="report")
def make_report(bench: Path, /, *, out: Path | None = None) -> None:
    """Write the tables and the page of a bench, as far as it is finished, and print where the page is.

    Parameters
    ----------
    bench
        Folder of the bench.
    out
        Folder to write to; default: report in it.
    """
    from condense.bench import write_report

    print(write_report(bench, out))


@app.command(name="eval")
def evaluate(
    artifact: Path,
    /,
    *,
    networks: str | None = None,
    protocol: str | None = None,
    n: int | None = None,
    seed: int | None = None,
    dataset: str | None = None,
    data_root: Path | None = None,
    device: str | None = None,
    robust: bool = False,
    where: ExecutorFlags = THIS_PROCESS,
    as_json: AsJson = False,
) -> None:
    """Train fresh networks on a distilled set, test them, and add the result to the set's manifest.

    Parameters
    ----------
    artifact
        Folder of the distilled set.
    networks
        Networks, separated by commas; default: as in the run.
    protocol
        How they are trained, see `condense ls protocols`; default: as in the run.
    n
        Fresh networks of each kind; default: as in the run.
    seed
        Seed of their initialisation and training; default: as in the run.
    dataset
        The data set that it was made from, where folder:PATH or npz:PATH has moved.
    data_root
        Folder with the files of the data set; default: as in the run.
    device
        cpu, cuda, cuda:1, ..., or auto; default: as in the run.
    robust
        Evaluate under other augmentations and with hard labels too, beside random images and the full data; print
        DD-Ranking's scores and DC-BENCH's numbers. Networks other than the run's are those of the transfer.
    """
    from condense import api
    from condense.cli import report

    given: dict[str, Any] = {
        "eval_networks": None if networks is None else split_networks(networks),
        "protocol": protocol,
        "eval_repeats": n,
        "seed": seed,
        "dataset": dataset,
        "data_root": data_root,
        "device": device,
    }
    values = {key: value for key, value in given.items() if value is not None}
    executor = where.choose()
    if robust:
        if executor is not None:
            raise ConfigError("--robust evaluates in this process: leave out --executor and --jobs")
        with _stoppable("the same command continues"):
            report.print_robustness(artifact, api.evaluate_robustness(artifact, **values), as_json)
    else:
        with _stoppable("the networks that were finished are recorded"):
            report.print_evaluations(artifact, api.evaluate_artifact(artifact, (), executor, **values), as_json)


def split_networks(text: str) -> list[str]:
    """The specs in a list separated by commas: a part such as depth=3 belongs to the spec before it."""
    specs: list[str] = []
    for part in text.split(","):
        if specs and "=" in part and ":" not in part:
            specs[-1] += f",{part}"
        else:
            specs.append(part)
    return specs


@app.command
def export(artifact: Path, /, *, format: str, out: Path) -> None:
    """Write a distilled set in a format of other programs.

    Parameters
    ----------
    artifact
        Folder of the distilled set.
    format
        pt or npz, which are exact; png, folder or parquet, which hold 8-bit pixels.
    out
        File or folder to write; it must not exist.
    """
    from condense.artifact import export, load_artifact

    logger.info(export(load_artifact(artifact), out, format))


@app.command(name="import")
def import_(
    source: Path,
    /,
    *,
    out: Path,
    dataset: str,
    data_root: Path | None = None,
    labels: Path | None = None,
    index: int | None = None,
    mean: str | None = None,
    std: str | None = None,
    zca: Path | None = None,
    preprocessing: Literal["mean_std", "zca"] | None = None,
    method: str = "imported",
    citation: str = "",
    lr: float | None = None,
) -> None:
    """Make a distilled set of ours from one that another program wrote.

    Parameters
    ----------
    source
        A .npz, .pt or .safetensors file, or a folder of images.
    out
        Folder to write; it must not exist.
    dataset
        Data set that it was made from, see `condense ls datasets`.
    data_root
        Folder with the files of the data set.
    labels
        File with the labels, for a source that has images alone.
    index
        Place of the set, from 0, in a file that holds several.
    mean
        Means by which the images were normalised, one for each channel, separated by commas.
    std
        Standard deviations, likewise.
    zca
        File with the whitening that was applied to the images: mean, matrix, inverse.
    preprocessing
        For 8-bit pixels: what is fitted to the real data and applied to them, mean_std or zca.
    method
        What made the set, in a word.
    citation
        What to cite for it.
    lr
        Learning rate that was learned with the set.
    """
    from condense import api

    api.import_set(
        source,
        out,
        dataset=dataset,
        data_root=data_root,
        labels=labels,
        index=index,
        mean=None if mean is None else split_numbers("--mean", mean),
        std=None if std is None else split_numbers("--std", std),
        zca=zca,
        preprocessing=preprocessing,
        method=method,
        citation=citation,
        lr=lr,
    )
    logger.info(f"{out}: imported; `condense eval {out}` evaluates it")


def split_numbers(flag: str, text: str) -> list[float]:
    """The numbers in a list separated by commas."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"{flag} {text}: must be numbers separated by commas, one for each channel") from None


@app.command
def inspect(artifact: Path, /, *, as_json: AsJson = False) -> None:
    """Print what a distilled set is and how it was made.

    Parameters
    ----------
    artifact
        Folder of the distilled set.
    """
    from condense.artifact import read_manifest
    from condense.cli import report

    manifest = read_manifest(artifact)
    print(manifest.to_json().decode().rstrip() if as_json else report.manifest_text(manifest))


@app.command
def verify(artifact: Path, /) -> None:
    """Check every file of a distilled set against its manifest, and every tensor.

    Parameters
    ----------
    artifact
        Folder of the distilled set.
    """
    from condense.artifact import verify

    manifest = verify(artifact)
    print(f"{artifact}: sound ({', '.join(manifest.payload)}; {manifest.images.shape[0]} images)")


@app.command
def ls(
    what: Literal["methods", "datasets", "networks", "protocols", "recipes", "keys"],
    method: str | None = None,
    /,
) -> None:
    """List what there is.

    Parameters
    ----------
    what
        The kind of thing.
    method
        For keys, the method whose keys are listed; for recipes, if not those of all methods are wanted.
    """
    from condense.cli import report

    if method is not None and what not in ("recipes", "keys"):
        raise ConfigError(f"`condense ls {what}` takes no method, but {method!r} was given")
    if method is None and what == "keys":
        raise ConfigError("`condense ls keys` needs a method, for example `condense ls keys ftd`")
    print(report.columns(report.listing(what, method)))


@app.command
def show(flags: RunFlags = NO_FLAGS, *, as_json: AsJson = False) -> None:
    """Print every key of a run, its value, and where the value came from."""
    from condense.cli import report

    resolved = flags.resolve()
    values, origins = resolved.values(), resolved.origins
    if as_json:
        report.print_json({key: {"value": value, "origin": origins[key]} for key, value in values.items()})
    else:
        print(report.columns([(key, report.word(value), origins[key]) for key, value in values.items()]))


@app.command
def check(flags: RunFlags = NO_FLAGS) -> None:
    """Find every mistake in a run's configuration and data, and rehearse it, to estimate its memory, disk and time."""
    from condense import api
    from condense.cli import report
    from condense.estimate import estimate

    resolved = flags.resolve()
    resolved, problem = api.fit_memory(*api.prepare(resolved))
    print(report.columns(report.check_rows(resolved, problem, estimate(resolved, problem))))


@app.command(show=False)
def rehearse() -> None:
    """Try each phase of the run that stdin describes. `check` starts this; the process is as that of `run`."""
    from condense import api, rehearsal  # noqa: F401
    from condense.cli import report  # noqa: F401

    rehearsal.main()


@app.command(show=False)
def unit(folder: Path, /) -> None:
    """Do the unit of work that stdin describes, in its folder. Commands with --jobs start this."""
    from condense.scale.local import do_unit

    with _stoppable("the command that started it does it again"):
        do_unit(folder, sys.stdin)


@app.command
def cite(method: str, /) -> None:
    """Print the BibTeX entry of a method's paper.

    Parameters
    ----------
    method
        Its name, see `condense ls methods`.
    """
    from condense.methods import get_method

    print(get_method(method).citation)
