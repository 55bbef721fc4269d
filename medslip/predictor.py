"""The model at work: image files in, probabilities and attention maps out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from medslip.checkpoints import Checkpoint, load_checkpoint
from medslip.data.loading import Batch, evaluation_loader
from medslip.model.device import choose_device
from medslip.model.image_encoder import PATCH
from medslip.model.medslip import MeDSLIPOutput
from medslip.vocabulary import PATHOLOGIES, pathology_index


@dataclass(frozen=True)
class Answers:
    """What the model says of n images.

    Attributes:
        pathologies: n x P, float32, "present" probability of every pathology of the vocabulary.
        free: n x F, float32, of the free-text queries.
    """

    pathologies: npt.NDArray[np.float32]
    free: npt.NDArray[np.float32]

    def columns(self, queries: Sequence[str | int]) -> npt.NDArray[np.float32]:
        """N x C: for each query, a pathology by name or the index of a free-text query."""
        return np.stack(
            [self.free[:, q] if isinstance(q, int) else self.pathologies[:, pathology_index(q)] for q in queries],
            axis=1,
        )


class Predictor:
    """A checkpoint, ready to answer.

    Args:
        checkpoint: A model and its card.
        device: Where to compute; None takes a GPU where there is one.
        batch: Images at a time.
        workers: Processes that decode images; 0 decodes in this one.
        equalise: Whether to spread the grey values of each image first, as published for RSNA.

    Raises:
        InputError: There is no such device.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: str | torch.device | None = None,
        batch: int = 64,
        workers: int = 0,
        equalise: bool = False,
    ) -> None:
        self.device = choose_device(str(device or "auto"))
        self.checkpoint = checkpoint
        self.model = checkpoint.model.to(self.device).eval()
        self._batch, self._workers, self._equalise = batch, workers, equalise

    @staticmethod
    def load(path: Path | str, device: str | torch.device | None = None) -> Predictor:
        """Open a checkpoint of ours.

        Raises:
            InputError: The file is missing or is no checkpoint.
        """
        return Predictor(load_checkpoint(Path(path)), device)

    def classify(
        self, images: Sequence[Path], free_text: Sequence[str] = (), text_encoder: str | None = None
    ) -> Answers:
        """Ask of every image every pathology of the vocabulary, and free-text queries beside them.

        Args:
            images: Image files: PNG, JPEG, DICOM; without any, the answers are of 0 images.
            free_text: More queries; they change no answer of the vocabulary's.
            text_encoder: Where the checkpoint's text encoder is, if not under the name that it recorded.

        Raises:
            InputError: An image cannot be read, or the text encoder is not to be had or another.
        """
        if not len(images):
            return Answers(np.empty((0, len(PATHOLOGIES)), np.float32), np.empty((0, len(free_text)), np.float32))
        free = self.checkpoint.encode_free_text(free_text, text_encoder) if free_text else None
        pathologies, asked = [], []
        for _, output in self.outputs(images, free):
            pathologies.append(present_probability(output.pathology_logits))
            if output.free_logits is not None:
                asked.append(present_probability(output.free_logits))
        empty = np.empty((len(images), 0), np.float32)
        return Answers(np.concatenate(pathologies), np.concatenate(asked) if asked else empty)

    def shifted_outputs(
        self, images: Sequence[Path], shifts: int
    ) -> Iterator[tuple[MeDSLIPOutput, list[MeDSLIPOutput]]]:
        """The model's output with attention, batch by batch, of each image and of copies that are shifted by parts of a patch.

        Patches are coarse; the maps of the copies lie between one another, see ``evaluation.grounding.interleave``.

        Args:
            images: Image files.
            shifts: K, copies down and across; 1, 2, 4 or 8, so that a shift is a whole number of pixels.

        Yields:
            The output of the images as they are; and K * K outputs in reading order: copy k, across or down, begins
            (k - (K - 1) / 2) / K patches further on; beyond its edge an image goes on as it ends.
        """
        transform = self.checkpoint.card.transform
        starts = [round((k - (shifts - 1) / 2) * PATCH / shifts) for k in range(shifts)]
        for grey, plain in self.outputs(images, with_attention=True):
            if shifts == 1:
                yield plain, [plain]
                continue
            side = grey.shape[-1]
            roomy = F.pad(grey.to(self.device, torch.float32), (PATCH // 2,) * 4, mode="replicate")
            outputs = []
            for down, across in product(starts, repeat=2):
                top, left = PATCH // 2 + down, PATCH // 2 + across
                shifted = roomy[..., top : top + side, left : left + side].to(grey.dtype)
                with torch.inference_mode():
                    outputs.append(self.model(transform.normalise(shifted), with_attention=True))
            yield plain, outputs

    def outputs(
        self, images: Sequence[Path], free_prompts: Tensor | None = None, with_attention: bool = False
    ) -> Iterator[tuple[Tensor, MeDSLIPOutput]]:
        """The model's output, batch by batch, with the grey images that it saw (B x 1 x S x S, uint8)."""
        transform = self.checkpoint.card.transform
        free = None if free_prompts is None else free_prompts.to(self.device)
        for batch in self._batches(images):
            with torch.inference_mode():
                yield batch.images, self.model(transform.normalise(batch.images.to(self.device)), free, with_attention)

    def _batches(self, images: Sequence[Path]) -> Iterator[Batch]:
        transform = self.checkpoint.card.transform
        loader = evaluation_loader(list(images), transform, self._batch, self._workers, equalise=self._equalise)
        yield from tqdm(loader, total=len(loader), desc="images", unit="batch", leave=False, disable=None)


def present_probability(logits: Tensor) -> npt.NDArray[np.float32]:
    """B x Q x 2 existence logits -> B x Q probability of "present"."""
    probability: npt.NDArray[np.float32] = logits.float().softmax(dim=-1)[..., 1].cpu().numpy()
    return probability
