"""Gate and streams: the order of the patches and the gate's algebra."""

import pytest
import torch

from medslip.model.image_encoder import ImageEncoder
from medslip.model.trunk import Trunk


def test_patches_are_in_row_major_order():
    """A transposed map would put a left finding at the top."""
    encoder = ImageEncoder(Trunk("resnet18"), width=8).eval()
    with torch.inference_mode():
        images = torch.randn(1, 3, 64, 96)
        grid = encoder.trunk(images)
        seen = []
        encoder.gate.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
        encoder(images)
    assert torch.equal(seen[0][0, 1], grid[0, :, 0, 1])
    assert torch.equal(seen[0][0, 6], grid[0, :, 1, 0])


def test_gate_splits_every_patch_without_loss():
    """Pathology input m * x and anatomy input (1 - m) * x must add up to x: what one stream gives up the other gets."""
    encoder = ImageEncoder(Trunk("resnet18"), width=8).eval()
    patches, inputs = [], []
    encoder.gate.register_forward_hook(lambda module, given, output: patches.append((given[0], output)))
    for stream in (encoder.pathology_stream, encoder.anatomy_stream):
        stream.register_forward_hook(lambda module, given, output: inputs.append(given[0]))
    with torch.inference_mode():
        encoder(torch.randn(2, 3, 64, 64))
    (x, m), (pathology, anatomy) = patches[0], inputs
    torch.testing.assert_close(pathology + anatomy, x)
    torch.testing.assert_close(pathology, m * x)


def test_grey_images_without_channels_are_a_programming_error():
    with pytest.raises(AssertionError, match="not B x 3 x S x S"):
        ImageEncoder(Trunk("resnet18"), width=8)(torch.zeros(1, 1, 64, 64))
