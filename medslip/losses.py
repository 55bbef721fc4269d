"""The losses of the paper (Fan et al., arXiv 2403.10635) and of fine-tuning, as pure functions of tensors.

Each loss is a sum over its known cells divided by a count. The count is that of the batch unless one is given: with
several processes or accumulation steps it is the count over all of them, so that the gradient equals that of one big batch.
Without any known cell a loss is 0, never NaN.

Label codes: 1 present, 0 absent, -1 not mentioned. Q queries (pathologies or anatomies) have C counterparts (anatomies or
pathologies). Shapes: B batch, A 51 anatomies, P 75 pathologies, T text width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def existence_of(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Existence labels of both streams: present (1) before absent (0) before not mentioned (-1).

    Args:
        labels: B x A x P.

    Returns:
        pathology B x P and anatomy B x A.
    """
    return labels.amax(dim=1), labels.amax(dim=2)


def existence_loss(logits: Tensor, labels: Tensor, count: Tensor | None = None) -> Tensor:
    """Existence loss of one stream (the paper's L_exist): cross-entropy over the known queries.

    Args:
        logits: B x Q x 2, (absent, present).
        labels: B x Q, 1, 0 or -1.
        count: Divisor; None counts the known labels here.
    """
    summed = F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten().long(), ignore_index=-1, reduction="sum")
    return _mean(summed, (labels >= 0).sum() if count is None else count)


def draw_negatives(present: Tensor, number: int, generator: torch.Generator | None = None) -> Tensor:
    """Random counterparts that are not present, without replacement.

    Args:
        present: ... x C, bool, True where the counterpart is present.
        number: How many to draw per query.
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
    """Prototypical contrastive loss (the paper's L_ProtoCL) in one direction.

    Cross-entropy per query with a present counterpart: the positive is the mean text embedding of its present
    counterparts, the negatives are counterparts that are not present.

    Args:
        prototypes: ... x T, where the model's queries point in text space.
        counterparts: C x T, text embeddings.
        present: ... x C, bool.
        negatives: ... x K counterpart indices, -1 for none; None takes all that are not present.
        scale: Inverse temperature of the cosine similarity; None takes the plain dot product, as in the paper's code.
        count: Divisor; None counts the queries with a present counterpart here.
    """
    z, counterparts, number = prototypes.float(), counterparts.float(), present.sum(dim=-1, keepdim=True)
    weight = present.float() / number.clamp(min=1)
    positive = weight @ counterparts  # ... x T, the mean of the present ones, in one matrix product
    if scale is not None:
        z = scale * F.normalize(z, dim=-1)
        positive, counterparts = F.normalize(positive, dim=-1), F.normalize(counterparts, dim=-1)
    scores = z @ counterparts.T  # ... x C
    if negatives is None:
        negative = scores.masked_fill(present, -torch.inf)
    else:
        negative = scores.gather(-1, negatives.clamp(min=0)).masked_fill(negatives < 0, -torch.inf)
    logits = torch.cat([(z * positive).sum(dim=-1, keepdim=True), negative], dim=-1)
    loss = torch.logsumexp(logits, dim=-1, keepdim=True) - logits[..., :1]
    summed = loss.masked_fill(number == 0, 0.0).sum()
    return _mean(summed, (number > 0).sum() if count is None else count)


def icl_loss(logits: Tensor, labels: Tensor, count: Tensor | None = None) -> Tensor:
    """Intra-image contrastive loss (the paper's L_ICL): which anatomy goes with which pathology in this image.

    Args:
        logits: B x A x P, or M for some of the cells.
        labels: Of the same shape; binary cross-entropy over the cells that are 1 or 0.
        count: Divisor; None counts the known cells here.
    """
    return _binary_cross_entropy(logits, labels, count)


def classification_loss(logits: Tensor, labels: Tensor, count: Tensor | None = None) -> Tensor:
    """Binary cross-entropy of a fine-tuned classifier over the known labels.

    Args:
        logits: B x C.
        labels: B x C, 1, 0 or -1.
        count: Divisor; None counts the known labels here.
    """
    return _binary_cross_entropy(logits, labels, count)


def dice_bce_loss(logits: Tensor, masks: Tensor, count: Tensor | None = None) -> Tensor:
    """Dice loss and binary cross-entropy of a segmentation; both are means over images, each image with the same weight.

    The Dice loss is 1 - (2 sum(p m) + 1) / (sum(p) + sum(m) + 1), with p the probabilities and m the mask: the added pixel
    lets an empty mask that is predicted empty score 1.

    Args:
        logits: B x 1 x S x S.
        masks: B x 1 x S x S, 1 inside and 0 outside.
        count: Divisor; None counts the images here.

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
    known = labels >= 0  # a mask, as the number of known cells is known to the host only after waiting for the device
    loss = F.binary_cross_entropy_with_logits(logits.float(), labels.float(), reduction="none")
    summed = loss.masked_fill(~known, 0.0).sum()
    return _mean(summed, known.sum() if count is None else count)


def _mean(summed: Tensor, count: Tensor) -> Tensor:
    return summed / count.clamp(min=1)
