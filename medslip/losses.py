"""The losses of the paper as pure functions of tensors: existence, ProtoCL, ICL; and those of fine-tuning.

Every loss is a sum over its known cells divided by a count. The count is that of the batch unless one is given: with
many processes or accumulation steps it is the count over all of them, so that the gradient equals that of one big batch.
Over no known cell a loss is 0, never NaN.

Label codes: 1 present, 0 absent, -1 not mentioned. Q queries (pathologies or anatomies) have C counterparts (anatomies or
pathologies). Shapes: B batch, A 51 anatomies, P 75 pathologies, T text width.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class LossCounts:
    """How many known cells each loss sums over; scalar float tensors."""

    existence_pathology: Tensor
    protocl_pathology: Tensor
    existence_anatomy: Tensor
    protocl_anatomy: Tensor
    icl: Tensor

    def stack(self) -> Tensor:
        """The five counts as one vector, for one reduction over processes."""
        return torch.stack([getattr(self, field.name) for field in fields(self)])

    @staticmethod
    def unstack(counts: Tensor) -> LossCounts:
        """The inverse of stack."""
        return LossCounts(*counts.unbind())


def existence_of(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Existence labels of both streams: present (1) beats absent (0) beats not mentioned (-1).

    Args:
        labels: B x A x P.

    Returns:
        pathology B x P and anatomy B x A.
    """
    return labels.amax(dim=1), labels.amax(dim=2)


def loss_counts(labels: Tensor) -> LossCounts:
    """The known cells of B x A x P labels, loss by loss."""
    pathology, anatomy = existence_of(labels)
    cells = ((pathology >= 0), (pathology == 1), (anatomy >= 0), (anatomy == 1), (labels >= 0))
    return LossCounts(*(known.sum().float() for known in cells))


def existence_loss(logits: Tensor, labels: Tensor, count: Tensor | None = None) -> Tensor:
    """Is it in the image? Cross-entropy over the known queries (L_exist in method.md's total).

    Args:
        logits: B x Q x 2, (absent, present).
        labels: B x Q, 1, 0 or -1.
        count: What to divide by; None counts the known labels here.
    """
    summed = F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten().long(), ignore_index=-1, reduction="sum")
    return _mean(summed, (labels >= 0).sum() if count is None else count)


def draw_negatives(present: Tensor, number: int, generator: torch.Generator | None = None) -> Tensor:
    """Random counterparts that are not present, without replacement.

    Args:
        present: ... x C, bool, True where the counterpart is present.
        number: How many to draw for each query.
        generator: Source of randomness, on the CPU: the draw is the same on every device.

    Returns:
        ... x min(number, C), int64 indices; -1 where fewer counterparts than that are not present.
    """
    priority = torch.rand(present.shape, generator=generator).to(present.device)
    priority = priority.masked_fill(present, -1.0)
    number = min(number, present.shape[-1])
    best, index = priority.topk(number, dim=-1)
    return index.masked_fill(best < 0, -1)


def protocl_loss(
    prototypes: Tensor,
    counterparts: Tensor,
    present: Tensor,
    negatives: Tensor | None = None,
    scale: Tensor | None = None,
    count: Tensor | None = None,
) -> Tensor:
    """Prototypical contrastive loss (L_ProtoCL of the paper), one direction.

    For each query with a present counterpart, the right answer is the mean text embedding of its present counterparts; the
    wrong ones are counterparts that are not present.

    Args:
        prototypes: B x Q x T, where the model's queries point.
        counterparts: C x T, text embeddings.
        present: B x Q x C, bool.
        negatives: B x Q x K counterpart indices, -1 for none; None takes all that are not present.
        scale: Inverse temperature of the cosine similarity; None compares by plain dot product, as published.
        count: What to divide by; None counts the queries with a present counterpart here.
    """
    asked = present.any(dim=-1)  # B x Q; M of them are True
    z, present = prototypes[asked].float(), present[asked]  # M x T, M x C
    counterparts = counterparts.float()
    weight = present.float() / present.sum(dim=-1, keepdim=True)
    right = weight @ counterparts  # M x T, the mean of the present ones, in one matrix product
    if scale is not None:
        z = scale * F.normalize(z, dim=-1)
        right, counterparts = F.normalize(right, dim=-1), F.normalize(counterparts, dim=-1)
    scores = z @ counterparts.T  # M x C
    if negatives is None:
        wrong = scores.masked_fill(present, -torch.inf)
    else:
        drawn = negatives[asked]
        wrong = scores.gather(1, drawn.clamp(min=0)).masked_fill(drawn < 0, -torch.inf)
    logits = torch.cat([(z * right).sum(dim=-1, keepdim=True), wrong], dim=1)
    summed = (torch.logsumexp(logits, dim=1) - logits[:, 0]).sum()
    return _mean(summed, asked.sum() if count is None else count)


def icl_loss(logits: Tensor, labels: Tensor, count: Tensor | None = None) -> Tensor:
    """Intra-image contrastive loss (L_ICL of the paper): which anatomy goes with which pathology in this image.

    Args:
        logits: B x A x P.
        labels: B x A x P; binary cross-entropy over the cells that are 1 or 0.
        count: What to divide by; None counts the known cells here.
    """
    return _binary_cross_entropy(logits, labels, count)


def classification_loss(logits: Tensor, labels: Tensor, count: Tensor | None = None) -> Tensor:
    """Binary cross-entropy of a fine-tuned classifier.

    Args:
        logits: B x C.
        labels: B x C, 1, 0 or -1.
        count: What to divide by; None counts the known labels here.
    """
    return _binary_cross_entropy(logits, labels, count)


def dice_bce_loss(logits: Tensor, masks: Tensor, count: Tensor | None = None) -> Tensor:
    """Dice and binary cross-entropy of a segmentation; both are means over images, each image counting alike.

    The Dice loss is 1 - (2 sum(p m) + 1) / (sum(p) + sum(m) + 1) with p the probabilities and m the mask: the added pixel
    lets an empty mask that is predicted empty score 1.

    Args:
        logits: B x 1 x S x S.
        masks: B x 1 x S x S, 1 inside and 0 outside.
        count: What to divide by; None counts the images here.

    Returns:
        Three losses: their sum, Dice, binary cross-entropy.
    """
    logits, masks = logits.flatten(1).float(), masks.flatten(1).float()  # B x S^2
    probabilities = logits.sigmoid()
    overlap, area = (probabilities * masks).sum(dim=1), probabilities.sum(dim=1) + masks.sum(dim=1)
    dice = (1 - (2 * overlap + 1) / (area + 1)).sum()
    bce = F.binary_cross_entropy_with_logits(logits, masks, reduction="none").mean(dim=1).sum()
    images = torch.tensor(float(len(logits)), device=logits.device) if count is None else count
    return _mean(torch.stack([dice + bce, dice, bce]), images)


def _binary_cross_entropy(logits: Tensor, labels: Tensor, count: Tensor | None) -> Tensor:
    known = labels >= 0
    summed = F.binary_cross_entropy_with_logits(logits[known].float(), labels[known].float(), reduction="sum")
    return _mean(summed, known.sum() if count is None else count)


def _mean(summed: Tensor, count: Tensor) -> Tensor:
    return summed / count.clamp(min=1)
