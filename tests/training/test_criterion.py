"""How the losses are put together: weights, forms, and what a batch's share is."""

import pytest
import torch

from medslip.data.loading import Batch
from medslip.data.transforms import EvaluationTransform
from medslip.errors import InputError
from medslip.losses import LossCounts, loss_counts
from medslip.model.medslip import ModelConfig, build_model
from medslip.training.criterion import LOSS_NAMES, LossConfig, PretrainingObjective, medslip_loss

CONFIG = ModelConfig("resnet18", width=16, decoder_layers=1, feed_forward=16, dropout=0.0)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_model(CONFIG, torch.randn(75, 12), torch.randn(51, 12)).eval()


@pytest.fixture(scope="module")
def batch():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(-40, 2, (4, 51, 75), generator=generator).clamp(min=-1).to(torch.int8)
    images = torch.randint(0, 256, (4, 1, 32, 32), dtype=torch.uint8, generator=generator)
    return Batch(images, torch.arange(4), labels)


@pytest.fixture(scope="module")
def output(model, batch):
    with torch.no_grad():
        return model(EvaluationTransform(32).normalise(batch.images))


def test_total_is_existence_plus_alpha_protocl_plus_beta_icl(model, output, batch):
    """The logged parts must be what is summed, and a weight must weigh its own loss alone."""
    plain = medslip_loss(model, output, batch.labels, LossConfig())
    assert len(plain) == len(LOSS_NAMES)
    torch.testing.assert_close(plain[0], plain[1:].sum())
    weighted = medslip_loss(model, output, batch.labels, LossConfig(alpha=0.5, beta=3.0))
    torch.testing.assert_close(weighted[1:], plain[1:])
    torch.testing.assert_close(weighted[0], (torch.tensor([1.0, 0.5, 1.0, 0.5, 3.0]) * plain[1:]).sum())
    assert LOSS_NAMES == (
        "total", "existence_pathology", "protocl_pathology", "existence_anatomy", "protocl_anatomy", "icl",
    )  # fmt: skip


def test_drawn_negatives_follow_the_generator(model, output, batch):
    """Validation compares epochs: its negatives must be the same ones each time."""

    def loss(seed, negatives=7):
        generator = torch.Generator().manual_seed(seed)
        return medslip_loss(model, output, batch.labels, LossConfig(negatives=negatives), generator)

    assert torch.equal(loss(0), loss(0))
    assert not torch.equal(loss(0), loss(1))
    assert torch.equal(loss(0, "all"), loss(1, "all"))
    assert (loss(0)[[2, 4]] < loss(0, "all")[[2, 4]]).all()  # fewer wrong answers to choose from
    assert torch.equal(loss(0)[[1, 3, 5]], loss(0, "all")[[1, 3, 5]])


def test_objective_answers_what_the_loss_of_the_model_is(model, output, batch):
    objective = PretrainingObjective(model, EvaluationTransform(32).normalise, LossConfig()).eval()
    counts = objective.counts(batch)
    assert torch.equal(counts, loss_counts(batch.labels).stack())
    with torch.no_grad():
        found = objective(batch, counts, torch.Generator())
        halved = objective(batch, 2 * counts, torch.Generator())
    torch.testing.assert_close(found, medslip_loss(model, output, batch.labels, LossConfig()), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(halved, found / 2)


def test_protocl_is_computed_in_float32_under_autocast(model, output, batch):
    """In bfloat16 a dot product of 768 values is off by more than the differences that the loss turns on."""
    published = LossConfig(negatives=7)
    expected = medslip_loss(model, output, batch.labels, published, torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        found = medslip_loss(model, output, batch.labels, published, torch.Generator().manual_seed(0))
    assert torch.equal(found, expected)


def test_counts_survive_stacking():
    counts = LossCounts(*map(torch.tensor, (1.0, 2.0, 3.0, 4.0, 5.0)))
    assert LossCounts.unstack(counts.stack()) == counts


def test_batch_without_labels_is_a_programming_error(model, batch):
    objective = PretrainingObjective(model, EvaluationTransform(32).normalise, LossConfig())
    with pytest.raises(AssertionError, match="without labels"):
        objective.counts(Batch(batch.images, batch.indices))


@pytest.mark.parametrize("negatives", [0, -7])
def test_number_of_negatives_that_teaches_nothing_is_bad_input(negatives):
    with pytest.raises(InputError, match=r"loss\.negatives"):
        LossConfig(negatives=negatives)
