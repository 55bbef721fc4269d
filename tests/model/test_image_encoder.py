"""Trunk, gate and streams: the shapes that everything else counts on, and the gate's algebra."""

import pytest
import torch
import torchvision

from medslip.errors import InputError
from medslip.model.image_encoder import PATCH_CENTRE, ImageEncoder, Trunk


@pytest.mark.parametrize(("name", "channels"), [("resnet18", 256), ("resnet50", 1024)])
@pytest.mark.parametrize("side", [64, 96])
def test_a_patch_is_sixteen_pixels_wide(name, channels, side):
    """Heat maps are laid over the image by this; 196 patches are only the case of 224 pixels."""
    encoder = ImageEncoder(Trunk(name), width=8).eval()
    assert encoder.trunk.channels == channels
    with torch.inference_mode():
        images = torch.randn(2, 3, side, side)
        assert encoder.trunk(images).shape == (2, channels, side // 16, side // 16)
        for stream in encoder(images):
            assert stream.shape == (2, (side // 16) ** 2, 8)


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


def test_trunk_weights_are_read_from_a_state_dict_file(tmp_path):
    """A trunk that silently stayed random would pass for a pre-trained one."""
    torch.manual_seed(1)
    resnet = torchvision.models.resnet18(weights=None)
    torch.save(resnet.state_dict(), tmp_path / "resnet18.pth")
    trunk = Trunk("resnet18", str(tmp_path / "resnet18.pth"))
    assert torch.equal(trunk.layer3[1].conv2.weight, resnet.layer3[1].conv2.weight)


def test_unusable_trunk_weights_are_one_line(tmp_path):
    state = torchvision.models.resnet18(weights=None).state_dict()
    del state["layer2.0.conv1.weight"]
    torch.save(state, tmp_path / "short.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "text.pth").write_text("no weights")
    for weights, words in [
        ("IMAGENET1K_V9", "neither a file nor one of torchvision's weights of resnet18"),
        (str(tmp_path / "short.pth"), r"1 missing \(layer2.0.conv1.weight\)"),
        (str(tmp_path / "list.pth"), "holds a list, not a state dict"),
        (str(tmp_path / "text.pth"), "cannot be read"),
    ]:
        with pytest.raises(InputError, match=words) as refused:
            Trunk("resnet18", weights)
        assert "model.trunk_weights" in str(refused.value)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_a_patch_is_centred_on_its_first_pixel(name):
    """Heat maps are laid over the image by this; half a patch aside, they would point beside every small finding."""
    trunk = Trunk(name).eval()
    trunk.maxpool = torch.nn.AvgPool2d(3, stride=2, padding=1)  # a maximum has no centre
    for module in trunk.modules():
        if isinstance(module, torch.nn.Conv2d):  # all alike: what a patch sees is then its receptive field alone
            torch.nn.init.constant_(module.weight, 1 / module.weight[0].numel())
    images = torch.ones(1, 3, 448, 448, requires_grad=True)
    trunk(images)[0, :, 13, 14].sum().backward()
    seen = images.grad[0].sum(0).double()
    pixels = torch.arange(448) + 0.5
    centre = (seen.sum(1) @ pixels.double() / seen.sum(), seen.sum(0) @ pixels.double() / seen.sum())
    expected = ((13 + PATCH_CENTRE) * 16, (14 + PATCH_CENTRE) * 16)
    assert centre == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_a_small_residual_start_narrows_what_a_patch_first_sees(name):
    """A patch that sees far from the start learns to stand for its neighbours' findings."""
    spread = []
    for start in (1.0, 0.25):
        torch.manual_seed(0)
        trunk = Trunk(name, residual_start=start).eval()
        image = torch.randn(1, 3, 256, 256, requires_grad=True)
        trunk(image)[0, :, 8, 8].square().sum().backward()
        assert image.grad is not None
        weight = image.grad[0].square().sum(0)
        away = torch.arange(256) - (8 + PATCH_CENTRE) * 16
        far = away[:, None].square() + away.square()
        spread.append(float((far * weight).sum() / weight.sum()) ** 0.5)
    assert spread[1] < 0.8 * spread[0], spread


def test_read_weights_replace_the_residual_start(tmp_path):
    """Trained trunks must not be scaled down."""
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "resnet18.pth")
    trunk = Trunk("resnet18", str(tmp_path / "resnet18.pth"), residual_start=0.25)
    assert (trunk.layer3[1].bn2.weight == 1).all()
