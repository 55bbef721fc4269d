"""Classifiers on the trunk."""

from __future__ import annotations

import pytest
import torch
import torchvision

from medslip.errors import InputError
from medslip.model.classifier import Classifier, LinearProbe, fourth_stage
from medslip.model.image_encoder import Trunk
from medslip.training.optim import OptimConfig, make_optimizer


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_classifier_is_a_whole_resnet(name):
    """With a ResNet's own weights it must answer as that ResNet does, but for the head's classes."""
    resnet = getattr(torchvision.models, name)(num_classes=3).eval()
    trunk = Trunk(name)
    trunk.load_state_dict({key: value for key, value in resnet.state_dict().items() if key in trunk.state_dict()})
    model = Classifier(trunk, resnet.layer4, 3).eval()
    model.head.load_state_dict(resnet.fc.state_dict())
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(model(images), resnet(images))


def test_probe_changes_nothing_but_its_head():
    """A probe whose trunk learns, or whose batch statistics move, measures something else."""
    torch.manual_seed(0)
    model = LinearProbe(Trunk("resnet18"), 2).train()
    before = {name: tensor.clone() for name, tensor in model.trunk.state_dict().items()}
    optimizer = make_optimizer(model, OptimConfig())
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 2
    model(torch.rand(4, 3, 32, 32)).sum().backward()
    optimizer.step()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.trunk.state_dict().items())


def test_fourth_stage_takes_weights_from_a_file(tmp_path):
    torch.manual_seed(0)
    resnet = torchvision.models.resnet18()
    torch.save(resnet.state_dict(), tmp_path / "resnet18.pth")
    stage = fourth_stage("resnet18", str(tmp_path / "resnet18.pth"))
    assert torch.equal(stage.state_dict()["0.conv1.weight"], resnet.layer4[0].conv1.weight)


def test_unknown_weights_are_one_line():
    with pytest.raises(InputError, match="IMAGENET9"):
        fourth_stage("resnet18", "IMAGENET9")
