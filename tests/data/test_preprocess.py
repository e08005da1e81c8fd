"""Preprocessing against numpy in float64, closed forms, and its cache."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kornia.enhance import ZCAWhitening

from condense.cache import cache_dir
from condense.data import PREPROCESSINGS, Preprocessing, RealData, Split, fit_preprocessing
from condense.errors import ConfigError, DataError, DiskError

EPS = 0.1


def real_data(images: torch.Tensor) -> RealData:
    split = Split(images, torch.arange(len(images)) % 2)
    return RealData("test", split, split, split, ("a", "b"), "", "", mirrored=True)


def smooth_images(n: int = 300, channels: int = 3, size: int = 5, seed: int = 0) -> torch.Tensor:
    """Images whose pixels are correlated and of unequal variance, as those of photographs, uint8."""
    rng = np.random.default_rng(seed)
    d = channels * size * size
    x = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) * np.linspace(0.2, 1, d)
    x = (x - x.min()) / (x.max() - x.min())
    return torch.from_numpy((x * 255).astype(np.uint8)).reshape(n, channels, size, size)


def rows(images: torch.Tensor) -> np.ndarray:
    return images.flatten(1).numpy().astype(np.float64) / 255


def oracle_zca(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(mean, whitening matrix, its inverse, eigenvalues of the covariance) by numpy, float64."""
    s, u = np.linalg.eigh(np.cov(x, rowvar=False))
    return x.mean(0), (u / np.sqrt(s + EPS)) @ u.T, (u * np.sqrt(s + EPS)) @ u.T, s


def test_mean_std_is_that_of_numpy() -> None:
    images = smooth_images()
    fit = fit_preprocessing("mean_std", real_data(images), None)
    x = images.numpy() / 255
    np.testing.assert_allclose(fit.tensors()["mean"], x.mean((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(fit.tensors()["std"], x.std((0, 2, 3)), rtol=1e-6)
    z = fit(images)
    assert z.dtype == torch.float32 and z.shape == images.shape
    np.testing.assert_allclose(z.double().mean((0, 2, 3)), np.zeros(3), atol=1e-6)
    np.testing.assert_allclose(z.double().std((0, 2, 3), correction=0), np.ones(3), rtol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_zca_is_that_of_numpy(channels: int) -> None:
    images = smooth_images(channels=channels)
    fit = fit_preprocessing("zca", real_data(images), None)
    mean, matrix, inverse, _ = oracle_zca(rows(images))
    np.testing.assert_allclose(fit.tensors()["mean"], mean, atol=1e-6)
    np.testing.assert_allclose(fit.tensors()["matrix"], matrix, atol=1e-6)
    np.testing.assert_allclose(fit.tensors()["inverse"], inverse, atol=1e-6)
    np.testing.assert_allclose(fit(images).flatten(1), (rows(images) - mean) @ matrix, atol=1e-5)


def test_zca_covariance_is_identity_up_to_eps() -> None:
    """Closed form: the covariance of whitened pixels has the eigenvalues s / (s + eps)."""
    images = smooth_images()
    z = fit_preprocessing("zca", real_data(images), None).to("cpu", torch.float64)(images)
    s = oracle_zca(rows(images))[3]
    np.testing.assert_allclose(np.linalg.eigvalsh(np.cov(z.flatten(1).numpy(), rowvar=False)), s / (s + EPS), atol=1e-6)


@pytest.mark.parametrize("kind", PREPROCESSINGS)
def test_only_the_training_split_is_fitted(kind: str) -> None:
    data = real_data(smooth_images())
    other = Split(smooth_images(seed=1), data.test.labels)
    changed = RealData("x", data.train, other, other, data.classes, "other", "", mirrored=False)
    fit, again = fit_preprocessing(kind, data, None), fit_preprocessing(kind, changed, None)
    assert all(torch.equal(fit.tensors()[name], value) for name, value in again.tensors().items())


@pytest.mark.parametrize("kind", PREPROCESSINGS)
def test_inverse_undoes_it(kind: str) -> None:
    images = smooth_images()
    fit = fit_preprocessing(kind, real_data(images), None)
    back = fit.inverse(fit(images))
    assert back.shape == images.shape
    assert (back - images / 255).abs().max() < 1e-5
    far = torch.full((1, 3, 5, 5), 9.0)  # pixels outside [0, 1] are neither clipped nor refused
    assert fit.inverse(far).max() > 1 and (fit(fit.inverse(far)) - far).abs().max() < 1e-4


@pytest.mark.parametrize("kind", PREPROCESSINGS)
def test_bytes_and_floats_in_0_1_are_the_same_images(kind: str) -> None:
    images = smooth_images()
    fit = fit_preprocessing(kind, real_data(images), None)
    from_floats = fit_preprocessing(kind, real_data(images / 255), None)
    assert torch.equal(fit(images), fit(images / 255))
    for name, value in fit.tensors().items():
        torch.testing.assert_close(from_floats.tensors()[name], value, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", PREPROCESSINGS)
def test_constant_channel_and_pixel_become_zero(kind: str) -> None:
    images = smooth_images()
    images[:, 1] = 77
    images[:, 0, 2, 2] = 200
    z = fit_preprocessing(kind, real_data(images), None)(images)
    assert z.isfinite().all() and z[:, 1].abs().max() < 1e-3
    assert kind == "mean_std" or z[:, 0, 2, 2].abs().max() < 1e-3


def test_zca_with_fewer_images_than_pixels() -> None:
    images = smooth_images(n=4)
    fit = fit_preprocessing("zca", real_data(images), None)
    assert (fit.inverse(fit(images)) - images / 255).abs().max() < 1e-5


def test_it_can_work_in_float64() -> None:
    images = smooth_images()
    fit = fit_preprocessing("zca", real_data(images), None).to("cpu", torch.float64)
    x = (images.double() / 255).requires_grad_()
    z = fit(x)
    assert z.dtype == torch.float64 and fit.to("cpu")(x).dtype == torch.float64
    weight = torch.randn(z.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (gradient,) = torch.autograd.grad((z * weight).sum(), x)
    torch.testing.assert_close(gradient.flatten(1), weight.flatten(1) @ fit.tensors()["matrix"].T)


@pytest.mark.parametrize("kind", PREPROCESSINGS)
def test_tensors_make_the_same_map(kind: str) -> None:
    images = smooth_images()
    fit = fit_preprocessing(kind, real_data(images), None)
    copy = Preprocessing.from_tensors(kind, fit.tensors())
    assert copy.kind == kind and torch.equal(copy(images), fit(images))


def test_bad_tensors_and_kinds_are_refused() -> None:
    good = {"mean": torch.zeros(3), "std": torch.ones(3)}
    bad: list[tuple[str, dict[str, torch.Tensor], str]] = [
        ("mean_std", {"mean": good["mean"]}, "needs the tensors mean, std"),
        ("zca", good, "needs the tensors mean, matrix, inverse"),
        ("mean_std", good | {"std": torch.ones(2)}, r"'std' must hold finite floats of shape \[3\]"),
        ("mean_std", good | {"mean": torch.tensor([0, 0, float("nan")])}, "'mean' must hold finite"),
        ("mean_std", good | {"std": torch.ones(3, dtype=torch.int64)}, "'std' must hold finite floats.*int64"),
        ("zca", {"mean": torch.zeros(4), "matrix": torch.eye(4), "inverse": torch.ones(4)}, r"'inverse'.*\[4, 4\]"),
    ]
    for kind, tensors, words in bad:
        with pytest.raises(DataError, match=words):
            Preprocessing.from_tensors(kind, tensors)
    with pytest.raises(ConfigError, match=r"preprocessing 'whitening'\. Allowed: mean_std, zca"):
        fit_preprocessing("whitening", real_data(smooth_images()), None)


# the cache


def bits(fit: Preprocessing) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in fit.tensors().items()}


def test_cache_hit_gives_the_same_bits_without_a_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = real_data(smooth_images())
    first = fit_preprocessing("zca", data, tmp_path)

    def refuse(*_: Any) -> None:
        raise AssertionError("fitted again")

    monkeypatch.setattr(ZCAWhitening, "fit", refuse)
    assert bits(fit_preprocessing("zca", data, tmp_path)) == bits(first)
    with pytest.raises(AssertionError, match="fitted again"):  # one pixel less
        fit_preprocessing("zca", real_data(data.train.images[1:]), tmp_path)


@pytest.mark.parametrize("kind", PREPROCESSINGS)
def test_damaged_cache_is_fitted_anew(tmp_path: Path, kind: str) -> None:
    data = real_data(smooth_images())
    fit = bits(fit_preprocessing(kind, data, tmp_path))
    (file,) = (tmp_path / "preprocessing").iterdir()
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[-3] ^= 1
    for damaged in (b"", whole[:30], whole[:-1], bytes(flipped)):
        file.write_bytes(damaged)
        assert bits(fit_preprocessing(kind, data, tmp_path)) == fit
        assert file.read_bytes() == whole and list(file.parent.iterdir()) == [file]


def test_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DiskError, match=rf"{tmp_path}/file/preprocessing cannot be written: .*CONDENSE_CACHE"):
        fit_preprocessing("mean_std", real_data(smooth_images()), tmp_path / "file")


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CONDENSE_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.delenv("CONDENSE_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".cache" / "condense"
