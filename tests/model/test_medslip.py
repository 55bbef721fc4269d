"""The whole model: shapes for every trunk, side and text width; predictions that do not depend on other queries."""

import pytest
import torch
import torchvision
from torch import nn

from medslip.errors import InputError
from medslip.model.medslip import MeDSLIP, ModelConfig
from medslip.model.trunk import Trunk
from medslip.training.criterion import Criterion, LossConfig, loss_terms

A, P = 51, 75


def tiny(trunk="resnet18", text_width=24, **config):
    torch.manual_seed(0)
    config = {"width": 16, "decoder_layers": 2, "feed_forward": 24} | config
    return MeDSLIP(ModelConfig(trunk, **config), torch.randn(P, text_width), torch.randn(A, text_width)).eval()


@pytest.mark.parametrize(
    ("trunk", "side", "text_width"),
    [
        ("resnet18", 64, 24),
        ("resnet18", 96, 768),
        ("resnet50", 64, 384),
        ("convnext_tiny", 64, 24),
        ("resnet18", 224, 24),
    ],
)
def test_shapes_follow_side_and_text_width(trunk, side, text_width):
    """Nothing may assume 196 patches or 768 text values: the demo has 64 and 384."""
    n, layers, heads = (side // 16) ** 2, 2, 4
    model = tiny(trunk, text_width)
    with torch.inference_mode():
        output = model(torch.randn(2, 3, side, side), with_attention=True)
        free, free_maps = model.predict_text(output.patches.pathology, torch.randn(3, text_width), with_attention=True)
    found = {
        (P, 2): output.pathology_logits, (A, 2): output.anatomy_logits, (A, P): output.icl_logits,
        (P, text_width): output.pathology_prototypes, (A, text_width): output.anatomy_prototypes,
        (n, 16): output.patches.anatomy, (3, 2): free,
        (layers, heads, P, n): output.maps.pathology, (layers, heads, A, n): output.maps.anatomy,
        (layers, heads, 3, n): free_maps,
        (P, n): output.pathology_attention, (A, n): output.anatomy_attention,
    }  # fmt: skip
    assert {shape: tuple(tensor.shape) for shape, tensor in found.items()} == {shape: (2, *shape) for shape in found}
    for attention in (output.pathology_attention, output.anatomy_attention, free_maps):
        torch.testing.assert_close(attention.sum(-1), torch.ones(attention.shape[:-1]))


def test_attention_is_computed_only_when_requested():
    model = tiny()
    with torch.inference_mode():
        output = model(torch.randn(1, 3, 64, 64))
        assert model.predict_text(output.patches.pathology, torch.randn(1, 24))[1] is None
    assert output.maps == (None, None)
    assert output.pathology_attention is output.anatomy_attention is None


def test_classification_gives_the_logits_of_the_whole_model():
    """It leaves the anatomy stream out, which must not change a single bit of what is predicted."""
    model, images, free = tiny(), torch.randn(2, 3, 64, 64), torch.randn(3, 24)
    with torch.inference_mode():
        output = model(images)
        text = model.predict_text(output.patches.pathology, free)[0]
        assert torch.equal(model.predict(images), output.pathology_logits)
        assert torch.equal(model.predict(images, free), torch.cat([output.pathology_logits, text], dim=1))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_logits_computed_on_demand_keep_the_mode_without_gradients(mode):
    """They could not be converted to NumPy, or not be computed after inference mode has ended."""
    with mode():
        output = tiny()(torch.randn(1, 3, 64, 64))
        assert not output.icl_logits.requires_grad
        assert not output.pathology_prototypes.requires_grad
    assert output.icl_logits.shape == (1, A, P)


def test_vocabulary_and_free_text_are_one_decoding_in_which_nothing_sees_free_text():
    """A free-text query is one more query, as in training; the vocabulary and the other free texts must not notice it."""
    model, images, free = tiny(), torch.randn(2, 3, 64, 64), 5 * torch.randn(3, 24)
    hidden = torch.zeros(P + 3, P + 3, dtype=torch.bool)
    hidden[:, P:] = ~torch.eye(3, dtype=torch.bool).repeat(P // 3 + 1, 1)
    hidden[:P, P:] = True
    with torch.inference_mode():
        output = model(images)
        patches = output.patches.pathology
        queries = model.query_projection(torch.cat([model.pathology_prompts, free])).expand(2, -1, -1)
        joint = model.pathology_existence(model.query_norm(model.pathology_decoder(queries, patches, hidden)[0]))
        together, _ = model.predict_text(patches, free)
        alone = torch.cat([model.predict_text(patches, free[k : k + 1])[0] for k in range(3)], dim=1)
    torch.testing.assert_close(joint[:, :P], output.pathology_logits, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(joint[:, P:], together, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-6)


def test_a_free_text_query_sees_the_vocabulary():
    """It is a query of the same decoder, not one on its own."""
    model, free = tiny(), 5 * torch.randn(1, 24)
    with torch.inference_mode():
        patches = model(torch.randn(2, 3, 64, 64)).patches.pathology
        before, _ = model.predict_text(patches, free)
        model.pathology_prompts += 3
        assert (model.predict_text(patches, free)[0] - before).abs().max() > 1e-4


def test_a_prediction_does_not_depend_on_the_batch():
    model, images = tiny(), torch.randn(3, 3, 64, 64)
    with torch.inference_mode():
        together, alone = model(images).pathology_logits, model(images[1:2]).pathology_logits
    torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-5)


def test_streams_have_their_own_weights_but_share_projection_and_norm():
    model = tiny()
    names = {name.split(".")[0] for name, _ in model.named_parameters()}
    assert names == {
        "image_encoder", "query_projection", "query_norm", "pathology_decoder", "anatomy_decoder", "pathology_existence",
        "anatomy_existence", "pathology_prototype", "anatomy_prototype", "protocl_log_scale", "icl_log_scale", "icl_bias",
    }  # fmt: skip
    parameters = list(model.parameters())
    assert len({id(parameter) for parameter in parameters}) == len(parameters)


def test_linear_weights_start_at_the_authors_deviation_and_the_trunk_at_torchvisions():
    """At torch's own start the existence heads would begin saturated; at 0.02 the trunk would not train."""
    model = tiny(width=64, initialisation="authors")
    weights = {
        name: module.weight
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.weight.numel() > 1000
    } | {"in_proj": model.pathology_decoder.layers[0].self_attn.in_proj_weight}
    assert len(weights) > 20
    for name, weight in weights.items():
        assert weight.std().item() == pytest.approx(0.02, rel=0.12), name
    for module in model.modules():
        if isinstance(module, nn.Linear):
            assert module.bias.eq(0).all()
    assert model.image_encoder.trunk.layer3[0].conv1.weight.std() > 0.025


def test_scaled_start_lets_the_image_through_and_tells_queries_apart():
    """With queries all alike, or streams a hundredth of the trunk's scale, the first epochs would learn nothing."""
    prompts = 10 + torch.randn(126, 48) * 0.3  # as of a BERT: most of each embedding is common to all
    config = ModelConfig(trunk="resnet18", width=64, decoder_layers=1, feed_forward=64)
    model = MeDSLIP(config, prompts[:75], prompts[75:]).eval()
    queries = model.query_projection(prompts)
    assert queries.mean().abs() < 0.05
    assert queries.std().item() == pytest.approx(1, rel=0.05)
    output = model(torch.randn(2, 3, 64, 64))
    assert 0.1 < output.patches.pathology.std() < 3
    assert output.patches.pathology.std().item() == pytest.approx(output.patches.anatomy.std().item(), rel=0.5)


def test_dot_similarity_is_a_product_without_temperature():
    model, images = tiny(similarity="dot"), torch.randn(1, 3, 64, 64)
    f = {}
    for name in ("pathology", "anatomy"):
        head = getattr(model, f"{name}_existence")
        head.register_forward_hook(lambda module, given, output, name=name: f.update({name: given[0]}))
    with torch.inference_mode():
        output = model(images)
    torch.testing.assert_close(output.icl_logits, f["anatomy"] @ f["pathology"].mT)
    assert output.protocl_scale is None
    assert not any("scale" in name for name in model.state_dict())


def test_cosine_similarity_stays_within_its_learnt_temperature():
    model = tiny()
    with torch.inference_mode():
        output = model(torch.randn(1, 3, 64, 64))
    assert output.icl_logits.abs().max() <= model.icl_log_scale.exp() + model.icl_bias.abs() + 1e-4
    assert output.protocl_scale.item() == pytest.approx(1 / 0.07)


def test_every_parameter_learns_from_the_five_losses():
    """With several processes, a parameter without gradient stops the run."""
    criterion = Criterion(loss_terms(LossConfig()))
    for similarity in ("dot", "cosine"):
        model = tiny(similarity=similarity, dropout=0.0).train()
        labels = torch.full((2, A, P), -1)
        labels[:, 4, 8], labels[:, 50, 0] = 1, 0
        output = model(torch.randn(2, 3, 64, 64))
        criterion(output, labels)[0].backward()
        assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("initialisation", ["scaled", "authors"])
def test_initialisation_leaves_the_trunk_alone(initialisation, tmp_path):
    """A ConvNeXt has linear layers too: ImageNet weights would be overwritten unnoticed."""
    whole = torchvision.models.convnext_tiny()
    torch.save(whole.state_dict(), tmp_path / "convnext.pth")
    model = tiny("convnext_tiny", trunk_weights=str(tmp_path / "convnext.pth"), initialisation=initialisation)
    expected = Trunk("convnext_tiny", str(tmp_path / "convnext.pth")).state_dict()
    found = model.image_encoder.trunk.state_dict()
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"residual_gamma": 0.5, "trunk": "densenet121"}, "model.residual_gamma: only a ResNet"),
        ({"trunk": "resnet152"}, "model.trunk: 'resnet152' is not one of"),
        ({"width": 18}, "model.width"),
        ({"decoder_layers": 0}, "model.decoder_layers"),
        ({"dropout": 1.5}, "model.dropout"),
        ({"residual_gamma": 0.0}, "model.residual_gamma"),
        ({"residual_gamma": 1.5}, "model.residual_gamma"),
        ({"residual_gamma": 0.5, "trunk_weights": "IMAGENET1K_V1"}, "model.residual_gamma"),
    ],
)
def test_impossible_shape_is_bad_input_that_names_the_key(change, words):
    with pytest.raises(InputError, match=words):
        ModelConfig(**change)
