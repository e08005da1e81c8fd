"""Spec strings: canonical form and mistakes."""

import pytest

from condense.errors import ConfigError
from condense.networks import canonical, create

ON = {"channels": 3, "size": 32, "classes": 10}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("convnet", "convnet:width=128,depth=3,norm=instance,pooling=avg,activation=relu"),
        ("convnet:norm=batch, width=32", "convnet:width=32,depth=3,norm=batch,pooling=avg,activation=relu"),
        ("mlp", "mlp"),
        ("vgg11", "vgg11:width=64,norm=instance"),
        ("resnet18:norm=batch", "resnet18:width=64,norm=batch"),
        ("vit", "vit:patch=4,dim=192,depth=6,heads=3"),
        ("mobilenet_v2", "torchvision:mobilenet_v2"),
        ("torchvision:resnet18", "torchvision:resnet18"),
    ],
)
def test_canonical_spells_out_every_option(spec: str, expected: str) -> None:
    assert canonical(spec, **ON) == expected
    assert canonical(expected, **ON) == expected


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("convnet:widht=3", "unknown option of network 'convnet': 'widht'. Did you mean 'width'?"),
        ("convnet:width=wide", "network 'convnet': width=wide: Input should be a valid integer"),
        ("convnet:width=0", "network 'convnet': width=0: Input should be greater than 0"),
        ("convnet:norm=instanse", "norm=instanse: Input should be 'none', 'instance', 'group', 'batch' or 'layer'"),
        ("convnet:norm=group,width=6", "width must be a multiple of 4, not 6"),
        ("convnet:width", "option 'width' is not of the form key=value"),
        ("convnet:width=3,width=4", "option 'width' is given twice"),
        ("resnet18:norm=layer", "norm=layer: Input should be 'instance' or 'batch'"),
        ("vit:heads=5", "dim must be a multiple of heads=5, not 192"),
        ("lenet:width=3", "network 'lenet' has no options, but 'width' was given"),
        ("convnett", "unknown network 'convnett'. Did you mean 'convnet'"),
        ("mobilenet_v22", "unknown network 'mobilenet_v22'. Did you mean 'mobilenet_v2'"),
        ("torchvision:convnet", "unknown network 'convnet'"),
        ("mobilenet_v2:width=3", "network 'mobilenet_v2' is torchvision's and has no options"),
        ("", "unknown network ''"),
    ],
)
def test_mistakes_are_named(spec: str, message: str) -> None:
    for function in (canonical, create):
        with pytest.raises(ConfigError) as caught:
            function(spec, **ON)
        assert message in str(caught.value)
