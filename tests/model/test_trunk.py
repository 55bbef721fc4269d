"""Trunks: stages of every backbone, weights from files, and where a patch looks."""

from __future__ import annotations

import re

import pytest
import torch
import torchvision
from torch import nn

from medslip.errors import InputError
from medslip.model.trunk import BACKBONES, Trunk


@pytest.mark.parametrize("name", BACKBONES)
def test_stages_have_the_channels_and_strides_that_the_trunk_declares(name):
    """Heads are built from them, and heat maps are placed by a stride of 16."""
    trunk = Trunk(name).eval()
    with torch.inference_mode():
        images = torch.randn(2, 3, 64, 96)
        stages = trunk.stages(images)
        assert torch.equal(trunk(images), stages[-1])
    expected = [(2, c, 64 // s, 96 // s) for c, s in zip(trunk.channels, trunk.strides, strict=True)]
    assert [tuple(stage.shape) for stage in stages] == expected
    assert trunk.strides == ((4, 8, 16) if name == "convnext_tiny" else (2, 4, 8, 16))
    assert trunk.training is False
    assert Trunk(name).training


def test_resnets_are_as_wide_as_in_the_paper():
    assert (Trunk("resnet50").channels[-1], Trunk("resnet18").channels[-1]) == (1024, 256)


@pytest.mark.parametrize("name", BACKBONES)
def test_a_patch_is_centred_where_the_trunk_says(name, monkeypatch):
    """Heat maps are placed over the image by this; half a patch off, they would miss every small finding."""
    # A maximum and an average over neighbours that depends on their values have no centre; and normalisation looks everywhere.
    monkeypatch.setattr(nn.LayerNorm, "forward", lambda self, x: x)
    monkeypatch.setattr(torchvision.models.convnext.LayerNorm2d, "forward", lambda self, x: x)
    trunk = Trunk(name).eval()
    for pool in ("maxpool", "features_pool0"):
        if hasattr(trunk, pool):
            setattr(trunk, pool, nn.AvgPool2d(3, stride=2, padding=1))
    for module in trunk.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):  # all alike: a patch then sees its receptive field alone
            nn.init.constant_(module.weight, 1 / module.weight[0].numel())
    images = torch.ones(1, 3, 320, 320, requires_grad=True)
    trunk(images)[0, :, 9, 10].sum().backward()
    seen = images.grad[0].sum(0).double()
    pixels = torch.arange(320) + 0.5
    centre = (seen.sum(1) @ pixels.double() / seen.sum(), seen.sum(0) @ pixels.double() / seen.sum())
    expected = ((9 + trunk.patch_centre) * 16, (10 + trunk.patch_centre) * 16)
    assert centre == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "convnext_tiny"])
def test_weights_are_read_from_a_state_dict_file(name, tmp_path):
    """A trunk that stayed random would pass for a pre-trained one."""
    torch.manual_seed(1)
    whole = torchvision.models.get_model(name)
    # As in torchvision's own files: older names in a DenseNet, and no batch counters.
    state = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))([12])\.", r"\1.\2.", key): v for key, v in whole.state_dict().items()
    }
    torch.save({key: v for key, v in state.items() if "num_batches" not in key}, tmp_path / "whole.pth")
    trunk, path = Trunk(name, str(tmp_path / "whole.pth")), next(iter(BACKBONES[name].stages[-1]))
    expected = whole.get_submodule(path).state_dict()
    found = trunk.get_submodule(path.replace(".", "_")).state_dict()
    assert expected
    assert all(torch.equal(tensor, found[key]) for key, tensor in expected.items())


def test_unusable_weights_are_one_line(tmp_path):
    state = torchvision.models.resnet18(weights=None).state_dict()
    del state["layer2.0.conv1.weight"]
    torch.save(state, tmp_path / "short.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "text.pth").write_text("no weights")
    for weights, words in [
        ("IMAGENET1K_V9", "neither a file nor one of torchvision's weights of resnet18"),
        (str(tmp_path / "short.pth"), r"1 missing \(layer2.0.conv1.weight\)"),
        (str(tmp_path / "list.pth"), "not a state dict"),
        (str(tmp_path / "text.pth"), "not a PyTorch file of tensors alone"),
    ]:
        with pytest.raises(InputError, match=words) as error:
            Trunk("resnet18", weights)
        assert "model.trunk_weights" in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_a_small_residual_gamma_narrows_what_a_patch_first_sees(name):
    """A patch that sees far from the start learns to stand for its neighbours' findings."""
    spread = []
    for gamma in (1.0, 0.25):
        torch.manual_seed(0)
        trunk = Trunk(name, residual_gamma=gamma).eval()
        image = torch.randn(1, 3, 256, 256, requires_grad=True)
        trunk(image)[0, :, 8, 8].square().sum().backward()
        assert image.grad is not None
        weight = image.grad[0].square().sum(0)
        away = torch.arange(256) - (8 + trunk.patch_centre) * 16
        far = away[:, None].square() + away.square()
        spread.append(float((far * weight).sum() / weight.sum()) ** 0.5)
    assert spread[1] < 0.8 * spread[0], spread


def test_weights_replace_the_residual_gamma(tmp_path):
    """Trained trunks must not be scaled down."""
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "resnet18.pth")
    trunk = Trunk("resnet18", str(tmp_path / "resnet18.pth"), residual_gamma=0.25)
    assert (trunk.layer3[1].bn2.weight == 1).all()
