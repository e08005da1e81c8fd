"""Class activation maps: what they add up to, against loops, and how they are shown."""

import pytest
import torch
from small_teachers import images, teacher
from torch import nn
from torch.nn import functional as F

from condense.errors import ConfigError
from condense.teachers import class_map

LABELS = torch.tensor([0, 2, 1, 1])
# Images large enough for maps of several positions.
AVERAGED = {
    "resnet18:width=2,norm=batch": 16,
    "vgg11:width=2,norm=batch": 64,
    "torchvision:resnet18": 64,
    "torchvision:mobilenet_v2": 64,
    "torchvision:densenet121": 64,
    "torchvision:googlenet": 64,
    "torchvision:shufflenet_v2_x0_5": 64,
    "torchvision:swin_t": 64,
}
FLATTENED = ["convnet:width=4,depth=2,norm=batch", "convnet:width=4,depth=2,pooling=none", "alexnet"]


def raw(judge, x):
    return class_map(judge.name, judge.module, x, LABELS)


def bias(judge):
    *_, last = (part for part in judge.module.modules() if isinstance(part, nn.Linear))
    return last.bias[LABELS]


def own(logits):
    return logits.gather(1, LABELS[:, None]).squeeze(1)


@pytest.mark.parametrize("spec", AVERAGED)
def test_averages_to_the_logit_after_global_average_pooling(spec):
    judge, x = teacher(spec, size=AVERAGED[spec]), images(4, AVERAGED[spec])
    found = raw(judge, x)
    assert found.shape[1:].numel() > 1
    torch.testing.assert_close(found.mean((1, 2)) + bias(judge), own(judge.logits(x)), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("spec", FLATTENED)
def test_sums_to_the_logit_where_the_map_is_flattened(spec):
    judge, x = teacher(spec), images(4)
    found = raw(judge, x)
    torch.testing.assert_close(found.sum((1, 2)) + bias(judge), own(judge.logits(x)), rtol=1e-8, atol=1e-10)


def test_equals_loops_over_positions_and_channels():
    judge, x = teacher("convnet:width=4,depth=1,norm=batch"), images(4)
    maps, weight = judge.module.features(x), judge.module.classifier.weight.reshape(3, 4, 4, 4)
    found = raw(judge, x)
    for n in range(4):
        for i in range(4):
            for j in range(4):
                expected = sum(float(weight[LABELS[n], c, i, j] * maps[n, c, i, j]) for c in range(4))
                assert float(found[n, i, j]) == pytest.approx(expected, rel=1e-12)


def test_is_enlarged_and_scaled_for_each_image_alone(monkeypatch):
    judge, x = teacher("resnet18:width=2,norm=batch", size=16), images(4, 16)
    shown = judge.activation_map(x, LABELS)
    assert shown.shape == (4, 16, 16)
    assert torch.equal(shown.amin((1, 2)), torch.zeros(4).double())
    assert torch.equal(shown.amax((1, 2)), torch.ones(4).double())
    for one, small in zip(shown, raw(judge, x), strict=True):
        large = F.interpolate(small[None, None], (16, 16), mode="bilinear")[0, 0]
        torch.testing.assert_close(one, (large - large.min()) / (large.max() - large.min()))
    monkeypatch.setattr("condense.teachers.pool.AT_ONCE", 3)
    torch.testing.assert_close(judge.activation_map(x, LABELS), shown)


def test_is_of_the_last_of_the_maps_with_the_same_average():
    pools = [nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    module = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), *pools, nn.Linear(2, 3)).double()
    assert class_map("pooled twice", module, images(4), LABELS).shape == (4, 4, 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_map_of_one_position_is_shown_as_zeros(dtype):
    judge = teacher("vgg11:width=2,norm=batch", dtype=dtype)
    x = images(4, dtype=dtype)
    assert raw(judge, x).shape == (4, 1, 1)
    assert judge.activation_map(x, LABELS).eq(0).all()


@pytest.mark.parametrize("spec", ["mlp", "lenet", "vit", "torchvision:squeezenet1_1", "torchvision:mobilenet_v3_small"])
def test_a_network_that_ends_otherwise_is_refused(spec):
    size = 64 if spec.startswith("torchvision") else 8
    judge = teacher(spec, size=size)
    with pytest.raises(ConfigError, match=f"{spec}.*has no class activation maps"):
        judge.activation_map(images(4, size), LABELS)
