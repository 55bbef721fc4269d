"""The losses against plain reference computations, and the counts that make shards add up to one batch."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medslip.losses import draw_negatives, existence_loss, existence_of, icl_loss, protocl_loss

A, P, T = 4, 5, 6


def random_labels(seed, batch, known=0.5):
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, (batch, A, P))
    return torch.from_numpy(np.where(random.random((batch, A, P)) < known, labels, -1))


@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_existence_is_present_before_absent_before_unknown(seed, known):
    """Any present cell makes a query present; only a said absence makes it absent; silence stays unknown."""
    labels = random_labels(seed, 3, known)
    pathology, anatomy = existence_of(labels)
    for row, matrix in enumerate(labels.tolist()):
        for query in range(P):
            said = [cells[query] for cells in matrix if cells[query] >= 0]
            assert pathology[row, query] == max(said, default=-1)
        for query in range(A):
            said = [cell for cell in matrix[query] if cell >= 0]
            assert anatomy[row, query] == max(said, default=-1)


def test_existence_loss_is_cross_entropy_over_the_known_labels():
    """An unknown query must not be taught as absent."""
    logits = torch.tensor([[[0.0, 2.0], [1.0, 0.0], [5.0, -5.0]]])
    labels = torch.tensor([[1, 0, -1]])
    expected = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(-1))) / 2
    assert existence_loss(logits, labels).item() == pytest.approx(expected)


def test_icl_loss_is_binary_cross_entropy_over_the_known_cells():
    logits = torch.tensor([[[0.0, 3.0], [-2.0, 9.0]]])
    labels = torch.tensor([[[1, 0], [0, -1]]])
    expected = (math.log(2) + math.log(1 + math.exp(3)) + math.log(1 + math.exp(-2))) / 3
    assert icl_loss(logits, labels).item() == pytest.approx(expected)


def plain_protocl(prototypes, counterparts, present, negatives, scale):
    """ProtoCL as two loops over studies and queries."""
    losses = []
    for b in range(len(present)):
        for q in range(present.shape[1]):
            own = [c for c in range(present.shape[2]) if present[b, q, c]]
            if not own:
                continue
            positive = np.mean([counterparts[c] for c in own], axis=0)
            drawn = [c for c in range(present.shape[2]) if c not in own] if negatives is None else negatives[b, q]
            candidates = [positive, *(counterparts[c] for c in drawn if c >= 0)]
            if scale is None:
                scores = [prototypes[b, q] @ candidate for candidate in candidates]
            else:
                z = prototypes[b, q] / np.linalg.norm(prototypes[b, q])
                scores = [scale * (z @ candidate) / np.linalg.norm(candidate) for candidate in candidates]
            losses.append(np.log(np.sum(np.exp(np.array(scores) - scores[0]))))
    return np.mean(losses)


@pytest.mark.parametrize("form", ["dot, drawn", "dot, all", "cosine, drawn", "cosine, all"])
def test_protocl_equals_a_double_loop(form):
    """The authors' form is the dot product with drawn negatives, ours the cosine with all."""
    torch.manual_seed(0)
    prototypes, counterparts = torch.randn(3, A, T), torch.randn(P, T)
    present = random_labels(1, 3) == 1
    present[0, 0] = True  # nothing is left to contrast with
    present[1, 1] = False  # not queried
    negatives = draw_negatives(present, 3, torch.Generator().manual_seed(0)) if "drawn" in form else None
    scale = torch.tensor(4.0) if "cosine" in form else None
    expected = plain_protocl(
        prototypes.double().numpy(),
        counterparts.double().numpy(),
        present.numpy(),
        None if negatives is None else negatives.numpy(),
        None if scale is None else 4.0,
    )
    assert protocl_loss(prototypes, counterparts, present, negatives, scale).item() == pytest.approx(expected, rel=1e-5)


def counts_of(labels):
    """What the five losses of a batch are divided by."""
    pathology, anatomy = existence_of(labels)
    cells = ((pathology >= 0), (pathology == 1), (anatomy >= 0), (anatomy == 1), (labels >= 0))
    return torch.stack([known.sum() for known in cells])


def each_loss(labels, tensors, scale, counts=None):
    """The five losses of a batch; ``tensors`` has one row per study."""
    pathology, anatomy = existence_of(labels)
    present = labels == 1
    count = [None] * 5 if counts is None else counts
    anatomies, pathologies = torch.ones(A, T).cumsum(1) - torch.eye(A, T), torch.eye(P, T)
    return torch.stack(
        [
            existence_loss(tensors["pathology"], pathology, count[0]),
            protocl_loss(tensors["z_pathology"], anatomies, present.mT, scale=scale, count=count[1]),
            existence_loss(tensors["anatomy"], anatomy, count[2]),
            protocl_loss(tensors["z_anatomy"], pathologies, present, scale=scale, count=count[3]),
            icl_loss(tensors["icl"], labels, count[4]),
        ]
    )


def outputs(seed, batch):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"pathology": (P, 2), "anatomy": (A, 2), "z_pathology": (P, T), "z_anatomy": (A, T), "icl": (A, P)}
    return {name: torch.randn(batch, *shape, generator=generator).requires_grad_() for name, shape in shapes.items()}


@pytest.mark.parametrize("scale", [None, 5.0])
@pytest.mark.parametrize("known", [0, -1])
def test_loss_over_nothing_known_is_zero_with_zero_gradients(scale, known):
    """One NaN from a batch of reports that say nothing would end a training of days.

    With everything absent, existence and ICL have labels, and only ProtoCL has nothing to pull to.
    """
    labels, tensors = torch.full((2, A, P), known), outputs(0, 2)
    temperature = None if scale is None else torch.tensor(scale, requires_grad=True)
    losses = each_loss(labels, tensors, temperature)
    losses.sum().backward()
    silent = [1, 3] if known == 0 else range(5)
    assert losses[list(silent)].eq(0).all()
    assert losses.isfinite().all()
    for name in ("z_pathology", "z_anatomy") if known == 0 else tensors:
        assert tensors[name].grad.eq(0).all(), name
    assert temperature is None or temperature.grad == 0


def test_protocl_with_everything_present_has_nothing_to_contrast_and_is_zero():
    tensors = outputs(0, 2)
    losses = each_loss(torch.ones(2, A, P), tensors, None)
    losses.sum().backward()
    assert losses[[1, 3]].eq(0).all()
    assert all(tensor.grad.isfinite().all() for tensor in tensors.values())


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.lists(st.integers(0, 3), min_size=1, max_size=4), st.floats(0, 1), st.booleans())
def test_shards_divided_by_the_global_count_sum_to_the_whole(seed, sizes, known, cosine):
    """Otherwise the gradient would depend on how a batch is spread over processes and accumulation steps."""
    batch = sum(sizes) + 1
    labels, tensors = random_labels(seed, batch, known), outputs(seed, batch)
    scale = torch.tensor(3.0) if cosine else None
    whole = each_loss(labels, tensors, scale)
    edges = [0, *np.cumsum(sizes), batch]
    shards = [slice(first, last) for first, last in pairwise(edges)]
    counts = torch.stack([counts_of(labels[shard]) for shard in shards]).sum(0)
    parts = [
        each_loss(labels[shard], {name: tensor[shard] for name, tensor in tensors.items()}, scale, counts)
        for shard in shards
    ]
    torch.testing.assert_close(torch.stack(parts).sum(0), whole, rtol=1e-4, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 9), st.floats(0, 1))
def test_drawn_negatives_are_never_present_and_never_twice(seed, number, fraction):
    """A negative that is present would push a query away from its own positive."""
    generator = torch.Generator().manual_seed(seed)
    present = torch.rand(6, 7, generator=generator) < fraction
    drawn = draw_negatives(present, number, generator)
    assert drawn.shape == (6, min(number, 7))
    for row, queries in zip(present, drawn, strict=True):
        real = [index for index in queries.tolist() if index >= 0]
        absent = set((~row).nonzero()[:, 0].tolist())
        assert set(real) <= absent
        assert len(set(real)) == len(real) == min(number, len(absent))


def test_drawn_negatives_are_uniform_and_follow_the_seed():
    """A preferred negative would be learnt better than the others."""
    present = torch.zeros(20_000, 6, dtype=torch.bool)
    present[:, 2] = True
    drawn = draw_negatives(present, 2, torch.Generator().manual_seed(0))
    counted = torch.bincount(drawn.flatten(), minlength=6)
    assert counted[2] == 0
    expected = 20_000 * 2 / 5
    assert (counted[[0, 1, 3, 4, 5]] - expected).abs().max() < 5 * expected**0.5
    assert torch.equal(drawn, draw_negatives(present, 2, torch.Generator().manual_seed(0)))
    assert not torch.equal(drawn, draw_negatives(present, 2, torch.Generator().manual_seed(1)))
