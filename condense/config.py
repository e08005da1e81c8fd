"""What a run is: one flat table of keys, each with its value and where that came from.

Later layers win:  defaults < method < data set < recipe row < --config FILE < --set < flags.

Keys of the run (`RunConfig`) and of the method (its `Config`) share one namespace, so `--set syn_steps=20` needs no
prefix. All problems are found at once and reported together.
"""

import math
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from condense.augment import DSA, FULL_STRATEGY
from condense.data import find_source
from condense.errors import ConfigError, unknown
from condense.evaluation import load_protocol
from condense.files import AbsolutePath, absolute
from condense.methods import METHODS, DecoupledConfig, MethodConfig, Names, NetworkSpec, get_method
from condense.processes import local_rank, started
from condense.resources import config_path
from condense.runs import TRACKERS
from condense.text import MOST_TOML, parse_toml, read_text

DISTILLING = "kd_small"
"""The protocol of methods whose labels are teachers', where nobody chooses one: others leave such labels out."""
MOST_IPC = 10**9
"""Rows are looked up for fewer: others have no ratio to them."""
MOST_PROBLEMS = 20
"""Unknown keys that are spelt out: to find a name that is like one takes a millisecond."""
MIRROR_FREE = "_".join(name for name in FULL_STRATEGY.split("_") if name != "flip")


def _checked(check: Callable[[str], object]) -> AfterValidator:
    """For text that `check` accepts. Its ConfigError is collected with all other problems."""

    def validate(text: str) -> str:
        check(text)
        return text

    return AfterValidator(validate)


def _check_device(name: str) -> None:
    try:
        torch.empty(0, device=_device(name))
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device {name!r} cannot be used: {str(error).splitlines()[0]}. Give cpu or cuda") from error


def _check_recipe(recipe: str) -> None:
    kind, colon, _ = recipe.partition(":")
    if kind not in ("published", "small") and (colon or recipe not in ("auto", "none")):
        raise ConfigError(
            unknown("recipe", recipe, ("auto", "published", "small", "none", "published:NAME", "small:NAME"))
        )


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and started() > 1:
        name = f"cuda:{local_rank()}"
    return torch.device(name)


def _check_tracker(name: str) -> None:
    if name not in TRACKERS:
        raise ConfigError(unknown("tracker", name, TRACKERS))


def check_baseline(name: str) -> None:
    """Raise ConfigError unless this is a method that learns nothing, so that its set is the same for every run."""
    untrained = [method for method in METHODS if not METHODS[method].Config.model_fields["iterations"].default]
    if name not in untrained:
        raise ConfigError(unknown("baseline (a method without iterations)", name, untrained))


def _absolute_name(dataset: str) -> str:
    kind, colon, path = dataset.partition(":")
    return f"{kind}:{absolute(Path(path))}" if colon else dataset


AnyConfig = TypeVar("AnyConfig", bound=BaseModel)


class EvaluationConfig(BaseModel):
    """The keys of an evaluation: the real data, and how fresh networks are trained."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    dataset: Annotated[str, _checked(find_source), AfterValidator(_absolute_name)] = Field(
        "digits", description="data set, see `condense ls datasets`; folder:PATH or npz:PATH"
    )
    data_root: AbsolutePath | None = Field(
        None, strict=False, description="folder of the data sets' files; none: the cache"
    )
    download: bool = Field(False, description="fetch missing data files")
    validation: float = Field(0.1, ge=0, lt=1, description="part of the training set held out for every choice")
    dsa: Annotated[str, _checked(DSA)] = Field(
        FULL_STRATEGY,
        description="augmentation strategy of the evaluation, and of methods that have none of their own: "
        "operators joined by _, or none",
    )
    seed: int = Field(0, ge=0, description="seed of everything random")
    device: Annotated[str, _checked(_check_device)] = Field(
        "auto", description="cpu, cuda, cuda:1, ...; auto: cuda where there is one"
    )
    protocol: Annotated[str, _checked(load_protocol)] = Field(
        "quick", description="evaluation protocol, see `condense ls protocols`"
    )
    eval_networks: Annotated[tuple[NetworkSpec, ...], Names] = Field(
        (), strict=False, description="networks to evaluate on; empty: `network`"
    )
    eval_repeats: int | None = Field(
        None, ge=1, description="fresh networks per evaluation; none: the protocol's number"
    )

    @property
    def networks(self) -> tuple[str, ...]:
        """The networks of the evaluation."""
        return self.eval_networks

    @property
    def torch_device(self) -> torch.device:
        return _device(self.device)


class RunConfig(EvaluationConfig):
    """The keys that every run has, whatever its method."""

    method: Annotated[str, _checked(get_method)] = Field(description="condenser, see `condense ls methods`")
    ipc: int = Field(1, ge=1, description="synthetic images per class")
    zca: bool = Field(False, description="ZCA whitening in place of mean and standard deviation")
    network: NetworkSpec = Field("convnet", description="network of the condenser, see `condense ls networks`")
    compile: Literal["auto", "on", "off"] = Field(
        "auto", description="compile the condenser's network; auto: where the work that is planned pays for it"
    )
    precision: Literal["fp32", "bf16"] = Field(
        "fp32",
        description="of the condenser's convolutions: bf16 rounds what they multiply, parameters and images stay fp32; "
        "needs compile",
    )
    micro_batch: int | None = Field(
        None, ge=1, description="images that go through the condenser's network at a time; none: all of a step"
    )
    memory_limit: float | None = Field(
        None,
        gt=0,
        description="memory of training and distillation, in GB (10^9 bytes): micro_batch is set by rehearsals so that "
        "they fit; none: no limit",
    )
    processes: int = Field(
        1, ge=1, description="processes that share each iteration, as many as torchrun starts: set by it"
    )
    recipe: Annotated[str, _checked(_check_recipe)] = Field(
        "auto",
        description="row of configs/<method>.toml that applies: auto (published, else small), published, small, none; "
        "published:NAME or small:NAME for the rows of another data set",
    )
    checkpoint_every: int = Field(50, ge=1, description="iterations between checkpoints")
    eval_every: int = Field(0, ge=0, description="iterations between validation accuracies in the log; 0: none")
    tracker: Annotated[tuple[Annotated[str, _checked(_check_tracker)], ...], Names] = Field(
        (), strict=False, description="also log to wandb, tensorboard"
    )
    baselines: Annotated[tuple[Annotated[str, _checked(check_baseline)], ...], Names] = Field(
        ("random", "kmeans"), strict=False, description="methods in the final table"
    )
    full_data: bool = Field(True, description="train on all real images too, for the final table")

    @property
    def networks(self) -> tuple[str, ...]:
        """The networks of the evaluation."""
        return self.eval_networks or (self.network,)


@dataclass(frozen=True)
class Layer:
    """Values from one place, and the words for that place."""

    origin: str
    values: dict[str, Any]


@dataclass(frozen=True)
class Resolved:
    """A complete, valid configuration, and where each key came from."""

    run: RunConfig
    method: MethodConfig
    origins: dict[str, str]

    def values(self) -> dict[str, Any]:
        """Every key with its value, as plain JSON and TOML types."""
        return self.run.model_dump(mode="json") | self.method.model_dump(mode="json")


def fields(method: str) -> dict[str, str]:
    """Every key that a run of this method has, with its description."""
    models: tuple[type[BaseModel], ...] = (RunConfig, get_method(method).Config)
    return {name: field.description or "" for model in models for name, field in model.model_fields.items()}


def rows(method: str) -> list[dict[str, Any]]:
    """The recipe rows of a method: recipe, dataset, ipc, source and values.

    A row of the file may list several data sets and several ipc; here each pair is a row of its own.
    """
    written = tomllib.loads(config_path(method).read_text(encoding="utf-8")).get("row", [])
    return [
        row | {"ipc": ipc} | ({} if dataset is None else {"dataset": dataset})
        for row in written
        for dataset in _list(row.get("dataset"))
        for ipc in _list(row["ipc"])
    ]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def find_row(method: str, dataset: str, ipc: int, recipe: str) -> dict[str, Any] | None:
    """The row of the nearest ipc (by ratio) for this data set, or for the one that `recipe` names after a colon.

    A row without a data set serves all others.
    """
    kind, _, named = recipe.partition(":")
    for kind_ in ("published", "small") if kind == "auto" else (kind,):
        of_kind = [row for row in rows(method) if row["recipe"] == kind_]
        fitting = [row for row in of_kind if row.get("dataset") == (named or dataset)]
        fitting = fitting or [row for row in of_kind if "dataset" not in row and not named]
        if fitting:
            return min(fitting, key=lambda row: abs(math.log(row["ipc"] / ipc)))
    return None


def read_config_file(path: Path) -> Layer:
    """A --config file: flat TOML. Raises ConfigError if it is missing or not TOML."""
    try:
        return Layer(str(path), parse_toml(read_text(path, MOST_TOML)))
    except OSError as error:
        raise ConfigError(f"--config {path}: {error.strerror}. Give the path of a TOML file") from error
    except ValueError as error:
        raise ConfigError(f"--config {path}: not valid TOML ({error})") from error


def parse_assignment(text: str) -> tuple[str, Any]:
    """key=value as TOML has it; a value that is not TOML is a string."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {text!r}: must be key=value, for example --set syn_steps=20")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except ValueError:
        return key.strip(), value.strip()


def resolve(layers: Sequence[Layer]) -> Resolved:
    """Merge the layers, lowest first, with defaults and the recipe row below them, and check everything.

    Raises ConfigError that lists every problem found.
    """
    given = {key: value for layer in layers for key, value in layer.values.items()}
    if "method" not in given:
        raise ConfigError(f"no method. Give --method NAME, one of {', '.join(sorted(METHODS))}")
    below: list[Layer] = []
    problems: list[str] = []
    method, dataset, ipc = str(given["method"]), given.get("dataset", "digits"), given.get("ipc", 1)
    recipe = str(given.get("recipe", "auto"))
    if method in METHODS and issubclass(METHODS[method].Config, DecoupledConfig):
        below.append(Layer(f"method {method}", {"protocol": DISTILLING}))
    if _is_source(dataset) and not find_source(str(dataset))[0].mirrored:
        below.append(Layer(f"data set {dataset}", {"dsa": MIRROR_FREE}))
    if (
        method in METHODS
        and isinstance(dataset, str)
        and isinstance(ipc, int)
        and 1 <= ipc < MOST_IPC
        and recipe != "none"
    ):
        row = find_row(method, dataset, ipc, recipe)
        if row is not None:
            below.append(Layer(_row_name(row, ipc), row["values"]))
        elif recipe.startswith(("published", "small")) and rows(method):
            held = sorted({f"{row['recipe']}:{row['dataset']}" for row in rows(method) if "dataset" in row})
            problems.append(f"recipe = {recipe!r}: {method} has no such row for {dataset}. There are {', '.join(held)}")
    return _validate([*below, *layers], problems)


def read_resolved(values: Mapping[str, Any], origin: str, origins: Mapping[str, str] | None = None) -> Resolved:
    """A configuration written by an earlier run: complete, so nothing is looked up below it.

    `origins` says where its values came from then; a key that it does not name comes from `origin`.
    """
    resolved = _validate([Layer(origin, dict(values))])
    return replace(resolved, origins=resolved.origins | dict(origins or {}))


def read_evaluation(values: Mapping[str, Any], origin: str) -> EvaluationConfig:
    """The keys of an evaluation among `values`, the configuration of the run that made a set or part of one."""
    known = EvaluationConfig.model_fields
    own = {key: value for key, value in values.items() if key in known}
    if not own.get("eval_networks"):
        own["eval_networks"] = values.get("network", "convnet")
    problems: list[str] = []
    config = _build(EvaluationConfig, own, dict.fromkeys(own, origin), problems)
    if config is None:
        raise ConfigError("\n".join(problems))
    return config


def _row_name(row: dict[str, Any], ipc: int) -> str:
    near = "" if row["ipc"] == ipc else f", nearest to ipc {ipc}"
    return f"{row['recipe']} recipe: {row.get('dataset', 'any data set')} ipc {row['ipc']}{near} ({row['source']})"


def _validate(layers: Sequence[Layer], problems: Sequence[str] = ()) -> Resolved:
    """Check the merged layers; `problems` are those found before. Of an unknown method no key can be judged."""
    values = {key: value for layer in layers for key, value in layer.values.items()}
    origins = {key: layer.origin for layer in layers for key in layer.values}
    method, problems = METHODS.get(str(values.get("method"))), list(problems)
    if method is not None:
        known = fields(method.name)
        strange = [key for key in values if key not in known]
        problems += [f"{origins[key]}: {unknown('key', key, known)}" for key in strange[:MOST_PROBLEMS]]
        problems += [f"and {len(strange) - MOST_PROBLEMS} more unknown keys"] * (len(strange) > MOST_PROBLEMS)
    run = _build(RunConfig, values, origins, problems)
    config = None if method is None else _build(method.Config, values, origins, problems)
    if problems:
        raise ConfigError("\n".join(problems))
    assert run is not None and config is not None
    return Resolved(run, config, dict.fromkeys(fields(run.method), "default") | origins)


def _build(
    model: type[AnyConfig], values: Mapping[str, Any], origins: Mapping[str, str], problems: list[str]
) -> AnyConfig | None:
    """`model` from those of the values that are its own; None, and words added to `problems`, if they do not fit."""
    own = model.model_fields
    try:
        return model.model_validate({k: _unset(v, own[k].annotation) for k, v in values.items() if k in own})
    except ValidationError as error:
        for found in error.errors():
            key = str(found["loc"][0])
            problems.append(_problem(key, found, origins.get(key, "default"), own[key].description or ""))
        return None


def _unset(value: Any, annotation: Any) -> Any:
    """None for the word none, where a key may have no value: TOML has no word for it."""
    if isinstance(value, str) and value.lower() == "none" and type(None) in get_args(annotation):
        return None
    return value


def _problem(key: str, error: Mapping[str, Any], origin: str, description: str) -> str:
    """One problem that pydantic found; what `_checked` collected says it all already."""
    if error["type"] == "value_error":
        return f"{origin}: {error['msg'].removeprefix('Value error, ')}"
    return f"{origin}: {key} = {error['input']!r}: {error['msg']} ({description})"


def _is_source(name: Any) -> bool:
    try:
        find_source(str(name))
    except ConfigError:
        return False
    return True
