"""Fine-tuned models of every kind of backbone come back as they were saved."""

from __future__ import annotations

import pytest
import torch

from medslip.checkpoints import load_finetuned, save_finetuned
from medslip.data.preprocessing import Preprocessing
from medslip.errors import InputError
from medslip.model.classifier import Classifier, LinearProbe
from medslip.model.segmenter import Segmenter
from medslip.model.trunk import FourthStage, Trunk

CLASSES = ["Effusion", "Edema"]


def card_of(name, **task):
    return {"init": {"trunk": name}, "transform": Preprocessing(32).to_dict(), **task}


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "densenet121", "convnext_tiny"])
@pytest.mark.parametrize("kind", ["segmenter", "classifier", "probe"])
def test_a_model_comes_back_as_it_was_saved(name, kind, tmp_path):
    """A head built for another backbone would not take its weights."""
    torch.manual_seed(0)
    if kind == "segmenter":
        validation = {"validation_threshold": 0.4}
        model = Segmenter(Trunk(name), 32)
        card = card_of(name, task="segmentation", finding="pneumothorax", bridge=32, validation=validation)
    else:
        model = LinearProbe(Trunk(name), 2) if kind == "probe" else Classifier(Trunk(name), FourthStage(name), 2)
        card = card_of(name, task="fine-tuned classification", classes=CLASSES, linear_probe=kind == "probe")
    save_finetuned(tmp_path / "best.safetensors", model, card)
    tuned = load_finetuned(tmp_path / "best.safetensors")
    images = torch.randint(0, 256, (1, 1, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        expected = model.eval()(tuned.transform.normalise(images)).sigmoid()
    assert torch.equal(tuned.probabilities(images), expected)
    assert tuned.threshold == (0.4 if kind == "segmenter" else None)


def test_an_unknown_backbone_is_bad_input(tmp_path):
    """A file of a later version would end in torchvision's traceback."""
    card = card_of("resnet9000", task="fine-tuned classification", classes=CLASSES, linear_probe=True)
    save_finetuned(tmp_path / "best.safetensors", LinearProbe(Trunk("resnet18"), 2), card)
    with pytest.raises(InputError, match="'resnet9000' is not one of"):
        load_finetuned(tmp_path / "best.safetensors")
