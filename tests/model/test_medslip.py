"""The whole model: shapes for every trunk, side and text width; answers that depend on nothing else that is asked."""

from dataclasses import fields

import pytest
import torch
from torch import nn

from medslip.errors import InputError
from medslip.model.medslip import MeDSLIPOutput, ModelConfig, build_model

A, P = 51, 75


def tiny(trunk="resnet18", text_width=24, **config):
    torch.manual_seed(0)
    config = {"width": 16, "decoder_layers": 2, "feed_forward": 24} | config
    return build_model(ModelConfig(trunk, **config), torch.randn(P, text_width), torch.randn(A, text_width)).eval()


@pytest.mark.parametrize(
    ("trunk", "side", "text_width"),
    [("resnet18", 64, 24), ("resnet18", 96, 768), ("resnet50", 64, 384), ("resnet18", 224, 24)],
)
def test_shapes_follow_side_and_text_width(trunk, side, text_width):
    """Nothing may assume 196 patches or 768 text values: the demo has 64 and 384."""
    n, layers, heads = (side // 16) ** 2, 2, 4
    with torch.inference_mode():
        images, free = torch.randn(2, 3, side, side), torch.randn(3, text_width)
        output = tiny(trunk, text_width)(images, free, with_attention=True)
    expected = {
        "pathology_logits": (P, 2), "anatomy_logits": (A, 2), "icl_logits": (A, P),
        "pathology_prototypes": (P, text_width), "anatomy_prototypes": (A, text_width),
        "pathology_patches": (n, 16), "anatomy_patches": (n, 16), "free_logits": (3, 2),
        "pathology_maps": (layers, heads, P, n), "anatomy_maps": (layers, heads, A, n),
        "free_maps": (layers, heads, 3, n),
        "pathology_attention": (P, n), "anatomy_attention": (A, n), "free_attention": (3, n),
    }  # fmt: skip
    assert {name: tuple(getattr(output, name).shape) for name in expected} == {
        name: (2, *shape) for name, shape in expected.items()
    }
    for name in ("pathology_attention", "anatomy_attention", "free_attention"):
        attention = getattr(output, name)
        torch.testing.assert_close(attention.sum(-1), torch.ones(attention.shape[:-1]))


def test_attention_is_computed_only_when_asked_for():
    with torch.inference_mode():
        output = tiny()(torch.randn(1, 3, 64, 64))
    absent = {field.name for field in fields(MeDSLIPOutput) if getattr(output, field.name) is None}
    assert absent == {"free_logits", "pathology_maps", "anatomy_maps", "free_maps"}
    assert output.pathology_attention is output.anatomy_attention is output.free_attention is None


def test_free_text_changes_no_answer_of_the_vocabulary():
    """The 75 are calibrated together; asking for fibrosis beside them must not move pneumonia."""
    model, images = tiny(), torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        alone = model(images, with_attention=True)
        beside = model(images, 5 * torch.randn(4, 24), with_attention=True)
    for field in fields(MeDSLIPOutput):
        before, after = getattr(alone, field.name), getattr(beside, field.name)
        if before is not None:
            torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-6, msg=lambda m, n=field.name: f"{n}: {m}")


def test_free_text_queries_do_not_see_one_another():
    model, images, free = tiny(), torch.randn(2, 3, 64, 64), 5 * torch.randn(3, 24)
    with torch.inference_mode():
        together = model(images, free, with_attention=True)
        for index in range(3):
            alone = model(images, free[index : index + 1], with_attention=True)
            torch.testing.assert_close(together.free_logits[:, index], alone.free_logits[:, 0], rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(together.free_attention[:, index], alone.free_attention[:, 0])


def test_a_free_text_query_sees_the_vocabulary():
    """It is one more query of the same decoder, as in training, not a query on its own."""
    model, images, free = tiny(), torch.randn(2, 3, 64, 64), 5 * torch.randn(1, 24)
    with torch.inference_mode():
        before = model(images, free).free_logits
        model.pathology_prompts += 3
        assert (model(images, free).free_logits - before).abs().max() > 1e-4


def test_an_image_is_answered_alike_whatever_its_batch():
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


def test_linear_weights_start_at_the_published_deviation_and_the_trunk_as_torchvision_has_it():
    """At torch's own start the existence heads would begin saturated; at 0.02 the trunk would not train."""
    model = tiny(width=64, initialisation="published")
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
    model = build_model(config, prompts[:75], prompts[75:]).eval()
    queries = model.query_projection(prompts)
    assert queries.mean().abs() < 0.05
    assert queries.std().item() == pytest.approx(1, rel=0.05)
    output = model(torch.randn(2, 3, 64, 64))
    assert 0.1 < output.pathology_patches.std() < 3
    assert output.pathology_patches.std().item() == pytest.approx(output.anatomy_patches.std().item(), rel=0.5)


def test_dot_similarity_is_the_published_product_without_temperature():
    model, images = tiny(similarity="dot"), torch.randn(1, 3, 64, 64)
    f = {}
    for name in ("pathology", "anatomy"):
        head = getattr(model, f"{name}_existence")
        head.register_forward_hook(lambda module, given, output, name=name: f.update({name: given[0]}))
    with torch.inference_mode():
        output = model(images)
    torch.testing.assert_close(output.icl_logits, f["anatomy"] @ f["pathology"].mT)
    assert model.protocl_scale is None
    assert not any("scale" in name for name in model.state_dict())


def test_cosine_similarity_stays_within_its_learnt_temperature():
    model = tiny()
    with torch.inference_mode():
        logits = model(torch.randn(1, 3, 64, 64)).icl_logits
    assert logits.abs().max() <= model.icl_log_scale.exp() + model.icl_bias.abs() + 1e-4
    assert model.protocl_scale.item() == pytest.approx(1 / 0.07)


def test_every_parameter_learns_from_the_five_losses():
    """With several processes, a parameter without gradient stops the run."""
    from medslip.training.criterion import LossConfig, medslip_loss

    for similarity in ("dot", "cosine"):
        model = tiny(similarity=similarity, dropout=0.0).train()
        labels = torch.full((2, A, P), -1)
        labels[:, 4, 8], labels[:, 50, 0] = 1, 0
        output = model(torch.randn(2, 3, 64, 64))
        medslip_loss(model, output, labels, LossConfig())[0].backward()
        assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"width": 18}, "model.width"),
        ({"decoder_layers": 0}, "model.decoder_layers"),
        ({"dropout": 1.5}, "model.dropout"),
        ({"residual_start": 0.0}, "model.residual_start"),
        ({"residual_start": 1.5}, "model.residual_start"),
        ({"residual_start": 0.5, "trunk_weights": "IMAGENET1K_V1"}, "model.residual_start"),
    ],
)
def test_impossible_shape_is_bad_input_that_names_the_key(change, words):
    with pytest.raises(InputError, match=words):
        ModelConfig(**change)
