"""How the losses are put together: names, weights, forms, and a batch's part in a global count."""

from contextlib import nullcontext

import pytest
import torch

from medslip.data.loading import Batch
from medslip.data.preprocessing import Preprocessing
from medslip.errors import InputError
from medslip.losses import existence_of
from medslip.model.medslip import MeDSLIP, ModelConfig
from medslip.training.criterion import Criterion, LossConfig, loss_terms
from medslip.training.objective import Objective

CONFIG = ModelConfig("resnet18", width=16, decoder_layers=1, feed_forward=16, dropout=0.0)


def losses(output, labels, seed=0, **config):
    """All losses of a batch."""
    generator = torch.Generator().manual_seed(seed)
    return Criterion(loss_terms(LossConfig(**config)))(output, labels, generator=generator)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return MeDSLIP(CONFIG, torch.randn(75, 12), torch.randn(51, 12)).eval()


@pytest.fixture(scope="module")
def batch():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(-40, 2, (4, 51, 75), generator=generator).clamp(min=-1).to(torch.int8)
    images = torch.randint(0, 256, (4, 1, 32, 32), dtype=torch.uint8, generator=generator)
    return Batch(images, torch.arange(4), labels)


@pytest.fixture(scope="module")
def output(model, batch):
    with torch.no_grad():
        return model(Preprocessing(32).normalise(batch.images))


def test_total_is_existence_plus_alpha_protocl_plus_beta_icl(output, batch):
    """The logged parts must be what is summed, and a weight must weigh its own loss alone."""
    plain = losses(output, batch.labels)
    torch.testing.assert_close(plain[0], plain[1:].sum())
    weighted = losses(output, batch.labels, alpha=0.5, beta=3.0)
    torch.testing.assert_close(weighted[1:], plain[1:])
    torch.testing.assert_close(weighted[0], (torch.tensor([1.0, 0.5, 1.0, 0.5, 3.0]) * plain[1:]).sum())
    assert Criterion(loss_terms(LossConfig())).names == (
        "total", "existence_pathology", "protocl_pathology", "existence_anatomy", "protocl_anatomy", "icl",
    )  # fmt: skip


def test_drawn_negatives_follow_the_generator(output, batch):
    """Validation compares epochs: its negatives must be the same ones each time."""

    def loss(seed, negatives=7):
        return losses(output, batch.labels, seed, negatives=negatives)

    assert torch.equal(loss(0), loss(0))
    assert not torch.equal(loss(0), loss(1))
    assert torch.equal(loss(0, "all"), loss(1, "all"))
    assert (loss(0)[[2, 4]] < loss(0, "all")[[2, 4]]).all()  # fewer negatives to choose from
    assert torch.equal(loss(0)[[1, 3, 5]], loss(0, "all")[[1, 3, 5]])


def test_objective_is_the_criterion_on_the_models_output(model, output, batch):
    criterion = Criterion(loss_terms(LossConfig()))
    objective = Objective(model, criterion, Preprocessing(32).normalise).eval()
    counts = objective.counts(batch)
    pathology, anatomy = existence_of(batch.labels)
    known = ((pathology >= 0), (pathology == 1), (anatomy >= 0), (anatomy == 1), (batch.labels >= 0))
    assert counts.tolist() == [float(cells.sum()) for cells in known]
    with torch.no_grad():
        found = objective(batch, counts, torch.Generator())
        halved = objective(batch, 2 * counts, torch.Generator())
    torch.testing.assert_close(found, losses(output, batch.labels), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(halved, found / 2)


def test_parts_of_a_batch_add_up_to_the_whole(output, batch, model):
    """With several processes or accumulation steps, each divides its own losses by the counts of all."""
    criterion = Criterion(loss_terms(LossConfig()))
    counts = criterion.counts(batch.labels)
    with torch.no_grad():
        images = Preprocessing(32).normalise(batch.images)
        parts = [criterion(model(images[rows]), batch.labels[rows], counts) for rows in (slice(0, 1), slice(1, None))]
    torch.testing.assert_close(sum(parts), criterion(output, batch.labels), rtol=1e-4, atol=1e-5)
    halves = [criterion.counts(batch.labels[rows]) for rows in (slice(0, 1), slice(1, None))]
    assert torch.equal(sum(halves), counts)


def test_protocl_is_computed_in_float32_under_autocast(output, batch):
    """In bfloat16 a dot product of 768 values is off by more than the differences that the loss depends on."""
    expected = losses(output, batch.labels, negatives=7)
    with torch.autocast("cpu", torch.bfloat16):
        found = losses(output, batch.labels, negatives=7)
    assert torch.equal(found, expected)


def test_batch_without_labels_is_a_programming_error(model, batch):
    objective = Objective(model, Criterion(loss_terms(LossConfig())), Preprocessing(32).normalise)
    with pytest.raises(AssertionError, match="without labels"):
        objective.counts(Batch(batch.images, batch.indices))


@pytest.mark.parametrize("negatives", [0, -7])
def test_number_of_negatives_that_teaches_nothing_is_bad_input(negatives):
    with pytest.raises(InputError, match=r"loss\.negatives"):
        LossConfig(negatives=negatives)


@pytest.mark.parametrize("negatives", ["all", 7])
def test_losses_never_wait_for_the_device(negatives, monkeypatch):
    """Each number that the host reads from a GPU stops it from sending further work; the meta device has none to read."""
    model = MeDSLIP(CONFIG, torch.randn(75, 12), torch.randn(51, 12)).to("meta")
    criterion = Criterion(loss_terms(LossConfig(negatives=negatives)))
    labels = torch.randint(-40, 2, (2, 51, 75)).clamp(min=-1).to(torch.int8)
    counts = criterion.counts(labels).to("meta")
    output = model(torch.zeros(2, 3, 32, 32, device="meta"))
    with monkeypatch.context() as patch:
        patch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # it does not know this device
        found = criterion(output, labels, counts)
    found[0].backward()
    assert found.is_meta
    assert all(parameter.grad is not None for parameter in model.parameters())
