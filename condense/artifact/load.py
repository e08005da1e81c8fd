"""Reading a distilled set: nothing is returned before all of it has been checked."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor
from torch.utils.data import Dataset

from condense.artifact.format import DATA, MANIFEST, STORE, Manifest, Payload, parse_manifest
from condense.artifact.tensors import COMPENSATORS, check_store, check_tensors
from condense.data.preprocess import Preprocessing
from condense.errors import ArtifactError, ConfigError
from condense.synthetic import DistilledSet, LabelStore
from condense.text import MOST_JSON, parse_json, read_text

MOST_HEADER = 2**16
"""The largest header of a file of tensors, in bytes: a tensor without numbers takes none in the file, and some here."""


@dataclass(frozen=True, eq=False, repr=False)
class Artifact(Dataset[tuple[Tensor, Tensor]]):
    """A distilled set as a torch Dataset of (image, label) in preprocessed space, ready for a DataLoader.

    `images` [n, ch, h, w] float32; `labels` int64 [n], or probabilities [n, classes] float32, as
    torch.nn.functional.cross_entropy takes them. Real images to test on go through `preprocess`. These are the images
    to train on; `stored` is the set as the file has it, which differs where a stored image is a mosaic of several, or
    compensators make more of it.
    """

    images: Tensor
    labels: Tensor
    stored: DistilledSet
    preprocessing: Preprocessing
    manifest: Manifest

    def __len__(self) -> int:
        return self.images.shape[0]

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.images[index], self.labels[index]

    def __repr__(self) -> str:
        method, dataset = self.manifest.method, self.manifest.dataset
        shape = list(self.images.shape[1:])
        return f"Artifact({method.name} on {dataset.name}: {len(self)} images {shape}, {len(self.classes)} classes)"

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the labels."""
        return self.manifest.classes

    @property
    def lr(self) -> float | None:
        """The learned learning rate for plain SGD on this set, where the method learns one."""
        return self.manifest.lr

    @property
    def store(self) -> LabelStore | None:
        """What teachers said of views of the images, where the set brings it."""
        return self.stored.store

    def replay(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of epoch 0..E-1 of the store: views x [b, ch, s, s] of the images, and the teachers' values.

        These are float32, logits [b, classes] or distances [b, 2]. `store` has the rest: which images are shown, the
        weight in the loss, the groups. Raises ConfigError without a store, and for an epoch that it does not have.
        """
        store = self.store
        if store is None:
            raise ConfigError("the set has no label store to play back")
        if not 0 <= epoch < store.views.epochs:
            raise ConfigError(f"epoch {epoch}: the label store has epochs 0..{store.views.epochs - 1}")
        return (
            (store.views.show(self.images, epoch, k).x, store.values[epoch, places].float())
            for k, places in enumerate(store.views.batches)
        )

    def preprocess(self, images: Tensor) -> Tensor:
        """Real images [m, ch, h, w] (uint8, or float in 0..1) as input for a network trained on this set."""
        return self.preprocessing.to(images.device)(images)

    def pixels(self) -> Tensor:
        """The images in display space: float32 [n, ch, h, w], clipped to 0..1."""
        return self.preprocessing.inverse(self.images).clamp(0, 1)


def load_artifact(folder: Path | str) -> Artifact:
    """Read the distilled set in `folder`.

    Raises ArtifactError, with one message for each thing that can be wrong: no folder, no manifest, not JSON, an
    unknown format or version, a bad key; a payload file that is missing, of another size or of another SHA-256; a
    tensor that is missing, of the wrong type or shape, not finite, or a label without a class; a label store that is
    not one of these images.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    content = {name: _read_payload(folder / name, payload) for name, payload in manifest.payload.items()}
    tensors = _tensors(content[DATA], folder / DATA)
    check_tensors(manifest, tensors, folder / DATA)
    store = None
    if manifest.store is not None:
        store = check_store(manifest, _tensors(content[STORE], folder / STORE), folder / STORE)
    prefix = "preprocessing."
    fitted = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    stored = DistilledSet(
        tensors["images"],
        tensors["labels"],
        manifest.lr,
        manifest.images.factor,
        store,
        tensors.get(COMPENSATORS),
    )
    decoded = stored.decoded()
    return Artifact(
        images=decoded.images,
        labels=decoded.labels,
        stored=stored,
        preprocessing=Preprocessing.from_tensors(manifest.preprocessing.kind, fitted),
        manifest=manifest,
    )


def _tensors(content: bytes, path: Path) -> dict[str, Tensor]:
    try:
        size = int.from_bytes(content[:8], "little")
        if size > MOST_HEADER:
            raise ValueError(f"a header of {size} bytes, and {MOST_HEADER} are enough")
        parse_json(content[8 : 8 + size])  # the library takes a tensor that is there twice
        tensors: dict[str, Tensor] = safetensors.torch.load(content)
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise ArtifactError(f"{path}: not a safetensors file ({error}).") from None
    return tensors


def verify(folder: Path) -> Manifest:
    """Check all of the distilled set in `folder` and return its manifest. Raises ArtifactError as `load_artifact`."""
    return load_artifact(folder).manifest


def read_manifest(folder: Path) -> Manifest:
    """The manifest alone; the files it lists are not looked at. Raises ArtifactError as `load_artifact` does."""
    if not folder.is_dir():
        raise ArtifactError(f"{folder}: no such folder. A distilled set is a folder with {MANIFEST} and {DATA}.")
    path = folder / MANIFEST
    if not path.is_file():
        raise ArtifactError(f"{path}: missing. The folder is not a distilled set, or was not copied completely.")
    try:
        text = read_text(path, MOST_JSON)
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path}: cannot be read ({error}). Copy the set again.") from None
    return parse_manifest(text, path)


def _read_payload(path: Path, payload: Payload) -> bytes:
    """All bytes of a file, read once, so that what was checked is what is used."""
    try:
        if not path.is_file():  # links are followed (download caches consist of them); pipes and devices are not files
            raise ArtifactError(f"{path}: missing, though the manifest lists it. Copy the set again.")
        size = path.stat().st_size
        if size != payload.bytes:
            what = "truncated" if size < payload.bytes else "too long"
            raise ArtifactError(f"{path}: {what}: {size} bytes instead of {payload.bytes}. Copy the set again.")
        with path.open("rb") as file:
            content = file.read(size)  # no more: a link may lead to a file of the system that has no end
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror}). Copy the set again.") from None
    if hashlib.sha256(content).hexdigest() != payload.sha256:
        raise ArtifactError(f"{path}: the SHA-256 is not that of the manifest: the content has changed. Copy it again.")
    return content
