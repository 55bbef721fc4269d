"""The public API: images in; probabilities, heat maps and features out."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import resources
from itertools import chain, product
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple, Self, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
import torch.nn.functional as F
from huggingface_hub import ModelCard, ModelHubMixin
from PIL import Image
from torch import Tensor
from torch.fx.experimental.optimization import fuse
from tqdm import tqdm

from medslip.checkpoints import AUTHORS_SUFFIXES, Checkpoint, find_checkpoint, load_checkpoint, save_checkpoint
from medslip.checkpoints.hub import HUB_WEIGHTS
from medslip.data.images import Grey, ImageInput, name_of, read_image
from medslip.data.loading import ImageSource, Shard, evaluation_loader
from medslip.errors import InputError
from medslip.evaluation.figures import Tile, overview
from medslip.evaluation.grounding import anatomy_grids, attention_grids, interleave, predicted_boxes
from medslip.evaluation.grounding_scores import MapPair
from medslip.evaluation.sides import lean
from medslip.evaluation.tables import from_records, to_markdown
from medslip.model.device import choose_device
from medslip.model.image_encoder import Streams
from medslip.model.medslip import MeDSLIP, MeDSLIPOutput, ModelConfig
from medslip.model.text_encoder import TextEncoder
from medslip.model.trunk import PATCH, Trunk
from medslip.run_dir import read_metrics
from medslip.version import __version__
from medslip.vocabulary import ANATOMIES, FINDINGS, PATHOLOGIES, anatomy_of, pathology_index, pathology_of

Images = ImageInput | Sequence[ImageInput]
"""One image, or many: paths (PNG, JPEG, DICOM), open files, images of Pillow, or arrays; see ``data.images.read_image``."""


_DOWNLOAD = frozenset({"revision", "cache_dir", "token", "force_download", "local_files_only"})
"""What ``from_pretrained`` hands to the Hub."""


@dataclass(frozen=True)
class Grounding:
    """Where the model looks for a query in an image; a notebook shows it as a picture.

    Attributes:
        query: A pathology or an anatomy of the vocabulary, or free text.
        probability: That it is present, 0..1.
        image: H x W, uint8, the image as read, upright.
        heat_map: H x W, float64, 0..1; 1 at its maximum, whatever the probability.
        boxes: Around the connected parts of the heat map at the threshold, most confident first: ``x``, ``y``, ``width``,
            ``height`` in pixels, and ``confidence``, the share of the whole map that lies in the part.
    """

    query: str
    probability: float
    image: Grey
    heat_map: npt.NDArray[np.float64]
    boxes: pd.DataFrame

    def save(self, path: Path | str) -> None:
        """Draw the heat map and the boxes over the image, and write the picture.

        Raises:
            InputError: The file's name does not end in .png.
        """
        if Path(path).suffix.lower() != ".png":
            raise InputError(f"{path}: the picture is written as PNG; choose a name that ends in .png")
        boxes = list(self.boxes[["x", "y", "width", "height"]].itertuples(index=False, name=None))
        tile = Tile(self.image, f"{self.query}: {self.probability:.2f}", self.heat_map, boxes)
        overview(Path(path), [tile], tile_size=5)

    def _repr_png_(self) -> bytes:
        with TemporaryDirectory() as folder:
            self.save(path := Path(folder, "grounding.png"))
            return path.read_bytes()


class Sight(NamedTuple):
    """Where the model looks for a query in an image.

    Attributes:
        map: The map.
        probability: Of "present", in the unshifted image.
        sides: How much more the unshifted image speaks for the patient's left than for the right, by ICL and by the maps; see
            ``evaluation.sides.lean``. The first is NaN for free text and anatomies.
        pairs: 51 ICL logits, which anatomies the model pairs with the pathology in the unshifted image; NaN for free text and
            anatomies.
        anatomy: The anatomy stream's map, if both were asked for.
    """

    map: MapPair
    probability: float
    sides: tuple[float, float]
    pairs: npt.NDArray[np.float64]
    anatomy: MapPair | None = None


@dataclass(frozen=True)
class Embeddings:
    """Features of n images, float32.

    Attributes:
        pathology: n x N x D, the patches of the pathology stream, row by row.
        anatomy: n x N x D, those of the anatomy stream.
        pooled: n x C, the trunk's features averaged over the image.
    """

    pathology: npt.NDArray[np.float32]
    anatomy: npt.NDArray[np.float32]
    pooled: npt.NDArray[np.float32]


class Predictor(
    ModelHubMixin,
    library_name="medslip",
    tags=["chest-x-ray", "radiology", "vision-language", "zero-shot"],
    pipeline_tag="zero-shot-image-classification",
    model_card_template=resources.files("medslip.resources").joinpath("hub_card.md.jinja").read_text(encoding="utf-8"),
):
    """A checkpoint, ready to predict. ``Predictor.from_pretrained`` opens one.

    The same image gives the same result, alone or among others, to rounding. ``save_pretrained(folder)`` and
    ``push_to_hub("owner/name")`` are those of huggingface_hub: they write model.safetensors, config.json and a model card
    (``model_card_kwargs={"runs": [...]}`` adds the scores of evaluation runs to it).

    Args:
        checkpoint: A model and its card.
        device: Where to compute; None takes a GPU if there is one.
        batch: Images per batch.
        workers: Processes that decode images; 0 decodes in this one.
        equalise: Whether to equalise the histogram of each image first, as the authors do for RSNA.
        text_encoder: Where the checkpoint's text encoder is, for free text, if not under its recorded name.
        fast: Whether to fold batch norm into the convolutions and compute in channels_last, which saves a sixth of the time on
            a CPU and changes probabilities and maps by rounding, up to 1e-5.

    Attributes:
        checkpoint: As given; ``checkpoint.card`` describes the model; its ``trained_on`` names the data.
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
        text_encoder: str | None = None,
        fast: bool = False,
    ) -> None:
        self.device = choose_device(str(device or "auto"))
        self.checkpoint = checkpoint
        self.patch_centre = checkpoint.model.image_encoder.trunk.patch_centre
        self.model = (folded(checkpoint.model) if fast else checkpoint.model).to(self.device).eval()
        self._batch, self._workers, self._equalise, self._text_encoder = batch, workers, equalise, text_encoder
        self._runs: list[Path] = []

    def __repr__(self) -> str:
        card = self.checkpoint.card
        about = f"{card.model.trunk}, {card.transform.side} px, trained on: {card.trained_on}, device: {self.device}"
        return f"Predictor({about})"

    @classmethod
    def from_pretrained(cls, name: Path | str, **options: Any) -> Self:  # type: ignore[override]
        """Open a checkpoint.

        Args:
            name: A run directory of pre-training, a checkpoint file, or a repository on the Hugging Face Hub
                ("owner/name"); with HF_HUB_OFFLINE=1 the repository is read from the cache.
            options: Those of ``Predictor``; for the Hub also ``revision`` (a branch, tag or commit), ``cache_dir``, ``token``,
                ``force_download`` and ``local_files_only``.

        Raises:
            InputError: There is no such checkpoint, it is damaged, or it is the authors' .pth, which lacks its prompts.
        """
        if Path(name).suffix in AUTHORS_SUFFIXES:
            raise InputError(
                f"{name}: the authors' weights need the prompts and the text encoder that they were trained with; convert them "
                "once with scripts/convert_authors_release.py, or use medslip.checkpoints.load_authors"
            )
        download = {key: options.pop(key) for key in _DOWNLOAD & options.keys()}
        predictor = cls(load_checkpoint(find_checkpoint(name, **download)), **options)
        predictor._runs = [Path(name)] if Path(name, "metrics.json").is_file() else []
        return predictor

    def _save_pretrained(self, save_directory: Path) -> None:
        card = self.checkpoint.card
        save_checkpoint(save_directory / HUB_WEIGHTS, self.model, card, save_directory / "config.json")

    def generate_model_card(self, *args: Any, runs: Sequence[Path | str] = (), **kwargs: Any) -> ModelCard:
        """The model card: what the model was trained on, its validation scores, and the scores of evaluation runs.

        Args:
            args: Those of huggingface_hub.
            runs: Run directories of evaluations.
            kwargs: Those of huggingface_hub.

        Raises:
            InputError: A run has no metrics.json.
        """
        results = [_results(Path(run)) for run in (*self._runs, *runs)]
        card = self.checkpoint.card
        return super().generate_model_card(*args, card=card, version=__version__, results=results, **kwargs)

    def classify(
        self,
        images: Images,
        findings: str | Sequence[str] | None = None,
        text: str | Sequence[str | Sequence[str]] = (),
    ) -> pd.DataFrame:
        """Predict the probability of findings and of free-text queries.

        Args:
            images: One image or many. Without any, the table has no rows.
            findings: Pathologies of the vocabulary, or classes of public data sets that stand for one ("Pleural Effusion");
                None takes all that are findings.
            text: Further queries, such as "rib fracture: a break in the line of a rib"; none changes another prediction. A list
                of several wordings is one query, by their mean embedding.

        Returns:
            A row per image and a column per finding, then per text (named by its first wording): the probability that it is
            present, float32. The index is the image's path, or for an object without a file its position.

        Raises:
            InputError: An image cannot be read, a finding is not in the vocabulary, or the text encoder cannot be found or is
                a different one.
        """
        images = listed(images)
        asked = [text] if isinstance(text, str) else text
        queries = [_texts(each if isinstance(each, list | tuple) else [cast(str, each)]) for each in asked]
        if not all(queries):
            raise InputError("queries: a list of wordings is empty")
        findings = FINDINGS if findings is None else _texts(findings)
        columns = [_pathology_index(name) for name in findings]
        found = [np.empty((0, len(PATHOLOGIES) + len(queries)), np.float32)]
        prompts = self._prompts(queries) if len(images) else None
        for grey in self._batches(images):
            found.append(present_probability(self._predict(grey, prompts)))
        probabilities = np.concatenate(found)[:, [*columns, *range(len(PATHOLOGIES), found[0].shape[1])]]
        names = [str(k) if (name := name_of(image)) == type(image).__name__ else name for k, image in enumerate(images)]
        return pd.DataFrame(
            probabilities, pd.Index(names, name="image"), [*findings, *(first for first, *_ in queries)]
        )

    def ground(
        self,
        image: ImageInput,
        query: str,
        threshold: float = 0.5,
        *,
        layers: Sequence[int] = (),
        heads: Sequence[int] = (),
        shifts: int = 2,
        anatomy: bool | Literal["only"] = False,
    ) -> Grounding:
        """Show where the model looks for a finding, or for an anatomy.

        Args:
            image: One image.
            query: A pathology or an anatomy of the vocabulary, a class that stands for one, or else free text.
            threshold: Of the heat map, 0..1, for the boxes; ``scripts/ground.py`` chooses it on labelled images.
            layers: As for ``maps``.
            heads: As for ``maps``.
            shifts: As for ``maps``.
            anatomy: As for ``maps``.

        Raises:
            InputError: The image cannot be read, the text encoder cannot be found or is a different one, or a number is out
                of range.
        """
        if not 0 <= threshold <= 1:
            raise InputError(f"threshold: {threshold} is outside 0..1")
        (query,) = _texts(query)
        known = pathology_of(query) or anatomy_of(query) or query
        options = {"layers": layers, "heads": heads, "shifts": shifts, "anatomy": anatomy}
        grey = read_image(image)
        (seen,) = next(self.maps([grey], [known], **options))  # type: ignore[arg-type]
        heat = seen.map.heat_map(*grey.shape)
        boxes, confidence = predicted_boxes(heat, threshold)
        table = pd.DataFrame(boxes, columns=["x", "y", "width", "height"]).assign(confidence=confidence)
        table = table.sort_values("confidence", ascending=False, kind="stable", ignore_index=True)
        return Grounding(query, seen.probability, grey, heat, table)

    @torch.inference_mode()
    def embed(self, images: Images) -> Embeddings:
        """The features of images, for models on top of them.

        Raises:
            InputError: An image cannot be read.
        """
        encoder = self.model.image_encoder
        parts = []
        for grey in self._batches(listed(images)):
            features = encoder.trunk(self._normalise(grey))
            parts.append([part.float().cpu().numpy() for part in (*encoder.split(features), features.mean(dim=(2, 3)))])
        if not parts:
            raise InputError("embed: no images were given")
        return Embeddings(*map(np.concatenate, zip(*parts, strict=True)))

    def maps(
        self,
        images: Sequence[ImageInput],
        queries: Sequence[str] | Sequence[Sequence[str]],
        *,
        layers: Sequence[int] = (),
        heads: Sequence[int] = (),
        shifts: int = 1,
        anatomy: bool | Literal["only", "both"] = False,
    ) -> Iterator[list[Sight]]:
        """Where the model looks for several queries, image by image: for each image one Sight per query.

        Args:
            images: Files or images.
            queries: Pathologies and anatomies of the vocabulary, each of which queries its own stream; any other text queries
                the pathology stream. Or such a list for each image.
            layers: Decoder layers whose attention is averaged, from 0; empty for all.
            heads: Attention heads of these layers, from 0; empty for all.
            shifts: K: average the maps of K x K copies of each image, shifted by fractions of a patch; 1, 2, 4 or 8.
            anatomy: Whether to multiply by the anatomy stream's map: its attention, weighted by the anatomies that the model
                pairs with the pathology in this image; "only" gives that map by itself, "both" beside the pathology stream's.
                For pathologies only.

        Raises:
            InputError: An image cannot be read; layers, heads or shifts are out of range; or anatomy is set for other queries.
        """
        if shifts not in (1, 2, 4, 8):
            raise InputError(f"shifts: {shifts} is not 1, 2, 4 or 8")
        check_attention(self.checkpoint.card.model, layers, heads)
        of_images = [[each] if isinstance(each, str) else list(each) for each in queries]
        if all(isinstance(each, str) for each in queries):
            of_images = [list(chain.from_iterable(of_images))] * len(images)
        if anatomy and not set(chain.from_iterable(of_images)) <= set(PATHOLOGIES):
            raise InputError(
                "anatomy: the model pairs anatomies with pathologies of the vocabulary only, not with free text or anatomies"
            )
        text: list[str] = []
        prompts = None
        start = 0
        for grey in self._batches(images):
            of_batch = of_images[start : start + len(grey)]
            start += len(grey)
            chosen = list(dict.fromkeys(chain.from_iterable(of_batch)))
            if (free := [query for query in chosen if query not in PATHOLOGIES and query not in ANATOMIES]) != text:
                text, prompts = free, self._prompts([[query] for query in free])
            names = (*PATHOLOGIES, *text, *ANATOMIES)
            columns = [names.index(query) for query in chosen]
            plain, copies = self._shifted(grey, shifts, prompts)
            for of_image, sights in zip(
                of_batch, self._sights(plain, copies, columns, layers, heads, anatomy), strict=True
            ):
                yield [sights[chosen.index(query)] for query in of_image]

    def _sights(
        self,
        plain: MeDSLIPOutput,
        copies: Sequence[MeDSLIPOutput],
        columns: Sequence[int],
        layers: Sequence[int],
        heads: Sequence[int],
        anatomy: bool | Literal["only", "both"],
    ) -> Iterator[list[Sight]]:
        """Of each image of a batch, a Sight per column: the pathologies, free texts and anatomies that were queried."""

        def attended(maps: Tensor) -> npt.NDArray[np.float64]:
            """B x Q x g x g."""
            return np.asarray(attention_grids(maps.double().cpu().numpy(), layers, heads), np.float64)

        def found(output: MeDSLIPOutput) -> npt.NDArray[np.float64]:
            """The maps of these queries, each in its own stream."""
            return attended(torch.cat(list(cast("Streams[Tensor]", output.maps)), dim=-2)[..., columns, :])

        def anatomies(output: MeDSLIPOutput) -> npt.NDArray[np.float64]:
            return attended(cast(Tensor, output.maps.anatomy))

        def pairs(output: MeDSLIPOutput) -> npt.NDArray[np.float64]:
            """ICL logits, B x A x Q; NaN for free text and anatomies."""
            others = output.pathology_logits.shape[1] + len(ANATOMIES) - len(PATHOLOGIES)
            logits = F.pad(output.icl_logits.double().cpu(), (0, others), value=math.nan)
            return np.asarray(logits.numpy()[..., columns], np.float64)

        def grids(output: MeDSLIPOutput) -> npt.NDArray[np.float64]:
            """B x Q x g x g; of both streams, B x 2 Q x g x g."""
            if not anatomy:
                return found(output)
            paired = np.asarray(anatomy_grids(anatomies(output), pairs(output)), np.float64)
            if anatomy == "both":
                return np.concatenate([found(output), paired], axis=1)
            return paired if anatomy == "only" else found(output) * paired

        coarse = grids(plain)
        fine, centre = interleave(
            [coarse if output is plain else grids(output) for output in copies], self.patch_centre
        )
        logits = torch.cat([plain.pathology_logits, plain.anatomy_logits], dim=1)
        probabilities = present_probability(logits[:, columns]).tolist()
        paired = pairs(plain)
        sides = lean(paired, found(plain), anatomies(plain)).tolist()
        for of_image in zip(fine, coarse, probabilities, sides, paired.transpose(0, 2, 1), strict=True):
            maps = [MapPair(grid, patch, centre) for grid, patch in zip(*of_image[:2], strict=True)]
            beside = maps[len(columns) :] if anatomy == "both" else [None] * len(columns)
            yield [Sight(*each) for each in zip(maps[: len(columns)], *of_image[2:], beside, strict=True)]

    def outputs(
        self, images: Sequence[ImageInput], with_attention: bool = False, text: Sequence[str] = ()
    ) -> Iterator[tuple[Tensor, MeDSLIPOutput]]:
        """The grey images that the model sees (B x 1 x S x S, uint8) and its output, batch by batch.

        With free-text queries, ``pathology_logits`` and ``maps.pathology`` hold theirs after those of the vocabulary.
        """
        prompts = self._prompts([[query] for query in text])
        for grey in self._batches(images):
            yield grey, self._run(grey, with_attention, prompts)

    def _shifted(
        self, grey: Tensor, shifts: int, prompts: Tensor | None
    ) -> tuple[MeDSLIPOutput, Sequence[MeDSLIPOutput]]:
        """Outputs with attention for images and for K x K copies of them, in reading order.

        Patches are coarse; the maps of the copies fall between one another, see ``evaluation.grounding.interleave``. Copy k,
        across or down, begins (k - (K - 1) / 2) / K patches further on; beyond its edge an image is extended by its last row
        or column.
        """
        plain = self._run(grey, True, prompts)
        if shifts == 1:
            return plain, [plain]
        starts = [round((k - (shifts - 1) / 2) * PATCH / shifts) for k in range(shifts)]
        side, margin = grey.shape[-1], PATCH // 2
        padded = F.pad(grey.float(), (margin,) * 4, mode="replicate").to(grey.dtype)
        corners = [(margin + down, margin + across) for down, across in product(starts, repeat=2)]
        return plain, [
            self._run(padded[..., top : top + side, left : left + side], True, prompts) for top, left in corners
        ]

    def _batches(self, images: Sequence[ImageInput]) -> Iterator[Tensor]:
        source = ImageSource(images, self.checkpoint.card.transform.side, equalise=self._equalise)
        loader = evaluation_loader(
            source, len(images), Shard(self._batch, self._workers, pin_memory=self.device.type == "cuda")
        )
        for batch in tqdm(loader, total=len(loader), desc="images", unit="batch", leave=False, disable=None):
            yield batch.images

    def _normalise(self, grey: Tensor) -> Tensor:
        return self.checkpoint.card.transform.normalise(grey.to(self.device, non_blocking=True))

    @torch.inference_mode()
    def _predict(self, grey: Tensor, prompts: Tensor | None) -> Tensor:
        return self.model.predict(self._normalise(grey), prompts)

    @torch.inference_mode()
    def _run(self, grey: Tensor, with_attention: bool, prompts: Tensor | None) -> MeDSLIPOutput:
        output: MeDSLIPOutput = self.model(self._normalise(grey), with_attention)
        if prompts is None:
            return output
        logits, maps = self.model.predict_text(output.patches.pathology, prompts, with_attention)
        if maps is not None:
            maps = torch.cat([cast(Tensor, output.maps.pathology), maps], dim=-2)
        logits = torch.cat([output.pathology_logits, logits], dim=1)
        return replace(output, pathology_logits=logits, maps=Streams(maps, output.maps.anatomy))

    @cached_property
    def _encoder(self) -> TextEncoder:
        return self.checkpoint.text_encoder(self._text_encoder)

    def _prompts(self, queries: Sequence[list[str]]) -> Tensor | None:
        """F x T embeddings of free-text queries, each the mean over its wordings; None without any."""
        if not queries:
            return None
        embedded = self._encoder.encode(list(chain.from_iterable(queries))).split([len(query) for query in queries])
        return torch.stack([of_query.mean(dim=0) for of_query in embedded]).to(self.device)


def folded(model: MeDSLIP) -> MeDSLIP:
    """A copy with batch norm folded into the convolutions, in float64, and in channels_last."""
    model = deepcopy(model).cpu().eval()
    model.image_encoder.trunk = cast(Trunk, fuse(model.image_encoder.trunk.double()).float())
    return model.to(memory_format=torch.channels_last)


def check_attention(model: ModelConfig, layers: Sequence[int], heads: Sequence[int]) -> None:
    """Check that a model has these decoder layers and attention heads, or raise InputError."""
    for name, chosen, number in (("layers", layers, model.decoder_layers), ("heads", heads, model.decoder_heads)):
        if wrong := [value for value in chosen if not 0 <= value < number]:
            raise InputError(f"{name}: the checkpoint has 0 to {number - 1}, not {wrong[0]}")


def listed(images: Images) -> Sequence[ImageInput]:
    """One image as a list of one; a list unchanged."""
    one = isinstance(images, str | PathLike | Image.Image | np.ndarray) or hasattr(images, "read")
    if not (one or isinstance(images, Iterable)):
        raise InputError(f"images: {images!r} is neither an image nor a list of images")
    return [cast(ImageInput, images)] if one else list(cast("Iterable[ImageInput]", images))


def _results(run: Path) -> dict[str, str]:
    """The scores of a run for the model card."""
    metrics = read_metrics(run)
    data = metrics.get("data", {})
    name = data.get("name") or data.get("part", "")
    counts = [f"{data[key]:,} {key}" for key in ("images", "patients", "findings") if key in data]
    table = to_markdown(from_records(metrics["scores"])) if metrics.get("scores") else ""
    return {"title": f"{metrics['task'].capitalize()}: {name}", "data": ", ".join(counts), "table": table}


def _texts(texts: str | Sequence[str]) -> list[str]:
    """One text as a list of one; none may be blank."""
    texts = [texts] if isinstance(texts, str) else list(texts)
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise InputError(f"queries: {texts} holds a blank text, or something else than a text")
    return texts


def _pathology_index(name: str) -> int:
    pathology = pathology_of(name)
    if pathology is None:
        close = difflib.get_close_matches(name.lower(), PATHOLOGIES, n=1)
        hint = f"did you mean {close[0]}?" if close else "query it as text"
        raise InputError(f"findings: {name!r} is not in the vocabulary; {hint}")
    return pathology_index(pathology)


def present_probability(logits: Tensor) -> npt.NDArray[np.float32]:
    """B x Q x 2 existence logits -> B x Q probability of "present"."""
    probability: npt.NDArray[np.float32] = logits.float().softmax(dim=-1)[..., 1].cpu().numpy()
    return probability
