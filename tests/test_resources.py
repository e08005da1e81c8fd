import pytest

from condense import resources
from condense.errors import ConfigError


def test_finds_the_shipped_file():
    assert "[mtt1000]" in resources.config_path("protocols").read_text()


def test_the_installed_folder_comes_first(tmp_path, monkeypatch):
    installed, checkout = tmp_path / "condense" / "configs", tmp_path / "configs"
    for folder in (installed, checkout):
        folder.mkdir(parents=True)
        (folder / "mtt.toml").touch()
    monkeypatch.setattr(resources, "_FOLDERS", (installed, checkout))
    assert resources.config_path("mtt") == installed / "mtt.toml"
    (installed / "mtt.toml").unlink()
    assert resources.config_path("mtt") == checkout / "mtt.toml"


def test_unknown_name_offers_the_closest():
    with pytest.raises(ConfigError, match="Did you mean 'protocols'"):
        resources.config_path("protocol")
