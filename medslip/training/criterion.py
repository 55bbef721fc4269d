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
from medslip.model.medslip import MeDSLIPOutput


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
        generator: Source of randomness for losses that draw, on the CPU; None for torch's own.
    """

    cells: Tensor
    pathology: Tensor
    anatomy: Tensor
    generator: torch.Generator | None = None

    @staticmethod
    def of(cells: Tensor, generator: torch.Generator | None = None) -> Targets:
        """Targets from B x A x P labels."""
        return Targets(cells, *existence_of(cells), generator)


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
        output: MeDSLIPOutput, prototypes: Tensor, prompts: Tensor, present: Tensor, targets: Targets, count: Tensor
    ) -> Tensor:
        drawn = None if config.negatives == "all" else draw_negatives(present, config.negatives, targets.generator)
        # bfloat16 keeps 8 bits of a similarity, too few for the differences that this loss depends on.
        with torch.autocast(present.device.type, enabled=False):
            if output.protocl_scale is not None:
                # The [CLS] states of a BERT have most of their length in common; the rest distinguishes the counterparts.
                prompts = prompts - prompts.mean(dim=0)
            return protocl_loss(prototypes, prompts, present, drawn, output.protocl_scale, count)

    return {
        "existence_pathology": LossTerm(
            1.0,
            lambda output, targets, count: existence_loss(output.pathology_logits, targets.pathology, count),
            lambda targets: (targets.pathology >= 0).sum(),
        ),
        "protocl_pathology": LossTerm(
            config.alpha,
            lambda output, targets, count: protocl(
                output, output.pathology_prototypes, output.prompts.anatomy, (targets.cells == 1).mT, targets, count
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
                output, output.anatomy_prototypes, output.prompts.pathology, targets.cells == 1, targets, count
            ),
            lambda targets: (targets.anatomy == 1).sum(),
        ),
        "icl": LossTerm(
            config.beta,
            lambda output, targets, count: icl_loss(output.icl_logits, targets.cells, count),
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
        """What each term is divided by, a float vector, for B x A x P labels."""
        targets = Targets.of(labels)
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
            labels: B x A x P, 1 present, 0 absent, -1 not mentioned.
            counts: What to divide by; None takes the counts of this batch.
            generator: Draws the random negatives.

        Returns:
            A vector as long as ``names``: the weighted total, then its terms without their weights.
        """
        targets, counts = Targets.of(labels, generator), self.counts(labels) if counts is None else counts
        losses = torch.stack(
            [term.loss(output, targets, count) for term, count in zip(self._terms, counts, strict=True)]
        )
        total = (losses.new_tensor(self.weights) * losses).sum(dim=0, keepdim=True)
        return torch.cat([total, losses])
