"""Fine-tuning: a pre-trained backbone and labelled images -> a classifier or segmenter, scored on its test images once.

``run`` is the same for both tasks: initialise the backbone, choose each seed's subsample of the training labels, train, keep
the best validation epoch, score the test images, and summarise over seeds. ``_Segmentation`` and ``_Classification`` define the
targets, the model, the loss, the scores and the figures.
"""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor, nn

from medslip.checkpoints import (
    Checkpoint,
    load_authors,
    load_checkpoint,
    save_finetuned,
)
from medslip.config import config_to_dict
from medslip.data.checks import refuse_shared, refuse_without_scores
from medslip.data.finetune_loading import (
    Augment,
    Indices,
    LabelAugment,
    LabelSource,
    MaskSource,
    Shard,
    Source,
    evaluation_loader,
    preload,
    training_loader,
)
from medslip.data.images import read_headers
from medslip.data.joint_transforms import JointAugmentationConfig, JointTransform
from medslip.data.labelled import LabelledImages
from medslip.data.masked import MaskedImages, read_phantom_masks
from medslip.data.siim_acr import read_masks
from medslip.data.splits import SPLITS, split_of
from medslip.data.subsample import check_fraction, choose_subsample
from medslip.data.transforms import AugmentationConfig, EvaluationTransform, TrainingTransform, roomy
from medslip.errors import InputError
from medslip.evaluation.bootstrap import count_patients, patient_index
from medslip.evaluation.classification import MEAN, class_rows, mean_auroc, score
from medslip.evaluation.classifier import Predictions, draw, evaluate, metadata_columns, prediction_table
from medslip.evaluation.figures import Tile, finetuning_curves, overview
from medslip.evaluation.segmentation import (
    Criterion,
    PixelCounts,
    best_threshold,
    count_pixels,
    image_scores,
    score_columns,
    score_segmentation,
)
from medslip.evaluation.subgroups import MeansInGroup, by_group
from medslip.evaluation.tables import from_records, show_tables, to_text, write_csv
from medslip.files import write_text
from medslip.labels import PRESENT
from medslip.model.classifier import Classifier, LinearProbe
from medslip.model.segmenter import BRIDGE, Segmenter
from medslip.model.trunk import FourthStage, Trunk, TrunkName
from medslip.model.weights import load_strictly, read_tensors
from medslip.run_dir import (
    agreed_folder,
    begin,
    bootstrap_settings,
    check_at_least,
    check_same_config,
    finish,
    read_metrics,
    removed_on_bad_input,
    write_metrics,
)
from medslip.tasks.weights import newest
from medslip.tasks.zeroshot_cls import ImagesConfig, check_specificity, read_images
from medslip.training.distributed import Device, Processes, processes
from medslip.training.engine import Progress, TrainConfig, Trainer, Validation, read_log
from medslip.training.finetuning import CLASSIFICATION_LOSS, SEGMENTATION_LOSS, FinetuningLoss
from medslip.training.objective import Objective
from medslip.training.optim import OptimConfig
from medslip.vocabulary import ANATOMIES, PATHOLOGIES

AUTHORS_TEXT_WIDTH = 768
"""T of the authors' checkpoint."""

Arrays = tuple[npt.NDArray[Any], ...]


# Config --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class InitConfig:
    """How the backbone is initialised.

    Attributes:
        weights: "medslip": from the checkpoint; "imagenet": torchvision's weights; "random": from scratch.
        trunk: Which backbone; the checkpoint decides for "medslip".
        trunk_weights: For "imagenet": torchvision's name of the weights, or a file with a torchvision state dict.
    """

    weights: Literal["medslip", "imagenet", "random"] = "medslip"
    trunk: TrunkName = "resnet50"
    trunk_weights: str = "IMAGENET1K_V1"


@dataclass(frozen=True)
class FinetuneDataConfig:
    """How images are split and loaded.

    Attributes:
        valid_fraction: Fraction of the patients set aside to choose the best epoch.
        split_seed: Seed of the patient split.
        fraction: Fraction of the training images whose labels are used, such as 0.01, 0.1 or 1. Each seed draws its own
            subsample, stratified by label; a smaller subsample is part of a larger one.
        passes: Passes over the subsample per epoch; more for a small subsample.
        side: Side of the model's input in pixels, a multiple of 16.
        preload: Decode all images once and keep them in memory, an eighth larger than the side for random crops. Only for data
            sets that fit.
        workers: Processes that load and augment images.
    """

    valid_fraction: float = 0.1
    split_seed: int = 0
    fraction: float = 1.0
    passes: int = 1
    side: int = 224
    preload: bool = False
    workers: int = 2

    def __post_init__(self) -> None:
        check_fraction(self.fraction)
        if self.passes < 1:
            raise InputError(f"data.passes: {self.passes} is less than 1")
        test_fraction = getattr(self, "test_fraction", None)
        if not 0 < self.valid_fraction < 1 - (test_fraction or 0) <= 1 or test_fraction == 0:
            raise InputError(
                f"data: valid_fraction {self.valid_fraction}"
                + ("" if test_fraction is None else f" and test_fraction {test_fraction}")
                + " must be above 0 and leave something to train on"
            )


@dataclass(frozen=True)
class FinetuneConfig:
    """What both tasks share.

    Attributes:
        checkpoint: The pre-trained weights: ours, or the authors' .pth; a pattern such as runs/*/best.safetensors
            takes the newest file that matches. None with other init.weights than medslip.
        init: How the backbone is initialised.
        data: What to train and test on.
        train: The training loop.
        optim: The optimiser; the published recipe is a constant learning rate of 1e-5.
        seeds: One run per seed; it decides the initial weights, order, augmentation and subsample.
        resamples: Bootstrap resamples of patients.
        resume: Continue the run in the output directory; the result is that of an uninterrupted run.
        device: Where to compute.
        output: The run directory; None takes runs/TASK/DATE-TIME.
    """

    checkpoint: Path | None = None
    init: InitConfig = field(default_factory=InitConfig)
    data: FinetuneDataConfig = field(kw_only=True)
    train: TrainConfig = field(default_factory=TrainConfig)
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(
            learning_rate=1e-5, warmup_learning_rate=1e-5, final_learning_rate=1e-5, warmup_steps=0
        )
    )
    seeds: tuple[int, ...] = (0,)
    resamples: int = 1000
    resume: bool = False
    device: Device = "auto"
    output: Path | None = None

    def __post_init__(self) -> None:
        check_at_least(self, resamples=0)
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise InputError(f"seeds: {list(self.seeds)} must be one or more different whole numbers, 0 or above")
        if self.train.seed:
            raise InputError("train.seed: fine-tuning takes its seeds from --seeds, as in --seeds [0,1,2]")


@dataclass(frozen=True)
class SegmentationDataConfig(FinetuneDataConfig):
    """Which images and masks, and how they are split and loaded.

    Attributes:
        kind: "siim_acr": SIIM-ACR Pneumothorax, the publisher's folder or a CSV of pictures with masks; "phantom": the
            validation and test studies of a phantom corpus, on which pre-training did not train.
        path: The folder, or the CSV.
        images: "siim_acr": the folder of the images, if not the usual one.
        masks: "siim_acr": the folder of mask pictures; None takes a folder "masks" next to the CSV.
        pathology: "phantom": the finding to segment.
        valid_fraction: Fraction of the patients set aside to choose the best epoch and the threshold.
        test_fraction: Fraction of the patients set aside to test on.
    """

    kind: Literal["siim_acr", "phantom"] = field(kw_only=True)
    path: Path = field(kw_only=True)
    images: Path | None = None
    masks: Path | None = None
    pathology: str = "pneumothorax"
    valid_fraction: float = 0.15
    test_fraction: float = 0.15


@dataclass(frozen=True)
class FinetuneSegConfig(FinetuneConfig):
    """Fine-tune for segmentation.

    Attributes:
        data: What to train and test on.
        bridge: Channels of the U-Net's bridge, a multiple of 16; the up-blocks have a half to a sixteenth of it.
        choose_by: The validation score that chooses epoch and threshold: "dice", mean Dice over all images, as published; or
            "dice_balanced", which weighs images with and without a mask equally, for a finding so rare that predicting nothing
            has a high Dice.
        augmentation: Augmentation of training images and their masks.
    """

    data: SegmentationDataConfig = field(kw_only=True)
    bridge: int = BRIDGE
    choose_by: Criterion = "dice"
    augmentation: JointAugmentationConfig = field(default_factory=JointAugmentationConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bridge < 16 or self.bridge % 16:
            raise InputError(f"bridge: {self.bridge} is not a multiple of 16")


@dataclass(frozen=True)
class ClassificationDataConfig(FinetuneDataConfig):
    """Which images and labels, and how they are split and loaded.

    Attributes:
        train: Images to train on.
        valid: Images that choose the best epoch; None sets valid_fraction of the training patients aside.
        test: Images to test on.
    """

    train: ImagesConfig = field(kw_only=True)
    valid: ImagesConfig | None = None
    test: ImagesConfig = field(kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        parts = [part for part in (self.train, self.valid, self.test) if part is not None]
        if len({part.equalise for part in parts}) > 1:
            raise InputError("data: equalise differs between train, valid and test; use the same value for all three")
        if self.preload and self.train.equalise:
            raise InputError("data.preload: cannot be combined with equalise; leave one of them out")


@dataclass(frozen=True)
class FinetuneClsConfig(FinetuneConfig):
    """Fine-tune for classification.

    Attributes:
        data: What to train and test on.
        linear_probe: Freeze the backbone and train one linear layer on its averaged features, without a fourth stage.
        fourth_stage: Torchvision's name of weights, or a file, for the fourth stage; None: those of the backbone with
            init.weights imagenet, else from scratch.
        augmentation: Augmentation of training images.
        specificity: Operating points, chosen on the validation images: the highest sensitivity at this specificity, 0..1.
    """

    data: ClassificationDataConfig = field(kw_only=True)
    linear_probe: bool = False
    fourth_stage: str | None = None
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    specificity: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        check_specificity(self.specificity)
        if self.linear_probe and self.fourth_stage:
            raise InputError("fourth_stage: a linear probe has no fourth stage; leave one of them out")


# Backbone initialisation ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Backbone:
    """A backbone's initial weights, opened once for all seeds.

    Attributes:
        name: Which backbone.
        state: Its tensors; None initialises it at random, differently for each seed.
        source: Where the weights come from, for people.
        transform: The mean and standard deviation that go with the weights, and the side.
        fourth_stage: Torchvision weights that include a fourth stage; None otherwise.
    """

    name: TrunkName
    state: Mapping[str, Tensor] | None
    source: str
    transform: EvaluationTransform
    fourth_stage: str | None = None

    def trunk(self) -> Trunk:
        """A new trunk with these weights."""
        trunk = Trunk(self.name)
        if self.state is not None:
            load_strictly(trunk, self.state, self.source)
        return trunk

    def describe(self, model: nn.Module) -> dict[str, Any]:
        """Which parts of a model were loaded and which are random.

        Args:
            model: Its parts are ``trunk`` and others; ``fourth_stage`` is loaded if the weights include one.

        Returns:
            ``source``, ``trunk``; ``loaded`` and ``random``, part -> number of tensors.
        """
        loaded = {"trunk"} if self.state is not None else set()
        loaded |= {"fourth_stage"} if self.fourth_stage is not None else set()
        parts = {name: len(part.state_dict()) for name, part in model.named_children()}
        return {
            "source": self.source,
            "trunk": self.name,
            "loaded": {name: number for name, number in parts.items() if name in loaded},
            "random": {name: number for name, number in parts.items() if name not in loaded},
        }


def open_backbone(config: InitConfig, checkpoint: Path | None, side: int) -> tuple[Backbone, Path | None]:
    """Open the initial weights; also returns the checkpoint that they come from (None for "imagenet" and "random").

    Raises:
        InputError: The weights cannot be had, or a checkpoint is given that would not be used.
    """
    if config.weights == "medslip":
        if checkpoint is None:
            raise InputError("checkpoint: not given; name one, or set init.weights to imagenet or random")
        checkpoint = newest(checkpoint)
        opened = _open_checkpoint(checkpoint)
        state = opened.model.image_encoder.trunk.state_dict()
        transform = replace(opened.card.transform, side=side)
        return Backbone(opened.card.model.trunk, state, str(checkpoint), transform), checkpoint
    if checkpoint is not None:
        raise InputError(
            f"checkpoint: {checkpoint} is not used with init.weights {config.weights}; leave one of them out"
        )
    transform = EvaluationTransform(side)
    if config.weights == "random":
        return Backbone(config.trunk, None, "random weights", transform), None
    try:
        state = Trunk(config.trunk, config.trunk_weights).state_dict()
    except InputError as error:  # which names the key of pre-training
        raise InputError(str(error).replace("model.trunk_weights", "init.trunk_weights", 1)) from None
    source = f"torchvision {config.trunk_weights}"
    return Backbone(config.trunk, state, source, transform, config.trunk_weights), None


def _open_checkpoint(path: Path) -> Checkpoint:
    """A checkpoint of ours or the authors', which needs no text encoder here, as its prompts are not used."""
    if path.suffix not in (".pth", ".pt"):
        return load_checkpoint(path)
    pathology, anatomy = (torch.zeros(len(names), AUTHORS_TEXT_WIDTH) for names in (PATHOLOGIES, ANATOMIES))
    return load_authors(path, pathology, anatomy)


def describe_init(init: Mapping[str, Any]) -> str:
    """The result of ``Backbone.describe`` as one line."""

    def named(parts: Mapping[str, int]) -> str:
        return ", ".join(f"{number} tensors of the {name}" for name, number in parts.items()) or "nothing"

    return f"{init['trunk']} from {init['source']}: loaded {named(init['loaded'])}; random {named(init['random'])}"


# Splits and subsamples -----------------------------------------------------------------------------------------------


def split_patients(
    patients: Sequence[str], paths: Sequence[Path], seed: int, valid_fraction: float, test_fraction: float, source: str
) -> dict[str, Indices]:
    """Split whole patients into train, valid and test; an image of an unknown patient counts as a patient of its own.

    Args:
        patients: n names, empty where unknown.
        paths: n image files. Their common folder does not influence the split.
        seed: Seed of the split.
        valid_fraction: Fraction of the patients.
        test_fraction: Fraction of the patients; 0 for no test images.
        source: The data set, for messages.

    Returns:
        Split -> positions.

    Raises:
        InputError: A requested split gets no image.
    """
    folder = os.path.commonpath([os.path.abspath(path.parent) for path in paths])
    names = [Path(os.path.relpath(path, folder)).as_posix() for path in paths]
    owners = [patient or name for patient, name in zip(patients, names, strict=True)]
    parts = np.array([split_of(owner, seed, valid_fraction, test_fraction) for owner in owners])
    found = {split: np.flatnonzero(parts == split) for split in SPLITS if split != "test" or test_fraction}
    for split, indices in found.items():
        if not len(indices):
            raise InputError(
                f"{source}: {len(parts)} images are too few, no image is left to {split}; change the fractions"
            )
    return found


def choose_subsamples(labels: npt.NDArray[np.int8], fraction: float, seeds: Sequence[int]) -> dict[int, Indices]:
    """The training images that each seed trains on, stratified by their labels.

    Args:
        labels: n x C: 1 present, 0 absent, -1 unknown.
        fraction: Fraction of the images.
        seeds: One subsample per seed.

    Raises:
        InputError: The fraction is out of range, or leaves a seed without any positive label.
    """
    strata = [" ".join(map(str, row)) for row in labels.tolist()]
    chosen = {seed: choose_subsample(strata, fraction, seed) for seed in seeds}
    for seed, indices in chosen.items():
        if not (labels[indices] == PRESENT).any():
            raise InputError(
                f"data.fraction: {fraction} leaves seed {seed} {len(indices)} training image(s) without any finding; take more"
            )
    return chosen


# The two tasks -------------------------------------------------------------------------------------------------------

Images = TypeVar("Images", MaskedImages, LabelledImages)
Config = TypeVar("Config", bound=FinetuneConfig)


@dataclass(frozen=True)
class _Task(ABC, Generic[Config, Images]):
    """What fine-tuning for one kind of target consists of; ``run`` does the rest.

    Attributes:
        config: The task's config.
        name: The task's name in metrics.json.
        command: The name of its script, and of the directory of its runs.
        loss: What training minimises.
    """

    config: Config
    name: ClassVar[str]
    command: ClassVar[str]
    loss: ClassVar[FinetuningLoss]

    @property
    @abstractmethod
    def criterion(self) -> tuple[str, str]:
        """The logged validation score that chooses the best epoch, and its title."""

    @abstractmethod
    def read(self) -> dict[str, Images]:
        """Train, valid and test images, with no patient in two of them."""

    @abstractmethod
    def classes(self, images: Images) -> tuple[str, ...]:
        """C names of what is learnt."""

    @abstractmethod
    def labels(self, images: Images) -> npt.NDArray[np.int8]:
        """Which classes each image has, n x C."""

    @abstractmethod
    def source(self, images: Images, split: str) -> Source:
        """Images and targets of a split: for "train" as the augmentation takes them, else as the model does."""

    @abstractmethod
    def augment(self) -> Augment:
        """The augmentation of training images."""

    @abstractmethod
    def model(self, backbone: Backbone, classes: int) -> tuple[nn.Module, dict[str, Any]]:
        """A model on the backbone; and which parts of it were loaded (see ``Backbone.describe``)."""

    @abstractmethod
    def measure(self, logits: Tensor, targets: Tensor) -> Arrays:
        """What scores need of B predictions: arrays of B rows."""

    @abstractmethod
    def validate(self, images: Images, measured: Arrays, losses: dict[str, float]) -> Validation:
        """Score the validation images."""

    @abstractmethod
    def card(self, images: Images) -> dict[str, Any]:
        """What best.safetensors records to rebuild the model."""

    @abstractmethod
    def score(self, seed: _SeedResult[Images]) -> dict[str, pd.DataFrame]:
        """Score the test images of one seed: write predictions.csv, figures and then metrics.json; returns its tables."""

    @abstractmethod
    def summary(self, metrics: Mapping[str, Any]) -> dict[str, float]:
        """The test scores of one seed's metrics.json that are averaged over seeds."""

    @abstractmethod
    def about(self, splits: Mapping[str, Images]) -> dict[str, Any]:
        """The data set and the task's variant, for the metrics.json of all seeds."""


@dataclass(frozen=True)
class _SeedResult(Generic[Images]):
    """One seed's trained model and what it predicts.

    Attributes:
        seed: The seed.
        folder: Its run directory.
        splits: Train, valid and test images.
        measured: For "valid" and "test", what ``_Task.measure`` returned, in the images' order.
        validation: What the best epoch logged.
        data: Entries of ``data`` in metrics.json.
        init: Which parts of the model were loaded.
        device: Where it was computed.
        predict: Test image's position -> image and target (1 x S x S, uint8), and probabilities (C, or 1 x S x S).
    """

    seed: int
    folder: Path
    splits: Mapping[str, Images]
    measured: Mapping[str, Arrays]
    validation: dict[str, Any]
    data: dict[str, Any]
    init: dict[str, Any]
    device: str
    predict: Callable[[int], tuple[Tensor, Tensor, Tensor]]


class _Segmentation(_Task[FinetuneSegConfig, MaskedImages]):
    """Masks of one finding, a U-Net on the backbone, Dice and cross-entropy; scored at a threshold chosen on validation."""

    name, command, loss = "segmentation", "finetune_seg", SEGMENTATION_LOSS

    @property
    def criterion(self) -> tuple[str, str]:
        return f"validation_{self.config.choose_by}", {"dice": "Mean Dice"}.get(self.config.choose_by, "Balanced Dice")

    def read(self) -> dict[str, MaskedImages]:
        """Each split has a mask, and for balanced Dice an image without one."""
        data = self.config.data
        if data.kind == "phantom":
            images = read_phantom_masks(data.path, data.pathology)
        else:
            images = read_masks(data.path, data.images, data.masks)
        fractions = data.valid_fraction, data.test_fraction
        parts = split_patients(images.patients, images.paths, data.split_seed, *fractions, images.name)
        splits = {name: images.take(indices) for name, indices in parts.items()}
        for name, split in splits.items():
            if not split.marked.any() or (self.config.choose_by == "dice_balanced" and split.marked.all()):
                which = "every one" if split.marked.any() else "none"
                raise InputError(
                    f"{split.name}: {which} of the {len(split)} images to {name} has a mask of {split.finding}; change "
                    "the fractions, or take more images"
                )
        return splits

    def classes(self, images: MaskedImages) -> tuple[str, ...]:
        return (images.finding,)

    def labels(self, images: MaskedImages) -> npt.NDArray[np.int8]:
        return images.marked.astype(np.int8)[:, None]

    def source(self, images: MaskedImages, split: str) -> Source:
        side = self.config.data.side
        return MaskSource(images, roomy(side) if split == "train" else side)

    def augment(self) -> Augment:
        return JointTransform(self.config.data.side, self.config.augmentation)

    def model(self, backbone: Backbone, classes: int) -> tuple[nn.Module, dict[str, Any]]:
        model = Segmenter(backbone.trunk(), self.config.bridge)
        return model, replace(backbone, fourth_stage=None).describe(model)

    def measure(self, logits: Tensor, targets: Tensor) -> Arrays:
        """The fields of PixelCounts."""
        counts = count_pixels(logits.sigmoid()[:, 0].cpu().numpy(), targets[:, 0].cpu().numpy() > 0)
        return counts.marked, counts.predicted, counts.overlap

    def validate(self, images: MaskedImages, measured: Arrays, losses: dict[str, float]) -> Validation:
        counts = PixelCounts(*measured)
        threshold, score = best_threshold(counts, self.config.choose_by)
        found = score_segmentation(image_scores(counts, threshold), images.patients, resamples=0)
        scores = dict(zip(found["score"], found["estimate"].map(float), strict=True))
        values = losses | {f"validation_{name}": scores[name] for name in get_args(Criterion) if name in scores}
        return Validation(score, values | {"validation_threshold": threshold})

    def card(self, images: MaskedImages) -> dict[str, Any]:
        return {"finding": images.finding, "bridge": self.config.bridge}

    def score(self, seed: _SeedResult[MaskedImages]) -> dict[str, pd.DataFrame]:
        """Also writes overlays.png."""
        test, threshold, resamples = seed.splits["test"], seed.validation["validation_threshold"], self.config.resamples
        cases = image_scores(PixelCounts(*seed.measured["test"]), threshold)
        images = test.attributes.frame(test.paths, test.patients)
        table = pd.concat(
            [images.set_axis(["image", *images.columns[1:]], axis=1)[["image", "patient"]], cases], axis=1
        )
        write_csv(table.assign(**metadata_columns(images)), seed.folder / "predictions.csv")
        tiles = []
        for what, index in _examples(test.marked, cases["predicted_pixels"].to_numpy(), cases["dice"].to_numpy()):
            image, mask, probability = (each[0].numpy() for each in seed.predict(index))
            grey = np.where(_outline(mask > 0), np.uint8(255), image)
            heat_map = _PREDICTED * (probability >= threshold)
            tiles.append(Tile(grey, f"{what}\nDice {cases['dice'][index]:.2f}", heat_map))
        overview(seed.folder / "overlays.png", tiles)
        means = score_columns(cases)[["dice", "dice_on_positives"]]
        tables = {"scores": score_segmentation(cases, test.patients, resamples)}
        tables |= by_group(images, lambda inside, owner: MeansInGroup(inside, owner, means), resamples)
        data = {
            "name": test.name,
            "finding": test.finding,
            **seed.data,
            "images": len(test),
            "patients": count_patients(patient_index(test.patients)),
            "marked": int(test.marked.sum()),
        }
        settings = bootstrap_settings(resamples, 0, test.patients) | {
            "seed": seed.seed,
            "threshold": threshold,
            "validation": seed.validation,
            "init": seed.init,
        }
        write_metrics(seed.folder, self.name, data, tables, settings, seed.device)
        if not means["dice_on_positives"].sum():
            print(
                f"seed {seed.seed}: the best epoch predicts no pixel of any test mask; train for longer (--train.epochs, "
                "--data.passes), on more labels, or with another --optim.learning_rate"
            )
        return tables

    def summary(self, metrics: Mapping[str, Any]) -> dict[str, float]:
        """Also the Dice of predicting nothing."""
        nothing = 1 - metrics["data"]["marked"] / metrics["data"]["images"]
        values = {row["score"]: row["estimate"]["value"] for row in metrics["scores"]}
        return values | {"dice_of_predicting_nothing": nothing}

    def about(self, splits: Mapping[str, MaskedImages]) -> dict[str, Any]:
        return {"name": splits["train"].name, "finding": splits["train"].finding}


_PREDICTED = 0.6
"""Colour of predicted pixels, on the scale of heat maps."""


def _outline(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The mask's pixels that touch a pixel outside it."""
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner


def _examples(
    marked: npt.NDArray[np.bool_], predicted: npt.NDArray[np.int64], dice: npt.NDArray[np.float64]
) -> list[tuple[str, int]]:
    """Four each of the best, median and worst images with a mask, and the largest false alarms among the others."""
    order = np.flatnonzero(marked)[np.argsort(-dice[marked], kind="stable")]
    middle = max(0, len(order) // 2 - 2)
    # With few images, each is shown once.
    groups = {"best": order[:4], "median": order[4:-4][max(0, middle - 4) :][:4], "worst": order[4:][-4:]}
    alarms = np.flatnonzero(~marked & (predicted > 0))
    groups["false alarm"] = alarms[np.argsort(-predicted[alarms], kind="stable")][:4]
    return [(what, int(index)) for what, indices in groups.items() for index in indices]


class _Classification(_Task[FinetuneClsConfig, LabelledImages]):
    """Class labels; a linear head on the backbone's fourth stage, or a linear probe; cross-entropy; AUROC and the like."""

    name, command, loss = "fine-tuned classification", "finetune_cls", CLASSIFICATION_LOSS

    @property
    def criterion(self) -> tuple[str, str]:
        return "validation_auroc", "Mean AUROC"

    def read(self) -> dict[str, LabelledImages]:
        """All splits have the same classes."""
        data = self.config.data
        train, test = read_images(data.train), read_images(data.test)
        if data.valid is None:
            parts = split_patients(train.patients, train.paths, data.split_seed, data.valid_fraction, 0.0, train.name)
            train, valid = (train.take(parts[name]) for name in ("train", "valid"))
        else:
            valid = read_images(data.valid)
        splits = {"train": train, "valid": valid, "test": test}
        for name, split in splits.items():
            if split.labels is None:
                raise InputError(f"{split.name}: the images to {name} have no labels")
            if split.classes != train.classes:
                raise InputError(
                    f"{split.name}: has other classes to {name} than to train ({', '.join(split.classes)})"
                )
        refuse_shared(splits)
        for split in splits.values():
            refuse_without_scores(split)
            read_headers(split.paths)  # a file that is not an image is found now, not after the training
        return splits

    def classes(self, images: LabelledImages) -> tuple[str, ...]:
        return images.classes

    def labels(self, images: LabelledImages) -> npt.NDArray[np.int8]:
        assert images.labels is not None
        return images.labels

    def source(self, images: LabelledImages, split: str) -> Source:
        """Without preloading, training crops are cut from the file's own pixels."""
        data = self.config.data
        if split != "train":
            return LabelSource(images, data.side, equalise=data.train.equalise)
        if data.preload:
            return LabelSource(images, roomy(data.side))
        return LabelSource(images, at_least=self._transform.source_side, equalise=data.train.equalise)

    def augment(self) -> Augment:
        return LabelAugment(self._transform)

    @property
    def _transform(self) -> TrainingTransform:
        return TrainingTransform(self.config.data.side, self.config.augmentation)

    def model(self, backbone: Backbone, classes: int) -> tuple[nn.Module, dict[str, Any]]:
        trunk, backbone = (
            backbone.trunk(),
            replace(backbone, fourth_stage=self.config.fourth_stage or backbone.fourth_stage),
        )
        if self.config.linear_probe:
            model: nn.Module = LinearProbe(trunk, classes)
        else:
            model = Classifier(trunk, FourthStage(backbone.name, backbone.fourth_stage), classes)
        return model, backbone.describe(model)

    def measure(self, logits: Tensor, targets: Tensor) -> Arrays:
        """The probabilities."""
        return (logits.sigmoid().cpu().numpy(),)

    def validate(self, images: LabelledImages, measured: Arrays, losses: dict[str, float]) -> Validation:
        """Without any AUROC, the loss chooses."""
        scores = score(images.classes, self.labels(images), measured[0], images.patients, resamples=0)
        auroc = mean_auroc(scores)
        return Validation(
            auroc if np.isfinite(auroc) else -losses["validation_total"], losses | {"validation_auroc": auroc}
        )

    def card(self, images: LabelledImages) -> dict[str, Any]:
        equalise = self.config.data.train.equalise
        return {"classes": images.classes, "linear_probe": self.config.linear_probe, "equalise": equalise}

    def score(self, seed: _SeedResult[LabelledImages]) -> dict[str, pd.DataFrame]:
        """Also writes roc.png, precision_recall.png, calibration.png and, with several groups, subgroups.png."""
        test, valid = (self._predictions(seed, split) for split in ("test", "valid"))
        tables = evaluate(test, valid, self.config.specificity, self.config.resamples)
        table = prediction_table(test.images, test.classes, test.probabilities, test.labels)
        write_csv(table, seed.folder / "predictions.csv")
        draw(seed.folder, tables, test)
        settings = bootstrap_settings(self.config.resamples, 0, test.images["patient"]) | {
            "seed": seed.seed,
            "validation": seed.validation,
            "init": seed.init,
            "specificity": self.config.specificity,
            "validation_data": valid.about(),
        }
        write_metrics(seed.folder, self.name, seed.data | test.about(), tables, settings, seed.device)
        return tables

    def _predictions(self, seed: _SeedResult[LabelledImages], split: str) -> Predictions:
        images, (probabilities,) = seed.splits[split], seed.measured[split]
        frame = images.attributes.frame(images.paths, images.patients)
        return Predictions(images.name, frame, images.classes, self.labels(images), probabilities)

    def summary(self, metrics: Mapping[str, Any]) -> dict[str, float]:
        """Means over classes, and each class's AUROC."""
        scores = from_records(metrics["scores"])
        mean, classes = scores[scores["class"] == MEAN].iloc[0], class_rows(scores)
        named = {name: mean[name].value for name in ("auroc", "average_precision", "max_f1")}
        if len(classes) > 1:
            named |= {f"auroc_{row['class']}": row["auroc"].value for _, row in classes.iterrows()}
        return {name: value for name, value in named.items() if not np.isnan(value)}

    def about(self, splits: Mapping[str, LabelledImages]) -> dict[str, Any]:
        return {"name": splits["test"].name, "linear_probe": self.config.linear_probe}


# The loop ------------------------------------------------------------------------------------------------------------


def run(config: FinetuneSegConfig | FinetuneClsConfig, show: bool = True) -> Path:
    """Fine-tune for segmentation or classification, once per seed; returns the run directory.

    It then holds config.yaml, metrics.json (mean and standard deviation over seeds), run.html, valid_list.txt and
    test_list.txt; and for each seed a folder seed_N with train_list.txt, best.safetensors, log.jsonl, tensorboard/, losses.png
    and, for the test images, metrics.json, predictions.csv and the task's figures.

    Args:
        config: What to train, on what.
        show: Whether to print tables.

    Raises:
        InputError: The checkpoint, an image, a label, a mask or the config cannot be used.
    """
    task: _Task[Any, Any] = _Segmentation(config) if isinstance(config, FinetuneSegConfig) else _Classification(config)
    with processes(config.device) as world:
        output = agreed_folder(config.output, task.command, world, config.resume)
        backbone, checkpoint = open_backbone(config.init, config.checkpoint, config.data.side)
        splits = task.read()
        subsamples = choose_subsamples(task.labels(splits["train"]), config.data.fraction, config.seeds)
        task = replace(task, config=replace(config, checkpoint=checkpoint, output=output))
        with _begun(task.config, splits, world):
            sources = {name: task.source(split, name) for name, split in splits.items()}
            if config.data.preload:
                sources = {
                    name: preload(each, len(splits[name]), config.data.workers) for name, each in sources.items()
                }
            for seed in config.seeds:
                if not (config.resume and (output / f"seed_{seed}" / "metrics.json").is_file()):
                    _run_seed(task, backbone, splits, sources, subsamples[seed], seed, world, show)
            if world.is_main:
                _finish(task, splits, str(world.device), show)
    return output


@contextmanager
def _begun(config: Any, splits: Mapping[str, Any], world: Processes) -> Iterator[None]:
    """A run directory with config.yaml, valid_list.txt and test_list.txt, which is removed again if the input is unusable."""
    if config.resume:
        check_same_config(config.output, config)
        yield
        return
    with removed_on_bad_input(config.output):
        world.wait()  # all have seen the folder empty before one writes
        if world.is_main:
            begin(config.output, config)
            for name in ("valid", "test"):
                _write_list(config.output / f"{name}_list.txt", splits[name].paths)
        world.wait()
        yield


def _write_list(path: Path, images: Sequence[Path]) -> None:
    write_text(path, "".join(f"{image}\n" for image in images))


def _run_seed(
    task: _Task[Any, Any],
    backbone: Backbone,
    splits: Mapping[str, Any],
    sources: Mapping[str, Source],
    subsample: Indices,
    seed: int,
    world: Processes,
    show: bool,
) -> None:
    """Train on the subsample, keep the epoch that validates best, then score the test images."""
    config, folder, train = task.config, task.config.output / f"seed_{seed}", splits["train"]
    classes = task.classes(train)
    torch.manual_seed(seed)
    model, init = task.model(backbone, len(classes))
    objective = Objective(model, task.loss, backbone.transform.normalise, config.train.channels_last)
    objective.to(world.device)

    has = (task.labels(train)[subsample] == PRESENT).any(axis=0)
    missing = [name for name, present in zip(classes, has, strict=True) if not present]
    if world.is_main:
        if seed == config.seeds[0]:
            print(describe_init(init))
        if missing:
            print(
                f"seed {seed}: none of the {len(subsample)} labelled images has {', '.join(missing)}; the model learns that "
                "it is always absent, and its scores stay in the mean"
            )
        _write_list(folder / "train_list.txt", [train.paths[index] for index in subsample])

    def loader(split: str) -> Any:
        images = len(splits[split])
        return evaluation_loader(sources[split], images, _shard(config, images, world))

    def validate() -> Validation:
        return task.validate(splits["valid"], *_examine(task, objective, valid, world))

    def save_best(progress: Progress, values: dict[str, float]) -> None:
        card = {
            "task": task.name,
            **task.card(train),
            "transform": backbone.transform.to_dict(),
            "init": init,
            "config": config_to_dict(config),
            "step": progress.step,
            "validation": values,
        }
        save_finetuned(best, objective.model, card)

    best, last, valid = folder / "best.safetensors", folder / "last.safetensors", loader("valid")
    images = np.tile(subsample, config.data.passes)
    batches = training_loader(sources["train"], images, task.augment(), seed, _shard(config, len(images), world))
    loop = replace(config.train, seed=seed)
    trainer = Trainer(loop, config.optim, world, folder, validate, save_best)
    trainer.fit(objective, batches, config.resume and last.is_file())

    tensors, metadata = read_tensors(best)
    load_strictly(objective.model, tensors, str(best))
    objective.eval()
    measured = {split: _examine(task, objective, loader(split), world)[0] for split in ("valid", "test")}
    if not world.is_main:
        return
    finetuning_curves(folder / "losses.png", read_log(folder / "log.jsonl"), *task.criterion)

    @torch.inference_mode()
    def predict(index: int) -> tuple[Tensor, Tensor, Tensor]:
        image, target = sources["test"](index)
        return image, target, objective.predict(image[None].to(world.device)).float().sigmoid()[0].cpu()

    validation = json.loads(metadata["card"])["validation"]
    data = {"part": "test", "learnt_from": len(subsample), "never_labelled_present": missing}
    result = _SeedResult(seed, folder, splits, measured, validation, data, init, str(world.device), predict)
    tables = task.score(result)
    # The state is large. A resumed run takes a seed's metrics.json, which was written last, for the end of that seed.
    last.unlink(missing_ok=True)
    if show:
        print(f"\nseed {seed}, test images")
        show_tables(tables)


def _shard(config: FinetuneConfig, images: int, world: Processes) -> Shard:
    """This process's share of the batches; a batch is never larger than a process's share of the images."""
    batch = max(1, min(config.train.batch_size, images // (world.world_size * config.train.accumulate)))
    return Shard(batch, config.data.workers, world.world_size, world.rank, world.device.type == "cuda")


def _examine(
    task: _Task[Any, Any], objective: Objective, batches: Any, world: Processes
) -> tuple[Arrays, dict[str, float]]:
    """Measure the predictions of a split that the processes share.

    Returns:
        In every process: what ``_Task.measure`` returns, for all images in order; and the mean losses.
    """
    one = torch.ones((), device=world.device)
    losses, count = torch.zeros(len(task.loss.names), device=world.device), torch.zeros((), device=world.device)
    rows: list[Arrays] = []
    for batch in (batch.to(world.device) for batch in batches):
        # In full precision even during training: thresholds are for the model as users run it.
        with torch.inference_mode(), torch.autocast(world.device.type, enabled=False):
            logits = objective.predict(batch.images).float()
            losses += task.loss.function(logits, batch.labels, one)
            count += task.loss.count(batch.labels)
        rows.append((batch.indices.cpu().numpy(), *task.measure(logits, batch.labels)))
    # A process may have no image, so the lists are joined before the arrays.
    everything = [row for share in world.gather(rows) for row in share]
    position, *columns = (np.concatenate(column) for column in zip(*everything, strict=True))
    order = np.argsort(position)
    mean = (world.sum(losses) / world.sum(count).clamp(min=1)).tolist()
    named = {f"validation_{name}": value for name, value in zip(task.loss.names, mean, strict=True)}
    return tuple(column[order] for column in columns), named


def _finish(task: _Task[Any, Any], splits: Mapping[str, Any], device: str, show: bool) -> None:
    """Write metrics.json and run.html over all seeds; one row per score."""
    config = task.config
    runs = {seed: read_metrics(config.output / f"seed_{seed}") for seed in config.seeds}
    scores = pd.DataFrame({f"seed_{seed}": task.summary(metrics) for seed, metrics in runs.items()}).dropna()
    table = pd.DataFrame({"mean": scores.mean(axis=1), "deviation": scores.std(axis=1)}).join(scores)
    table = table.rename_axis("score").reset_index()
    counts = {name: len(split) for name, split in splits.items()}
    data = {**task.about(splits), "fraction": config.data.fraction, **counts}
    settings = {"seeds": list(config.seeds), "init": runs[config.seeds[0]]["init"]}
    page = finish(config.output, task.name, data, {"scores": table}, settings, device)
    if show:
        print(f"\n{to_text(table)}\n\nweights, predictions, metrics and figures: {config.output}\nrun page: {page}")
