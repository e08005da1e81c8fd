import numpy as np
import pytest
import torch

from condense import evaluation
from condense.errors import DataError

IMAGES = torch.zeros(3, 1, 4, 4)
LABELS = torch.tensor([0, 1, 2])


@pytest.mark.parametrize("batch", [1, 7, 50, 512])
def test_accuracy_is_the_share_of_right_largest_logits(batch):
    rng = np.random.default_rng(0)
    pixels, labels = rng.normal(size=(50, 1, 2, 2)), rng.integers(0, 4, 50)
    test = evaluation.TestSet(torch.tensor(pixels), torch.tensor(labels), lambda x: x * 2)
    expected = (pixels.reshape(50, 4).argmax(1) == labels).mean()
    assert test.accuracy(lambda x: x.flatten(1) / 2, batch) == pytest.approx(expected, abs=1e-15)
    assert test.accuracy(lambda x: -x.flatten(1), batch) != pytest.approx(expected)


def test_accuracy_sees_preprocessed_images_and_no_gradient():
    weight, seen = torch.ones(3, requires_grad=True), []

    def predict(x):
        seen.append((x, torch.is_inference_mode_enabled()))
        return x[:, 0, 0, :3] * weight

    evaluation.TestSet(IMAGES.byte(), LABELS, lambda x: x.float() + 5).accuracy(predict)
    [(x, inference)] = seen
    assert inference and torch.equal(x, IMAGES + 5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": IMAGES[:0], "labels": LABELS[:0]}, "n >= 1"),
        ({"images": IMAGES[:, 0]}, r"not \[3, 4, 4\]"),
        ({"images": IMAGES[..., :3]}, r"not \[3, 1, 4, 3\]"),
        ({"images": IMAGES.byte()}, "preprocess"),
        ({"images": IMAGES / 0}, "NaN"),
        ({"labels": LABELS[:2]}, r"3 images, but labels of shape \[2\]"),
        ({"labels": LABELS + 1}, r"1\.\.3; 3 classes allow 0\.\.2"),
        ({"labels": LABELS - 1}, r"-1\.\.1"),
        ({"labels": LABELS.int()}, "int64"),
        ({"labels": LABELS.double()}, "int64"),
        ({"labels": torch.eye(3)[:, :2]}, r"\[n, 3\], not torch.float32 \[3, 2\]"),
        ({"labels": torch.eye(3).long()}, "floating point"),
        ({"labels": torch.eye(3) * 2}, "probabilities"),
        ({"labels": torch.eye(3) * 2 - torch.ones(3, 3) / 3}, "probabilities"),
        ({"labels": torch.eye(3) * float("nan")}, "probabilities"),
        ({"lr": 0.0}, "learned learning rate is 0.0"),
        ({"lr": -0.01}, "positive"),
        ({"lr": float("nan")}, "positive"),
    ],
)
def test_a_wrong_training_set_is_refused(change, message):
    with pytest.raises(DataError, match=f"^training set: .*{message}"):
        evaluation.TrainingSet(**{"images": IMAGES, "labels": LABELS, **change}).check("training set", 3)


def test_right_sets_pass():
    evaluation.TrainingSet(IMAGES, LABELS, lr=0.1).check("training set", 3)
    evaluation.TrainingSet(IMAGES, torch.eye(3)).check("training set", 3)
    evaluation.TrainingSet(IMAGES.byte(), LABELS, torch.Tensor.float).check("training set", 3)
    evaluation.TestSet(IMAGES, LABELS).check("test set", 3)


def test_soft_test_labels_are_refused():
    with pytest.raises(DataError, match="not soft"):
        evaluation.TestSet(IMAGES, torch.eye(3)).check("test set", 3)
