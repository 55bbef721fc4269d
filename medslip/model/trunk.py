"""The trunk: a torchvision backbone cut into stages, the last of which is the grid of patches.

A further backbone is one entry of BACKBONES and its name in TrunkName; see docs/backbones_and_losses.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from medslip.errors import InputError
from medslip.model.weights import load_strictly, read_torch

TrunkName = Literal["resnet18", "resnet34", "resnet50", "resnet101", "densenet121", "convnext_tiny"]

PATCH = 16
"""Side of a patch in pixels: the stride of every trunk's last stage."""


@dataclass(frozen=True)
class Backbone:
    """Where to cut a torchvision model. Each stage ends in normalised features, as the next one would receive them.

    Attributes:
        stages: Dotted names of the modules of each stage, in the order in which they run; the last stage has stride 16.
        fourth_stage: The modules between the last stage and the average over patches, which fine-tuned classifiers use.
        pooled: The modules between that average and the linear head.
        patch_centre: Centre of a patch's receptive field, as a fraction of the patch's side from its left and top edge.
    """

    stages: tuple[tuple[str, ...], ...]
    fourth_stage: tuple[str, ...]
    patch_centre: float
    pooled: tuple[str, ...] = ()


_RESNET = Backbone(
    stages=(("conv1", "bn1", "relu"), ("maxpool", "layer1"), ("layer2",), ("layer3",)),
    fourth_stage=("layer4",),
    # Every layer that halves the resolution pads both sides: output i is centred on input 2 i, and patch i on pixel 16 i.
    patch_centre=0.5 / PATCH,
)

_DENSENET = Backbone(
    stages=(
        ("features.conv0", "features.norm0", "features.relu0"),
        ("features.pool0", "features.denseblock1", "features.transition1.norm", "features.transition1.relu"),
        (
            "features.transition1.conv", "features.transition1.pool", "features.denseblock2",
            "features.transition2.norm", "features.transition2.relu",
        ),
        (
            "features.transition2.conv", "features.transition2.pool", "features.denseblock3",
            "features.transition3.norm", "features.transition3.relu",
        ),
    ),
    fourth_stage=(
        "features.transition3.conv", "features.transition3.pool", "features.denseblock4", "features.norm5", "features.relu0",
    ),
    # The stem pads as a ResNet's does; the two transitions average pairs without padding, 2 and then 4 pixels further on.
    patch_centre=6.5 / PATCH,
)  # fmt: skip

_CONVNEXT = Backbone(
    stages=(
        ("features.0", "features.1", "features.2.0"),
        ("features.2.1", "features.3", "features.4.0"),
        ("features.4.1", "features.5", "features.6.0"),
    ),
    fourth_stage=("features.6.1", "features.7"),
    # Patches of patches without padding: a patch is centred on its own middle.
    patch_centre=0.5,
    pooled=("classifier.0",),
)

BACKBONES: dict[str, Backbone] = {
    "resnet18": _RESNET,
    "resnet34": _RESNET,
    "resnet50": _RESNET,
    "resnet101": _RESNET,
    "densenet121": _DENSENET,
    "convnext_tiny": _CONVNEXT,
}


class Trunk(nn.Module):
    """A torchvision backbone up to stride 16: one patch covers 16 x 16 pixels.

    Args:
        name: Which backbone.
        weights: None for random initialisation. Otherwise torchvision's name of the weights ("IMAGENET1K_V1", downloaded or
            from torchvision's cache), or a file with a torchvision state dict.
        residual_gamma: Initial scale of the last normalisation in each residual block of a randomly initialised ResNet.
            Below 1, a patch initially sees little more than itself.

    Attributes:
        channels: Channels of each stage; the last is C, 1024 for ResNet-50 and 256 for ResNet-18.
        strides: Stride of each stage in pixels, ascending; the last is 16.
        patch_centre: See ``Backbone.patch_centre``. Attention maps are placed over the image by it.

    Raises:
        InputError: The weights are unknown, cannot be downloaded or read, or do not fit; or see ``check_trunk``.
    """

    def __init__(self, name: TrunkName = "resnet50", weights: str | None = None, residual_gamma: float = 1.0) -> None:
        super().__init__()
        check_trunk(name, residual_gamma)
        backbone, model = BACKBONES[name], _torchvision_model(name, weights)
        if weights is None:
            _scale_residuals(model, residual_gamma)
        for path in chain(*backbone.stages):
            self.add_module(_module_name(path), model.get_submodule(path))
        self._stages = tuple(tuple(map(_module_name, stage)) for stage in backbone.stages)
        self.patch_centre = backbone.patch_centre
        self.eval()
        with torch.no_grad():
            maps = self.stages(torch.zeros(1, 3, 4 * PATCH, 4 * PATCH))
        self.train()
        self.channels = tuple(stage.shape[1] for stage in maps)
        self.strides = tuple(4 * PATCH // stage.shape[2] for stage in maps)
        assert self.strides[-1] == PATCH, f"{name}: the last stage has stride {self.strides[-1]}, not {PATCH}"

    def stages(self, images: Tensor) -> list[Tensor]:
        """B x 3 x S x S, normalised -> one B x channels[k] x S/strides[k] x S/strides[k] per stage."""
        maps, x = [], images
        for stage in self._stages:
            for name in stage:
                x = self.get_submodule(name)(x)
            maps.append(x)
        return maps

    def forward(self, images: Tensor) -> Tensor:
        """B x 3 x S x S, normalised -> the last stage, B x C x S/16 x S/16."""
        return self.stages(images)[-1]


class FourthStage(nn.Sequential):
    """What follows the trunk in the whole backbone: its layers of stride 32 and the average over positions.

    Args:
        name: Which backbone.
        weights: As for Trunk; None for random initialisation.

    Attributes:
        width: Features per image.

    Raises:
        InputError: The weights are unknown, cannot be downloaded or read, or do not fit.
    """

    def __init__(self, name: TrunkName, weights: str | None = None) -> None:
        backbone, model = BACKBONES[name], _torchvision_model(name, weights)
        layers: list[nn.Module] = []
        for path in backbone.fourth_stage:
            layer = model.get_submodule(path)
            layers.extend(layer if isinstance(layer, nn.Sequential) else [layer])
        pooled = [model.get_submodule(path) for path in backbone.pooled]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), *pooled, nn.Flatten())
        head = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
        self.width = head.in_features


def check_trunk(name: str, residual_gamma: float = 1.0) -> None:
    """Check the options of a trunk.

    Raises:
        InputError: The backbone is not in BACKBONES, or has no residual blocks that ``residual_gamma`` could scale.
    """
    if name not in BACKBONES:
        raise InputError(f"model.trunk: {name!r} is not one of {', '.join(BACKBONES)}")
    if residual_gamma != 1 and BACKBONES[name] is not _RESNET:
        raise InputError(f"model.residual_gamma: only a ResNet has residual normalisations; leave it at 1 for {name}")


def _module_name(path: str) -> str:
    return path.replace(".", "_")


def _scale_residuals(model: nn.Module, gamma: float) -> None:
    for block in model.modules():
        if isinstance(block, BasicBlock | Bottleneck):
            nn.init.constant_((block.bn2 if isinstance(block, BasicBlock) else block.bn3).weight, gamma)


def _torchvision_model(name: TrunkName, weights: str | None) -> nn.Module:
    """The whole torchvision model, with its weights."""
    model: nn.Module = torchvision.models.get_model(name, weights=None)
    if weights is None:
        return model
    source, path = f"model.trunk_weights: {weights}", Path(weights)
    state = read_torch(path, source) if path.is_file() else _torchvision_weights(name, weights)
    # torchvision's DenseNet files have dots that its modules no longer have, and its older files no batch counters.
    state = {re.sub(r"(denselayer\d+\.(?:norm|conv))\.(?=[12]\.)", r"\1", key): value for key, value in state.items()}
    counters = {key: value for key, value in model.state_dict().items() if key.endswith("num_batches_tracked")}
    load_strictly(model, counters | state, source)
    return model


def _torchvision_weights(name: TrunkName, weights: str) -> Mapping[str, Tensor]:
    known = torchvision.models.get_model_weights(name)
    if weights not in known.__members__:
        names = ", ".join(entry.name for entry in known)
        raise InputError(
            f"model.trunk_weights: {weights!r} is neither a file nor one of torchvision's weights of {name} ({names})"
        )
    try:
        return known[weights].get_state_dict(progress=True)
    except OSError as error:
        raise InputError(
            f"model.trunk_weights: {weights} of {name} could not be downloaded ({error}); give a state-dict file instead"
        ) from None
