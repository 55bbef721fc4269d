"""Fine-tuned models: the best.safetensors of finetune_seg and finetune_cls, with its own description."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medslip.data.preprocessing import Preprocessing
from medslip.errors import InputError, one_line
from medslip.files import to_json
from medslip.model.classifier import Classifier, LinearProbe
from medslip.model.segmenter import Segmenter
from medslip.model.trunk import FourthStage, Trunk
from medslip.model.weights import load_strictly, read_tensors, write_tensors
from medslip.version import __version__

_FORMAT, _VERSION = "medslip-finetuned", 2


@dataclass(frozen=True)
class FineTuned:
    """A segmenter or classifier, in eval mode, with what is needed to use it.

    Attributes:
        model: Normalised images, B x 3 x S x S -> logits: B x C, or B x 1 x S x S for a segmenter.
        task: "segmentation" or "fine-tuned classification".
        classes: C names; for a segmenter its one finding.
        transform: How an image is prepared for the model.
        equalise: Whether its grey values are equalised before that; see ``data.equalise``.
        threshold: Of a segmenter's probabilities, chosen on validation; None for a classifier.
        card: The whole description in the file.
    """

    model: nn.Module
    task: str
    classes: tuple[str, ...]
    transform: Preprocessing
    equalise: bool
    threshold: float | None
    card: dict[str, Any]

    @torch.inference_mode()
    def probabilities(self, images: Tensor) -> Tensor:
        """B x 1 x S x S, uint8, as from ``transform`` -> B x C, or B x 1 x S x S for a segmenter."""
        logits: Tensor = self.model(self.transform.normalise(images))
        return logits.float().sigmoid()


def save_finetuned(path: Path, model: nn.Module, card: Mapping[str, Any]) -> None:
    """Write weights and description of a fine-tuned model.

    Args:
        path: The .safetensors file.
        model: A Segmenter, Classifier or LinearProbe.
        card: ``task``, ``init`` with its ``trunk``, ``transform``; for a segmenter ``finding``, ``bridge`` and ``validation``,
            for a classifier ``classes`` and ``linear_probe``; anything else worth keeping.
    """
    about = {"format": _FORMAT, "version": _VERSION, "medslip": __version__, **card}
    write_tensors(path, model.state_dict(), {"card": to_json(about)})


def load_finetuned(path: Path | str) -> FineTuned:
    """Read a fine-tuned model.

    Raises:
        InputError: The file is missing, damaged, not a fine-tuned model, or its weights do not fit its description.
    """
    tensors, metadata = read_tensors(Path(path))
    try:
        card = json.loads(metadata.get("card", "{}"))
        if card.get("format") != _FORMAT or card.get("version") not in range(1, _VERSION + 1):
            raise InputError(
                f"{path}: not a fine-tuned model; give the best.safetensors of finetune_seg or finetune_cls"
            )
        init = card.get("init", card.get("start"))  # version 1 called it "start"
        name, threshold, model = init["trunk"], None, nn.Module()
        trunk, transform = Trunk(name), Preprocessing.from_dict(card["transform"])
        if card["task"] == "segmentation":
            classes, threshold = (card["finding"],), card["validation"]["validation_threshold"]
            model = Segmenter(trunk, card["bridge"])
        else:
            classes = tuple(card["classes"])
            model = (
                LinearProbe(trunk, len(classes))
                if card["linear_probe"]
                else Classifier(trunk, FourthStage(name), len(classes))
            )
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise InputError(f"{path}: the model's description cannot be read ({one_line(error)})") from None
    load_strictly(model, tensors, str(path))
    equalise = bool(card.get("equalise", False))
    return FineTuned(model.eval(), card["task"], classes, transform, equalise, threshold, card)
