"""The U-Net on the trunk."""

from __future__ import annotations

import torch

from medslip.model.segmenter import Segmenter
from medslip.model.trunk import Trunk


def test_blocks_are_as_wide_as_in_the_paper():
    model = Segmenter(Trunk("resnet50"))
    assert model.bridge[0].in_channels == 1024
    assert [block.grow.in_channels for block in model.up] == [1024, 512, 256, 128]
    assert [block.grow.out_channels for block in model.up] == [512, 256, 128, 64]
    assert [block.join[0].in_channels for block in model.up] == [512 + 512, 256 + 256, 128 + 64, 64 + 3]


def test_the_encoder_is_the_trunk():
    """Its deepest features must be the trunk's own: loaded weights would mean nothing otherwise."""
    model = Segmenter(Trunk("resnet18"), bridge=16).eval()
    seen = []
    model.bridge.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    images = torch.rand(1, 3, 32, 32)
    with torch.inference_mode():
        model(images)
        assert torch.equal(seen[0], model.trunk(images))


def test_an_untrained_segmenter_marks_little():
    """From even odds, short fine-tunings of few labels ended in predicting nothing: so rare is a marked pixel."""
    torch.manual_seed(0)
    model = Segmenter(Trunk("resnet18"), bridge=128)
    with torch.inference_mode():
        fraction = model(torch.rand(4, 3, 64, 64)).sigmoid().mean()
    assert 0.005 < fraction < 0.06


def test_a_pixel_is_told_from_its_neighbour():
    """Without the skip from the input, a logit could not follow a single pixel."""
    torch.manual_seed(0)
    model = Segmenter(Trunk("resnet18"), bridge=256).eval()
    images = torch.rand(1, 3, 32, 32, requires_grad=True)
    model(images)[0, 0, 10, 10].backward()
    assert images.grad is not None
    gradient = images.grad.abs().sum(dim=(0, 1))
    assert gradient[8:13, 8:13].mean() > 3 * gradient.mean()
