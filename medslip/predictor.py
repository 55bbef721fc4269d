"""The public API: image files in, probabilities and attention maps out."""

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
from medslip.data.loading import ImageSource, Shard, evaluation_loader
from medslip.model.device import choose_device
from medslip.model.medslip import MeDSLIPOutput
from medslip.model.trunk import PATCH
from medslip.vocabulary import PATHOLOGIES, pathology_index


@dataclass(frozen=True)
class Predictions:
    """Probabilities for n images.

    Attributes:
        pathologies: n x P, float32, "present" probability of every pathology of the vocabulary.
        free: n x F, float32, of the free-text queries.
    """

    pathologies: npt.NDArray[np.float32]
    free: npt.NDArray[np.float32]

    def columns(self, queries: Sequence[str | int]) -> npt.NDArray[np.float32]:
        """Select columns: N x C, one per query, a pathology by name or the index of a free-text query."""
        return np.stack(
            [self.free[:, q] if isinstance(q, int) else self.pathologies[:, pathology_index(q)] for q in queries],
            axis=1,
        )


class Predictor:
    """A checkpoint, ready to predict.

    Args:
        checkpoint: A model and its card.
        device: Where to compute; None takes a GPU if there is one.
        batch: Images per batch.
        workers: Processes that decode images; 0 decodes in this one.
        equalise: Whether to equalise the histogram of each image first, as the authors do for RSNA.

    Attributes:
        patch_centre: Where in a patch its features are centred; see ``model.trunk.Backbone``.

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
        self.patch_centre = self.model.image_encoder.trunk.patch_centre
        self._batch, self._workers, self._equalise = batch, workers, equalise

    @staticmethod
    def load(path: Path | str, device: str | torch.device | None = None) -> Predictor:
        """Open one of our checkpoints.

        Raises:
            InputError: The file is missing or is not a checkpoint.
        """
        return Predictor(load_checkpoint(Path(path)), device)

    def classify(
        self, images: Sequence[Path], free_text: Sequence[str] = (), text_encoder: str | None = None
    ) -> Predictions:
        """Predict every pathology of the vocabulary, and free-text queries, for each image.

        Args:
            images: Image files: PNG, JPEG, DICOM. Without any, the predictions are of 0 images.
            free_text: Further queries; they do not change the predictions of the vocabulary.
            text_encoder: Where the checkpoint's text encoder is, if not under the name that it recorded.

        Raises:
            InputError: An image cannot be read, or the text encoder cannot be found or is a different one.
        """
        pathologies = [np.empty((0, len(PATHOLOGIES)), np.float32)]
        free = [np.empty((0, len(free_text)), np.float32)]
        prompts = None
        if len(images) and free_text:
            prompts = self.checkpoint.encode_free_text(free_text, text_encoder).to(self.device)
        for _, output in self.outputs(images) if len(images) else ():
            pathologies.append(present_probability(output.pathology_logits))
            if prompts is None:
                free.append(np.empty((len(pathologies[-1]), 0), np.float32))
            else:
                with torch.inference_mode():
                    logits, _ = self.model.predict_text(output.patches.pathology, prompts)
                free.append(present_probability(logits))
        return Predictions(np.concatenate(pathologies), np.concatenate(free))

    def outputs(self, images: Sequence[Path], with_attention: bool = False) -> Iterator[tuple[Tensor, MeDSLIPOutput]]:
        """The grey images that the model sees (B x 1 x S x S, uint8) and its output, batch by batch."""
        transform = self.checkpoint.card.transform
        source = ImageSource(list(images), transform.side, equalise=self._equalise)
        loader = evaluation_loader(source, len(images), Shard(self._batch, self._workers))
        for batch in tqdm(loader, total=len(loader), desc="images", unit="batch", leave=False, disable=None):
            yield batch.images, self._run(batch.images.to(self.device), with_attention)

    def shifted_outputs(
        self, images: Sequence[Path], shifts: int
    ) -> Iterator[tuple[MeDSLIPOutput, list[MeDSLIPOutput]]]:
        """Outputs with attention for each image and for copies of it shifted by fractions of a patch, batch by batch.

        Patches are coarse; the maps of the copies fall between one another, see ``evaluation.grounding.interleave``.

        Args:
            images: Image files.
            shifts: K, copies down and across; 1, 2, 4 or 8, so that a shift is a whole number of pixels.

        Yields:
            The output for the images themselves; and K * K outputs in reading order: copy k, across or down, begins
            (k - (K - 1) / 2) / K patches further on; beyond its edge an image is extended by its last row or column.
        """
        starts = [round((k - (shifts - 1) / 2) * PATCH / shifts) for k in range(shifts)]
        for grey, plain in self.outputs(images, with_attention=True):
            if shifts == 1:
                yield plain, [plain]
                continue
            side, margin = grey.shape[-1], PATCH // 2
            padded = F.pad(grey.to(self.device, torch.float32), (margin,) * 4, mode="replicate").to(grey.dtype)
            corners = [(margin + down, margin + across) for down, across in product(starts, repeat=2)]
            yield (
                plain,
                [
                    self._run(padded[..., top : top + side, left : left + side], with_attention=True)
                    for top, left in corners
                ],
            )

    @torch.inference_mode()
    def _run(self, grey: Tensor, with_attention: bool) -> MeDSLIPOutput:
        output: MeDSLIPOutput = self.model(self.checkpoint.card.transform.normalise(grey), with_attention)
        return output


def present_probability(logits: Tensor) -> npt.NDArray[np.float32]:
    """B x Q x 2 existence logits -> B x Q probability of "present"."""
    probability: npt.NDArray[np.float32] = logits.float().softmax(dim=-1)[..., 1].cpu().numpy()
    return probability
