"""The authors' .pth as a folder of the hub's form: the same outputs, without prompts or BERT."""

import json
import re

import pytest
import torch

from medslip import Predictor
from medslip.checkpoints import load_authors
from medslip.cli import run_task
from medslip.model.medslip import MeDSLIP, ModelConfig
from medslip.model.text_encoder import TextConfig
from medslip.vocabulary import ANATOMIES, load_prompts

THEIRS = (
    (r"query_projection\.", "disease_embedding_layer."),
    (r"image_encoder\.trunk\.conv1\.", "res_features.0."),
    (r"image_encoder\.trunk\.bn1\.", "res_features.1."),
    (r"image_encoder\.trunk\.layer1\.", "res_features.4."),
    (r"image_encoder\.trunk\.layer2\.", "res_features.5."),
    (r"image_encoder\.trunk\.layer3\.", "res_features.6."),
    (r"image_encoder\.gate\.", "mask_generator."),
    (r"image_encoder\.(\w+)_stream\.hidden\.", r"res_l1_\1."),
    (r"image_encoder\.(\w+)_stream\.out\.", r"res_l2_\1."),
    (r"(\w+)_decoder\.", r"decoder_\1."),
    (r"query_norm\.", "decoder_pathology.norm."),
    (r"(\w+)_existence\.", r"classifier_\1."),
    (r"(\w+)_prototype\.", r"cl_fc_\1."),
)


@pytest.fixture
def release(tmp_path):
    """Random weights in the authors' file."""
    torch.manual_seed(0)
    config = ModelConfig("resnet18", width=32, decoder_layers=1, feed_forward=32, similarity="dot")
    model = MeDSLIP(config, torch.randn(75, 32), torch.randn(51, 32))
    state = {}
    for name, tensor in model.state_dict().items():
        for ours, theirs in THEIRS:
            name = re.sub(f"^{ours}", theirs, name)
        state[f"module.{name}"] = tensor
    state = {name: tensor for name, tensor in state.items() if not name.endswith("_prompts")}
    torch.save({"model": state}, tmp_path / "MeDSLIP_resnet18.pth")
    (tmp_path / "explanation.json").write_text(json.dumps(load_prompts().pathology))
    return tmp_path / "MeDSLIP_resnet18.pth"


def test_the_converted_weights_predict_the_same_without_a_text_encoder(release, tiny_bert, tmp_path, capsys):
    """What people download from the hub would not be the authors' model."""
    options = [
        "--authors.pathology_prompts",
        str(tmp_path / "explanation.json"),
        "--authors.text.encoder",
        str(tiny_bert),
    ]
    arguments = [str(release), str(tmp_path / "converted"), *options, "--authors.text.max_tokens", "32"]
    assert run_task("convert_authors_release", arguments) == 0, capsys.readouterr().err
    assert {path.name for path in (tmp_path / "converted").iterdir()} == {
        "config.json",
        "model.safetensors",
        "README.md",
    }
    text = TextConfig(str(tiny_bert), sep=False, max_tokens=32)
    anatomy = [f"It is located at {name}." for name in ANATOMIES]
    expected = load_authors(release, load_prompts().pathology, anatomy, text)
    found = Predictor.from_pretrained(tmp_path / "converted", device="cpu")
    assert found.checkpoint.card == expected.card
    image = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        assert torch.equal(found.model(image).pathology_logits, expected.model(image).pathology_logits)
    assert run_task("convert_authors_release", arguments) == 2  # and nothing is overwritten
    assert "converted: exists and is not empty" in capsys.readouterr().err


def test_our_own_checkpoint_needs_no_conversion(tiny_checkpoint, tmp_path, capsys):
    assert run_task("convert_authors_release", [str(tiny_checkpoint), str(tmp_path / "out")]) == 2
    assert "our checkpoints need no conversion" in capsys.readouterr().err
