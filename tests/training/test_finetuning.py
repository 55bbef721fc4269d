"""The fine-tuning losses and objectives."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from medslip.data.loading import Batch
from medslip.data.preprocessing import Preprocessing
from medslip.losses import classification_loss, dice_bce_loss
from medslip.training.finetuning import CLASSIFICATION_LOSS, SEGMENTATION_LOSS
from medslip.training.objective import Objective


def test_an_empty_mask_predicted_empty_costs_nothing():
    losses = dice_bce_loss(torch.full((2, 1, 8, 8), -30.0), torch.zeros(2, 1, 8, 8))
    assert losses.tolist() == pytest.approx([0, 0, 0], abs=1e-6)


def test_dice_by_hand():
    logits, masks = torch.full((1, 1, 2, 2), -40.0), torch.zeros(1, 1, 2, 2)
    logits[0, 0, 0, 0] = logits[0, 0, 0, 1] = 40.0
    masks[0, 0, 0, 0] = 1
    total, dice, bce = dice_bce_loss(logits, masks)
    assert float(dice) == pytest.approx(1 - (2 * 1 + 1) / (2 + 1 + 1))
    assert float(bce) == pytest.approx(40 / 4)
    assert float(total) == pytest.approx(float(dice) + float(bce))


def test_parts_divided_by_a_global_count_add_up_to_the_whole_batch():
    """Otherwise several processes or accumulation steps would not train as one does."""
    torch.manual_seed(0)
    logits, masks = torch.randn(5, 1, 8, 8), torch.rand(5, 1, 8, 8).round()
    count = torch.tensor(5.0)
    parts = dice_bce_loss(logits[:2], masks[:2], count) + dice_bce_loss(logits[2:], masks[2:], count)
    torch.testing.assert_close(parts, dice_bce_loss(logits, masks))


def test_unknown_labels_do_not_count():
    logits, labels = torch.randn(3, 2), torch.tensor([[1, -1], [0, -1], [-1, 1]])
    known = labels >= 0
    expected = F.binary_cross_entropy_with_logits(logits[known], labels[known].float())
    torch.testing.assert_close(classification_loss(logits, labels), expected)
    assert float(classification_loss(logits, torch.full((3, 2), -1))) == 0


def test_objectives_count_what_their_losses_divide_by():
    normalise, generator = Preprocessing(16).normalise, torch.Generator()
    images, indices = torch.zeros(2, 1, 16, 16, dtype=torch.uint8), torch.arange(2)
    segmentation = Objective(torch.nn.Conv2d(3, 1, 1), SEGMENTATION_LOSS, normalise)
    batch = Batch(images, indices, torch.zeros(2, 1, 16, 16, dtype=torch.uint8))
    assert segmentation.counts(batch).tolist() == [2]
    whole = segmentation(batch, torch.tensor([2.0]), generator)
    torch.testing.assert_close(segmentation(batch, torch.tensor([4.0]), generator) * 2, whole)
    head = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 3))
    classification = Objective(head, CLASSIFICATION_LOSS, normalise)
    batch = Batch(images, indices, torch.tensor([[1, 0, -1], [-1, -1, 0]], dtype=torch.int8))
    assert classification.counts(batch).tolist() == [3]
    assert classification(batch, torch.tensor([3.0]), generator).shape == (1,)
