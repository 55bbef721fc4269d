"""Classifiers on the trunk."""

from __future__ import annotations

import pytest
import torch
import torchvision

from medslip.model.classifier import Classifier, LinearProbe
from medslip.model.trunk import BACKBONES, FourthStage, Trunk
from medslip.training.optim import OptimConfig, make_optimizer


@pytest.mark.parametrize("name", BACKBONES)
def test_classifier_is_the_whole_backbone(name, tmp_path):
    """With a backbone's own weights it must predict what that backbone predicts, but for the head's classes."""
    torch.manual_seed(0)
    whole = torchvision.models.get_model(name).eval()
    weights = str(tmp_path / "weights.pth")
    torch.save(whole.state_dict(), weights)
    model = Classifier(Trunk(name, weights), FourthStage(name, weights), 1000).eval()
    head = [module for module in whole.modules() if isinstance(module, torch.nn.Linear)][-1]
    model.head.load_state_dict(head.state_dict())
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(model(images), whole(images))


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "convnext_tiny"])
def test_probe_changes_nothing_but_its_head(name):
    """A probe whose trunk learns, or whose batch statistics move, measures something else."""
    torch.manual_seed(0)
    model = LinearProbe(Trunk(name), 2).train()
    before = {name: tensor.clone() for name, tensor in model.trunk.state_dict().items()}
    optimizer = make_optimizer(model, OptimConfig())
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 2
    model(torch.rand(4, 3, 32, 32)).sum().backward()
    optimizer.step()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.trunk.state_dict().items())


def test_names_of_a_resnets_fourth_stage_stay():
    """Fine-tuned checkpoints hold them."""
    resnet = torchvision.models.resnet50()
    assert list(FourthStage("resnet50").state_dict()) == list(resnet.layer4.state_dict())
