"""The pre-training objective: the model, its losses, how they are weighted and what they are divided by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from medslip.errors import InputError
from medslip.losses import (
    LossCounts,
    draw_negatives,
    existence_loss,
    existence_of,
    icl_loss,
    loss_counts,
    protocl_loss,
)
from medslip.model.medslip import MeDSLIP, MeDSLIPOutput

LOSS_NAMES = (
    "total", "existence_pathology", "protocl_pathology", "existence_anatomy", "protocl_anatomy", "icl",
)  # fmt: skip
"""What PretrainingObjective returns, in order."""


@dataclass(frozen=True)
class LossConfig:
    """Weights and form of the pre-training losses.

    Attributes:
        alpha: Weight of ProtoCL.
        beta: Weight of ICL.
        negatives: Contrastive negatives of a query: "all" its counterparts that are not present, or a number drawn at
            random without replacement (published: 7).
    """

    alpha: float = 1.0
    beta: float = 1.0
    negatives: int | Literal["all"] = "all"

    @property
    def weights(self) -> tuple[float, float, float, float, float]:
        """Of the parts in the total, in the order of LOSS_NAMES."""
        return (1.0, self.alpha, 1.0, self.alpha, self.beta)

    def __post_init__(self) -> None:
        if self.negatives != "all" and self.negatives < 1:
            raise InputError(f"loss.negatives: {self.negatives} is less than 1; without ProtoCL, set loss.alpha to 0")


def medslip_loss(
    model: MeDSLIP,
    output: MeDSLIPOutput,
    labels: Tensor,
    config: LossConfig,
    generator: torch.Generator | None = None,
    counts: LossCounts | None = None,
) -> Tensor:
    """existence(both) + alpha ProtoCL(both) + beta ICL, and its parts.

    Args:
        model: For the prompts' embeddings and the learnt temperature.
        output: The model's answer to the batch.
        labels: B x A x P, 1 present, 0 absent, -1 not mentioned.
        config: Weights and form.
        generator: Draws the random negatives.
        counts: What to divide by; None counts here.

    Returns:
        Six losses, in the order of LOSS_NAMES: the weighted total, then its parts without their weights.
    """
    counts = counts or loss_counts(labels)
    pathology, anatomy = existence_of(labels)
    present = labels == 1  # B x A x P

    def protocl(prototypes: Tensor, counterparts: Tensor, present: Tensor, count: Tensor) -> Tensor:
        drawn = None if config.negatives == "all" else draw_negatives(present, config.negatives, generator)
        # bfloat16 keeps 8 bits of a similarity: too few for the differences that this loss turns on.
        with torch.autocast(labels.device.type, enabled=False):
            if model.similarity == "cosine":
                # A BERT's [CLS] states share most of their length; what is left tells one counterpart from another.
                counterparts = counterparts - counterparts.mean(dim=0)
            return protocl_loss(prototypes, counterparts, present, drawn, model.protocl_scale, count)

    parts = (
        existence_loss(output.pathology_logits, pathology, counts.existence_pathology),
        protocl(output.pathology_prototypes, model.anatomy_prompts, present.transpose(1, 2), counts.protocl_pathology),
        existence_loss(output.anatomy_logits, anatomy, counts.existence_anatomy),
        protocl(output.anatomy_prototypes, model.pathology_prompts, present, counts.protocl_anatomy),
        icl_loss(output.icl_logits, labels, counts.icl),
    )
    losses = torch.stack(parts)
    total = (losses.new_tensor(config.weights) * losses).sum(dim=0, keepdim=True)
    return torch.cat([total, losses])


class LabelledBatch(Protocol):
    """Images and their label matrices."""

    @property
    def images(self) -> Tensor:
        """B x 1 x S x S, uint8."""

    @property
    def labels(self) -> Tensor | None:
        """B x A x P, int8, 1, 0 or -1."""


class Normalise(Protocol):
    """B x 1 x S x S uint8 -> B x 3 x S x S float."""

    def __call__(self, images: Tensor, /) -> Tensor:
        """Normalise on the images' device."""


class PretrainingObjective(nn.Module):
    """Model and losses as one module, so that gradients are averaged over processes as one.

    Args:
        model: What is trained.
        normalise: Turns grey uint8 images into the model's input.
        config: Weights and form of the losses.
        channels_last: Memory format of the input.
    """

    def __init__(self, model: MeDSLIP, normalise: Normalise, config: LossConfig, channels_last: bool = True) -> None:
        super().__init__()
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.model = model.to(memory_format=self.memory_format)
        self.normalise = normalise
        self.config = config

    def counts(self, batch: LabelledBatch) -> Tensor:
        """The five counts of known cells."""
        return loss_counts(_labels(batch)).stack()

    def answer(self, images: Tensor) -> MeDSLIPOutput:
        """The model's answer to B x 1 x S x S uint8 images."""
        return self.model(self.normalise(images).contiguous(memory_format=self.memory_format))

    def forward(self, batch: LabelledBatch, counts: Tensor, generator: torch.Generator) -> Tensor:
        """Six losses, in the order of LOSS_NAMES, each over the given counts."""
        output = self.answer(batch.images)
        return medslip_loss(self.model, output, _labels(batch), self.config, generator, LossCounts.unstack(counts))


def _labels(batch: LabelledBatch) -> Tensor:
    assert batch.labels is not None, "a batch without labels cannot be trained on"
    return batch.labels
