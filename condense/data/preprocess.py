"""From pixels to the space that networks train in, and back."""

import hashlib
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Literal, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from condense.data.raw import fingerprint
from condense.data.types import RealData
from condense.errors import ConfigError, DataError, unknown
from condense.files import make_folder, write_atomic
from condense.loading import undisturbed

Kind = Literal["mean_std", "zca"]
PREPROCESSINGS: tuple[Kind, ...] = get_args(Kind)

ZCA_EPS = 0.1
CHUNK = 4096
"""Images at a time: in float64 a whole set takes eight times its bytes."""
STD_FLOOR = 1e-3
"""Least standard deviation, a quarter of a grey level: a constant channel becomes 0 rather than NaN."""

_NAMES: dict[str, tuple[str, ...]] = {"mean_std": ("mean", "std"), "zca": ("mean", "matrix", "inverse")}


@dataclass(frozen=True, eq=False)
class Preprocessing:
    """An invertible affine map of images [n, ch, h, w] with pixels x in [0, 1]; D = ch h w.

    kind "mean_std": z = (x - mean) / std, with mean and std [ch].
    kind "zca": z = (x - mean) matrix, on rows of D pixels, with mean [D], matrix = U diag(s + eps)^(-1/2) U^T and
    inverse = U diag(s + eps)^(1/2) U^T its exact inverse, both [D, D] (see `fit_preprocessing`).
    """

    kind: Kind
    values: dict[str, Tensor]

    def __call__(self, images: Tensor) -> Tensor:
        """z from uint8 images (divided by 255) or float images in [0, 1], in the map's type (float32 when fitted)."""
        mean = self.values["mean"]
        x = images.to(mean.dtype)
        if images.dtype == torch.uint8:
            x = x / 255
        if self.kind == "zca":
            return ((x.flatten(1) - mean) @ self.values["matrix"]).view(x.shape)
        return (x - mean[:, None, None]) / self.values["std"][:, None, None]

    def inverse(self, z: Tensor) -> Tensor:
        """x from z: pixels, not clipped, so that a z which no image has may leave [0, 1]."""
        mean = self.values["mean"]
        if self.kind == "zca":
            return (z.flatten(1) @ self.values["inverse"] + mean).view(z.shape)
        return z * self.values["std"][:, None, None] + mean[:, None, None]

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> "Preprocessing":
        """The same map on another device, working in `dtype` if one is given."""
        return replace(self, values={name: value.to(device=device, dtype=dtype) for name, value in self.values.items()})

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that define the map, by the names of the class docstring."""
        return dict(self.values)

    @property
    def sha256(self) -> str:
        """SHA-256 of the tensors that define the map: two maps of a kind with the same are the same."""
        return fingerprint(*self.values.values())

    @staticmethod
    def from_tensors(kind: str, tensors: dict[str, Tensor]) -> "Preprocessing":
        """The map that `tensors()` was read from. Raises ConfigError for an unknown kind, DataError for bad tensors."""
        checked = check_kind(kind)
        names = _NAMES[checked]
        if set(tensors) != set(names):
            raise DataError(f"preprocessing {kind!r} needs the tensors {', '.join(names)}, not {sorted(tensors)}.")
        size = tensors["mean"].numel()
        for name, tensor in tensors.items():
            shape = (size, size) if name in ("matrix", "inverse") else (size,)
            if tensor.shape != shape or not tensor.is_floating_point() or not tensor.isfinite().all():
                raise DataError(
                    f"preprocessing {kind!r}: tensor {name!r} must hold finite floats of shape {list(shape)}, but is "
                    f"{list(tensor.shape)} {tensor.dtype}."
                )
        return Preprocessing(checked, {name: tensors[name] for name in names})


def check_kind(kind: str) -> Kind:
    """`kind` if it is one of `PREPROCESSINGS`; else raises ConfigError."""
    for known in PREPROCESSINGS:
        if kind == known:
            return known
    raise ConfigError(unknown("preprocessing", kind, PREPROCESSINGS))


def fit_preprocessing(kind: str, data: RealData, cache: Path | None) -> Preprocessing:
    """Fit the map to the N training images of `data`, in float64 on the CPU, and round it to float32 (on the CPU).

    "mean_std": mean and standard deviation (over N h w, at least `STD_FLOOR`) of each channel.
    "zca": mean of each pixel, Sigma = (X - mean)^T (X - mean) / (N - 1) = U diag(s) U^T, eps = 0.1 (`ZCA_EPS`) inside
    the root, by kornia.enhance.ZCAWhitening. Whitened pixels have the covariance U diag(s / (s + eps)) U^T, near 1
    where s >> eps; a constant pixel (s = 0) gives 0. Needs about 16 N D bytes.

    `cache` is the cache folder (`condense.cache.cache_dir()`): the fit is kept in its preprocessing/, under the hash
    of all that decides it, and a damaged file is fitted anew. None keeps nothing.
    Raises ConfigError for an unknown kind, DiskError if the cache cannot be written to.
    """
    checked = check_kind(kind)
    images = data.train.images.cpu()
    if cache is None:
        return _fit(checked, images)
    file = _file(cache / "preprocessing", checked, images)
    fit = _read(checked, file)
    if fit is None:
        fit = _fit(checked, images)
        _write(fit, file)
    return fit


def _fit(kind: Kind, images: Tensor) -> Preprocessing:
    if kind == "zca":
        with undisturbed():
            from kornia.enhance import ZCAWhitening  # slow to import

        zca = ZCAWhitening(eps=ZCA_EPS, unbiased=True, compute_inv=True).fit(_double(images))
        values = {"mean": zca.mean_vector[0], "matrix": zca.transform_matrix, "inverse": zca.transform_inv}
    else:
        chunks, count = images.split(CHUNK), images[:, 0].numel()
        mean = torch.stack([_double(chunk).sum((0, 2, 3)) for chunk in chunks]).sum(0) / count
        squares = [(_double(chunk) - mean[:, None, None]).square().sum((0, 2, 3)) for chunk in chunks]
        std = (torch.stack(squares).sum(0) / count).sqrt()
        values = {"mean": mean, "std": std.clamp(min=STD_FLOOR)}
    return Preprocessing(kind, values).to("cpu", torch.float32)


def _double(images: Tensor) -> Tensor:
    """Pixels in [0, 1]. Kornia works in the type of its input, and float32 is too coarse for sums over many images."""
    x = images.double()
    return x.div_(255) if images.dtype == torch.uint8 else x


def _file(folder: Path, kind: Kind, images: Tensor) -> Path:
    """Where the fit to `images` is kept: the name has the hash of all that decides it."""
    parts = (fingerprint(images), ZCA_EPS, STD_FLOOR, version("torch"), version("kornia"))
    digest = hashlib.sha256(repr(parts).encode()).hexdigest()
    return folder / f"{kind}-{digest[:32]}.safetensors"


def _read(kind: Kind, file: Path) -> Preprocessing | None:
    """The fit kept in `file`, or None if there is none or it is damaged."""
    if not file.is_file():
        return None
    try:
        with safe_open(file, "pt") as stored:
            fit = Preprocessing.from_tensors(kind, {name: stored.get_tensor(name) for name in stored.keys()})  # noqa: SIM118
            intact = stored.metadata() == {"sha256": fit.sha256}
    except (OSError, SafetensorError, DataError):
        return None
    return fit if intact else None


def _write(fit: Preprocessing, file: Path) -> None:
    make_folder(file.parent)
    write_atomic(file, save({k: v.contiguous() for k, v in fit.values.items()}, metadata={"sha256": fit.sha256}))
