"""The losses of pre-training: named terms, their weights, and what each is divided by.

A further loss is one function and one entry of ``loss_terms``; see docs/backbones_and_losses.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from medslip.errors import InputError
from medslip.losses import draw_negatives, existence_loss, existence_of, icl_loss, protocl_loss
from medslip.model.medslip import MeDSLIPOutput, Prototypes


@dataclass(frozen=True)
class LossConfig:
    """Weights and form of the pre-training losses.

    Attributes:
        alpha: Weight of ProtoCL.
        beta: Weight of ICL.
        negatives: Contrastive negatives per query: "all" counterparts that are not present, or a number drawn at random
            without replacement (7 in the paper's code).
    """

    alpha: float = 1.0
    beta: float = 1.0
    negatives: int | Literal["all"] = "all"

    def __post_init__(self) -> None:
        if self.negatives != "all" and self.negatives < 1:
            raise InputError(
                f"loss.negatives: {self.negatives} is less than 1; to train without ProtoCL, set loss.alpha to 0"
            )


@dataclass(frozen=True)
class Targets:
    """The labels of a batch: 1 present, 0 absent, -1 not mentioned.

    Attributes:
        cells: B x A x P.
        pathology: B x P, existence.
        anatomy: B x A, existence.
        host: The cells in main memory, where it is known without waiting for the device how many of them are present.
        generator: Source of randomness for losses that draw, on the CPU; None for torch's own.
    """

    cells: Tensor
    pathology: Tensor
    anatomy: Tensor
    host: Tensor
    generator: torch.Generator | None = None

    @staticmethod
    def of(cells: Tensor, device: torch.device, generator: torch.Generator | None = None) -> Targets:
        """Targets on a device from B x A x P labels in main memory."""
        on_device, pathology, anatomy = (
            labels.to(device, non_blocking=True) for labels in (cells, *existence_of(cells))
        )
        return Targets(on_device, pathology, anatomy, cells, generator)


@dataclass(frozen=True)
class LossTerm:
    """One loss.

    Attributes:
        weight: Its weight in the total.
        loss: (output, targets, count) -> the loss, summed over what is known in this batch and divided by the count.
        count: What to divide by, from the targets of this batch; the counts of all processes and accumulation steps are added.
    """

    weight: float
    loss: Callable[[MeDSLIPOutput, Targets, Tensor], Tensor]
    count: Callable[[Targets], Tensor]


def loss_terms(config: LossConfig) -> dict[str, LossTerm]:
    """The losses of pre-training: existence(both) + alpha ProtoCL(both) + beta ICL.

    Returns:
        Name, as in the logs -> term. They are computed in this order.
    """

    def protocl(
        output: MeDSLIPOutput, prototypes: Prototypes, prompts: Tensor, present: Tensor, targets: Targets, count: Tensor
    ) -> Tensor:
        drawn = None if config.negatives == "all" else draw_negatives(present, config.negatives, targets.generator)
        queried = present.any(dim=-1).flatten().nonzero()[:, 0]  # about one in ten

        def chosen(of_all: Tensor) -> Tensor:
            return of_all.flatten(0, 1)[queried].to(prompts.device, non_blocking=True)

        # bfloat16 keeps 8 bits of a similarity, too few for the differences that this loss depends on.
        with torch.autocast(prompts.device.type, enabled=False):
            if output.protocl_scale is not None:
                # The [CLS] states of a BERT have most of their length in common; the rest distinguishes the counterparts.
                prompts = prompts - prompts.mean(dim=0)
            z = prototypes.of(queried.to(prompts.device, non_blocking=True))
            negatives = None if drawn is None else chosen(drawn)
            return protocl_loss(z, prompts, chosen(present), negatives, output.protocl_scale, count)

    def icl(output: MeDSLIPOutput, targets: Targets, count: Tensor) -> Tensor:
        known = targets.host >= 0
        cells = (place.to(count.device, non_blocking=True) for place in known.nonzero(as_tuple=True))
        labels = targets.host[known].to(count.device, non_blocking=True)
        return icl_loss(output.pairs.of(*cells), labels, count)

    return {
        "existence_pathology": LossTerm(
            1.0,
            lambda output, targets, count: existence_loss(output.pathology_logits, targets.pathology, count),
            lambda targets: (targets.pathology >= 0).sum(),
        ),
        "protocl_pathology": LossTerm(
            config.alpha,
            lambda output, targets, count: protocl(
                output, output.prototypes.pathology, output.prompts.anatomy, (targets.host == 1).mT, targets, count
            ),
            lambda targets: (targets.pathology == 1).sum(),
        ),
        "existence_anatomy": LossTerm(
            1.0,
            lambda output, targets, count: existence_loss(output.anatomy_logits, targets.anatomy, count),
            lambda targets: (targets.anatomy >= 0).sum(),
        ),
        "protocl_anatomy": LossTerm(
            config.alpha,
            lambda output, targets, count: protocl(
                output, output.prototypes.anatomy, output.prompts.pathology, targets.host == 1, targets, count
            ),
            lambda targets: (targets.anatomy == 1).sum(),
        ),
        "icl": LossTerm(
            config.beta,
            icl,
            lambda targets: (targets.cells >= 0).sum(),
        ),
    }


class Criterion:
    """The weighted sum of named losses.

    Args:
        terms: Name -> term.

    Attributes:
        names: Of the losses: "total", then the terms in their order.
        weights: Of the terms.
    """

    def __init__(self, terms: Mapping[str, LossTerm]) -> None:
        self._terms = list(terms.values())
        self.names = ("total", *terms)
        self.weights = [term.weight for term in self._terms]

    def counts(self, labels: Tensor) -> Tensor:
        """What each term is divided by, a float vector, for B x A x P labels; both in main memory."""
        targets = Targets.of(labels, labels.device)
        return torch.stack([term.count(targets).float() for term in self._terms])

    def __call__(
        self,
        output: MeDSLIPOutput,
        labels: Tensor,
        counts: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Compute all losses.

        Args:
            output: The model's output for the batch.
            labels: B x A x P, 1 present, 0 absent, -1 not mentioned; in main memory.
            counts: What to divide by; None takes the counts of this batch.
            generator: Draws the random negatives.

        Returns:
            A vector as long as ``names``: the weighted total, then its terms without their weights.
        """
        targets = Targets.of(labels, output.pathology_logits.device, generator)
        counts = self.counts(labels).to(targets.cells.device) if counts is None else counts
        losses = [term.loss(output, targets, count) for term, count in zip(self._terms, counts, strict=True)]
        weighted = [weight * loss for weight, loss in zip(self.weights, losses, strict=True)]
        return torch.stack([torch.stack(weighted).sum(), *losses])
