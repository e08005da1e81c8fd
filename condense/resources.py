"""Where the package's own files are."""

from pathlib import Path

from condense.errors import ConfigError, unknown

_PACKAGE = Path(__file__).parent
_FOLDERS = (_PACKAGE / "configs", _PACKAGE.parent / "configs")  # in an installed wheel; in a checkout


def config_path(name: str) -> Path:
    """The file `<name>.toml` of the published hyper-parameters: `protocols`, or the name of a method.

    Raises ConfigError if there is none.
    """
    files = {path.stem: path for folder in reversed(_FOLDERS) for path in folder.glob("*.toml")}
    if name not in files:
        raise ConfigError(unknown("config file", name, files))
    return files[name]
