"""Files that were written before: each must still be read, and mean the same.

The recipes in formats/ are such files without their weights, the folder prepared/ and config.yaml are such files as they were
written. They are not rewritten when a format changes: the code then has to read both.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from medslip.checkpoints import load_checkpoint, load_finetuned, load_state
from medslip.config import parse
from medslip.data.prepared import read_list
from medslip.labels import LabelStore
from medslip.model.medslip import MeDSLIP
from medslip.tasks.finetune_seg import FinetuneSegConfig
from medslip.tasks.pretrain import PretrainConfig
from medslip.training.criterion import Criterion, LossConfig, loss_terms
from medslip.training.objective import Objective
from medslip.training.optim import OptimConfig, make_optimizer

FORMATS = Path(__file__).parent / "formats"
Write = Callable[[str, Path], Path]


def film(side: int) -> Tensor:
    """1 x 1 x S x S, uint8."""
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 1, side, side), dtype=np.uint8))


def summary(values: Tensor) -> list[float]:
    """Mean and root mean square, which a change of any part of the network changes."""
    return [float(values.double().mean()), math.sqrt(float(values.double().square().mean()))]


def logits(model: MeDSLIP, transform) -> Tensor:
    with torch.inference_mode():
        return model(transform.normalise(film(transform.side))).pathology_logits


def test_a_pretrained_checkpoint_is_read(write_recipe: Write, tmp_path: Path) -> None:
    """Hours of training would be lost with an update."""
    checkpoint = load_checkpoint(write_recipe("pretrained", tmp_path / "best.safetensors"))
    card = checkpoint.card
    assert (card.transform.side, card.model.width, card.model.trunk) == (64, 16, "resnet18")
    assert (card.text.encoder, card.text.max_tokens, card.text.sep) == ("tiny_bert", 32, True)
    assert len(card.prompts.pathology) == 75
    assert card.provenance["step"] == 3
    assert card.provenance["validation"]["validation_auroc"] == pytest.approx(0.518968253968254)
    assert summary(logits(checkpoint.model, card.transform)) == pytest.approx(EXPECTED["pretrained"], rel=1e-5)


def test_a_run_is_resumed_from_its_state(write_recipe: Write, tmp_path: Path) -> None:
    """Weights, moments and step: a run that an older version began could not go on."""
    checkpoint = load_checkpoint(write_recipe("pretrained", tmp_path / "best.safetensors"))
    criterion = Criterion(loss_terms(LossConfig()))
    objective = Objective(checkpoint.model, criterion, checkpoint.card.transform.normalise)
    optimizer = make_optimizer(objective, OptimConfig())
    progress = load_state(write_recipe("state", tmp_path / "last.safetensors"), objective, optimizer)
    assert (progress.step, progress.steps_per_epoch) == (3, 3)
    assert progress.best_score == pytest.approx(0.518968253968254)
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    moments = [optimizer.state[weight]["exp_avg"] for weight in weights]
    assert [moment.shape for moment in moments] == [weight.shape for weight in weights]
    assert summary(torch.cat([m.flatten() for m in moments])) == pytest.approx(EXPECTED["moments"], rel=1e-5)
    model = checkpoint.model.eval()
    assert summary(logits(model, checkpoint.card.transform)) == pytest.approx(EXPECTED["state"], rel=1e-5)


@pytest.mark.parametrize(
    ("name", "task", "classes"),
    [
        ("classifier", "fine-tuned classification", 18),
        ("linear_probe", "fine-tuned classification", 18),
        ("segmenter", "segmentation", 1),
    ],
)
def test_a_fine_tuned_model_is_read(name: str, task: str, classes: int, write_recipe: Write, tmp_path: Path) -> None:
    tuned = load_finetuned(write_recipe(name, tmp_path / "best.safetensors"))
    assert (tuned.task, len(tuned.classes), tuned.transform.side, tuned.equalise) == (task, classes, 32, False)
    assert tuned.threshold == (pytest.approx(EXPECTED["threshold"]) if name == "segmenter" else None)
    assert summary(tuned.probabilities(film(32))) == pytest.approx(EXPECTED[name], rel=1e-5)


def test_a_prepared_data_set_is_read() -> None:
    """Preparing MIMIC-CXR again takes an hour, and its lists are cited in papers."""
    folder = FORMATS / "prepared"
    store = LabelStore(folder / "labels")
    lists = {split: read_list(folder / f"{split}.csv") for split in ("train", "valid", "test")}
    for studies in lists.values():
        store.check(studies.images, studies.source)
    assert {split: len(studies) for split, studies in lists.items()} == EXPECTED["images"]
    first = lists["train"].images.iloc[0]
    anatomy, pathology, state = store.cells(int(first["row"]))
    assert [first["study"], first["patient"], first["view"]] == EXPECTED["first"]
    assert [[int(value) for value in part] for part in (anatomy, pathology, state)] == EXPECTED["cells"]
    assert json.loads((folder / "summary.json").read_text())["images"] == EXPECTED["images"]


KEYS = (
    ("null_patch:", "add_zero_attn:"),
    ("residual_start:", "residual_gamma:"),
    ("^start:", "init:"),
    (
        r"^data:\n  kind: phantom\n  path: (.*)\n  images: null\n  masks: null\n  pathology: (.*)$",
        r"finding: \2\ndata:\n  train: {kind: coco, path: \1, split: valid+test}",
    ),
)
"""Pattern in a stored config -> what stands there today."""


@pytest.mark.parametrize(("name", "config"), [("pretrain", PretrainConfig), ("finetune_seg", FinetuneSegConfig)])
def test_a_config_of_a_run_can_be_used_again(name: str, config: type, tmp_path: Path) -> None:
    """Every run folder holds one, so that the run can be repeated."""
    text = (FORMATS / f"{name}.yaml").read_text()
    for pattern, replacement in KEYS:
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    (tmp_path / "config.yaml").write_text(text)
    read = parse(config, ["--config", str(tmp_path / "config.yaml")])
    assert read.train.batch_size == 8
    assert read.device == "cpu"


EXPECTED = json.loads((Path(__file__).parent / "formats" / "expected.json").read_text())
