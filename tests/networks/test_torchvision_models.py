"""torchvision's models by name."""

import pytest
import torch

from condense._torchvision import torchvision
from condense.errors import ConfigError
from condense.networks import create
from condense.networks.exact import stateless


@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "googlenet", "vit_b_16", "swin_t"])
@pytest.mark.parametrize("channels", [1, 3])
def test_takes_other_channels_sizes_and_classes(name: str, channels: int) -> None:
    with torch.device("meta"):
        network = create(name, channels=channels, size=64, classes=7).eval()
        assert network(torch.empty(2, channels, 64, 64)).shape == (2, 7)


def test_a_shared_name_is_ours_unless_torchvision_is_named() -> None:
    with torch.device("meta"):
        ours, theirs = (create(spec, channels=3, size=32, classes=10) for spec in ("resnet18", "torchvision:resnet18"))
    assert not isinstance(ours, torchvision.models.ResNet)
    assert isinstance(theirs, torchvision.models.ResNet)


@pytest.mark.parametrize("name", ["inception_v3", "maxvit_t"])
def test_images_that_it_cannot_take_are_refused_at_once(name: str) -> None:
    with torch.device("meta"), pytest.raises(ConfigError, match=f"'{name}' cannot take 3-channel images of 32 px"):
        create(name, channels=3, size=32, classes=10)


def test_convnext_stays_the_same_function() -> None:
    """Its channel-first layer norm is rewritten."""

    def block(model: torch.nn.Module) -> torch.nn.Module:
        return model.features[:3]

    torch.manual_seed(0)
    original = block(torchvision.models.convnext_tiny(weights=None, num_classes=2))
    torch.manual_seed(0)
    rewritten = block(stateless(create("convnext_tiny", channels=3, size=32, classes=2)))
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(rewritten(x), original.eval()(x))
