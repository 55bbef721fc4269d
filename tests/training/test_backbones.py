"""Every backbone learns in pre-training, segmentation and classification; and the documented ways to add one, or a loss."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from medslip.data.loading import Batch
from medslip.data.preprocessing import Preprocessing
from medslip.model import trunk as trunk_module
from medslip.model.classifier import Classifier
from medslip.model.medslip import MeDSLIP, ModelConfig
from medslip.model.segmenter import Segmenter
from medslip.model.trunk import BACKBONES, FourthStage, Trunk
from medslip.training import criterion as criterion_module
from medslip.training.criterion import Criterion, LossConfig, loss_terms
from medslip.training.finetuning import CLASSIFICATION_LOSS, SEGMENTATION_LOSS
from medslip.training.objective import Objective
from medslip.training.optim import OptimConfig, make_optimizer

NORMALISE = Preprocessing(32).normalise


def pretraining(name, generator):
    config = ModelConfig(name, width=16, decoder_layers=1, feed_forward=16, dropout=0.0)
    model = MeDSLIP(config, torch.randn(75, 12), torch.randn(51, 12))
    labels = torch.randint(-40, 2, (4, 51, 75), generator=generator).clamp(min=-1)
    return Objective(model, Criterion(loss_terms(LossConfig())), NORMALISE), labels


def segmentation(name, generator):
    labels = torch.randint(0, 2, (4, 1, 32, 32), generator=generator)
    return Objective(Segmenter(Trunk(name), bridge=32), SEGMENTATION_LOSS, NORMALISE), labels


def classification(name, generator):
    model = Classifier(Trunk(name), FourthStage(name), 3)
    return Objective(model, CLASSIFICATION_LOSS, NORMALISE), torch.randint(-1, 2, (4, 3), generator=generator)


@pytest.mark.parametrize("task", [pretraining, segmentation, classification])
@pytest.mark.parametrize("name", BACKBONES)
def test_a_step_reaches_every_parameter(name, task):
    """Some layer of another backbone could be left out of the graph, which stops a run with several processes."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    objective, labels = task(name, generator)
    images = torch.randint(0, 256, (4, 1, 32, 32), dtype=torch.uint8, generator=generator)
    batch, optimizer = Batch(images, torch.arange(4), labels), make_optimizer(objective, OptimConfig())
    losses = objective(batch, objective.counts(batch), generator)
    assert losses.isfinite().all()
    losses[0].backward()
    assert [name for name, parameter in objective.named_parameters() if parameter.grad is None] == []
    optimizer.step()
    assert objective.predict(images) is not None
    assert all(parameter.isfinite().all() for parameter in objective.parameters())


def documented(word):
    """The code example of docs/backbones_and_losses.md that contains a word."""
    text = (Path(__file__).parents[2] / "docs" / "backbones_and_losses.md").read_text(encoding="utf-8")
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", text, flags=re.S) if word in block]
    return code


@pytest.mark.parametrize("task", [pretraining, segmentation, classification])
def test_a_documented_new_backbone_is_one_entry(task, monkeypatch):
    """No other part may need to know the backbone."""
    monkeypatch.setattr(trunk_module, "BACKBONES", dict(BACKBONES))
    exec(documented("BACKBONES"), vars(trunk_module))
    test_a_step_reaches_every_parameter("regnet_y_400mf", task)


def test_a_documented_new_loss_is_one_function_and_one_entry():
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    objective, labels = pretraining("resnet18", generator)
    terms = loss_terms(LossConfig())
    exec(documented("icl_existence"), vars(criterion_module) | {"F": torch.nn.functional, "terms": terms})
    objective.criterion = Criterion(terms)
    batch = Batch(torch.zeros(4, 1, 32, 32, dtype=torch.uint8), torch.arange(4), labels)
    losses = dict(zip(objective.criterion.names, objective(batch, objective.counts(batch), generator), strict=True))
    assert losses["icl_existence"] > 0
    others = sum(loss for name, loss in losses.items() if name not in ("total", "icl_existence"))
    torch.testing.assert_close(losses["total"], others + 0.1 * losses["icl_existence"])
