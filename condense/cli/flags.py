"""The flags that describe a run, shared by the verbs that need one."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from condense.errors import ConfigError

if TYPE_CHECKING:
    from condense.config import Resolved
    from condense.scale import Executor


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class RunFlags:
    """A flag that is not given leaves its key to the layers below: --set, then --config, then recipe and defaults."""

    method: str | None = None
    """Condenser, see `condense ls methods`."""
    ipc: int | None = None
    """Synthetic images per class."""
    dataset: str | None = None
    """Data set, see `condense ls datasets`."""
    data_root: Path | None = None
    """Folder with the files of the data set."""
    network: str | None = None
    """Network of the condenser, see `condense ls networks`."""
    seed: int | None = None
    """Seed of everything random."""
    device: str | None = None
    """cpu, cuda, cuda:1, ...; auto: cuda where there is one."""
    tracker: list[str] | None = None
    """Log to wandb or tensorboard too; repeatable."""
    download: bool | None = None
    """Fetch missing data files."""
    config: list[Path] | None = None
    """TOML file of keys and values; of several the last one wins."""
    assignments: Annotated[list[str] | None, Parameter(name="--set", consume_multiple=(1, None))] = None
    """key=value for any key of `condense ls keys METHOD`; repeatable."""

    def resolve(self) -> "Resolved":
        """The complete configuration. Raises ConfigError that lists every problem found."""
        from condense.config import Layer, parse_assignment, read_config_file, resolve

        layers = [read_config_file(path) for path in self.config or ()]
        layers.append(Layer("--set", dict(parse_assignment(text) for text in self.assignments or ())))
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and field.name not in ("config", "assignments"):
                layers.append(Layer(f"--{field.name.replace('_', '-')}", {field.name: value}))
        return resolve(layers)


NO_FLAGS = RunFlags()


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ExecutorFlags:
    """Where the independent parts of a command are done, and how many at a time."""

    executor: Literal["local", "ray"] = "local"
    """Where the parts are done: local, on this machine; ray, on a Ray cluster, see docs/scale.md."""
    jobs: int | None = None
    """Parts at a time; they share the cores. Default: 1; with ray as many as the cluster has room for."""
    ray_address: str | None = None
    """The Ray cluster, as HOST:PORT or auto; default: RAY_ADDRESS, or one that is started here, for this command."""
    gpus_per_unit: float | None = None
    """GPUs of the Ray cluster for each part; 0.5: two parts on each."""

    def choose(self) -> "Executor | None":
        """The executor; None for this process, or one at a time. Raises ConfigError for flags that do not fit."""
        from condense.scale import Local, Ray

        if self.executor == "ray":
            return Ray(self.ray_address, self.jobs, self.gpus_per_unit)
        for flag, value in (("--ray-address", self.ray_address), ("--gpus-per-unit", self.gpus_per_unit)):
            if value is not None:
                raise ConfigError(f"{flag} {value} is for --executor ray; leave it out, or add that")
        return None if self.jobs in (None, 1) else Local(self.jobs)


THIS_PROCESS = ExecutorFlags()
