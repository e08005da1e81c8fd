"""The flags that describe a run, shared by the verbs that need one."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from condense.config import Resolved


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
