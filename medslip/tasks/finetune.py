"""Fine-tuning: a pre-trained backbone and labelled images -> a classifier or segmenter, scored on its test images once.

``run`` is the same for both tasks: initialise the backbone, choose each seed's subsample of the training labels, train, keep
the best validation epoch, score the test images, and summarise over seeds. ``_Segmentation`` and ``_Classification`` have the
same methods, and define the targets, the model, the loss, the scores and the figures.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from scipy.ndimage import binary_erosion
from torch import Tensor, nn

from medslip.checkpoints import (
    AUTHORS_SUFFIXES,
    PREVIOUS,
    Checkpoint,
    Progress,
    load_authors,
    load_checkpoint,
    save_finetuned,
)
from medslip.config import config_to_dict
from medslip.data.augmentation import (
    Augment,
    AugmentationConfig,
    JointAugmentationConfig,
    JointTransform,
    LabelAugment,
    TrainingTransform,
)
from medslip.data.dataset import DataSet, ListedDataSet
from medslip.data.images import read_headers
from medslip.data.loading import (
    Batch,
    ClassLabels,
    ImageSource,
    Masks,
    Shard,
    Source,
    evaluation_loader,
    preload,
    training_loader,
)
from medslip.data.preprocessing import Preprocessing, roomy
from medslip.data.splits import Indices, check_fraction, choose_subsamples, split_patients
from medslip.data.table import ImageTable, check_classes, check_scorable, check_shared, one_class
from medslip.errors import InputError, check_at_least
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
from medslip.evaluation.tables import Patients, from_records, show_tables, to_text, words, write_predictions
from medslip.files import write_text
from medslip.labels import PRESENT
from medslip.model.classifier import Classifier, LinearProbe
from medslip.model.segmenter import BRIDGE, Segmenter
from medslip.model.trunk import FourthStage, Trunk, TrunkName
from medslip.model.weights import load_strictly, read_tensors
from medslip.run_dir import (
    Resume,
    agreed_folder,
    begin,
    bootstrap_settings,
    check_same_config,
    finish,
    read_metrics,
    removed_on_error,
    write_metrics,
)
from medslip.tasks.weights import newest
from medslip.tasks.zeroshot_cls import check_specificity
from medslip.training.distributed import Device, Processes, processes
from medslip.training.engine import OnFault, TrainConfig, Trainer, Validation, count_skipped, read_log
from medslip.training.finetuning import CLASSIFICATION_LOSS, SEGMENTATION_LOSS
from medslip.training.objective import Objective
from medslip.training.optim import OptimConfig
from medslip.vocabulary import ANATOMIES, PATHOLOGIES

AUTHORS_TEXT_WIDTH = 768
"""T of the authors' checkpoint."""

Arrays = tuple[npt.NDArray[Any], ...]
"""What scores need of the predictions for B images, such as probabilities or pixel counts: arrays of B rows."""

Splits = Mapping[str, ImageTable]
"""The images to "train", "valid" and "test"."""

Predict = Callable[[int], tuple[Tensor, Tensor, Tensor]]
"""A test image's position -> image and target (1 x S x S, uint8), and probabilities (C, or 1 x S x S)."""


# Config --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class InitConfig:
    """How the backbone is initialised.

    Attributes:
        weights: "medslip": from the checkpoint; "imagenet": torchvision's weights; "random": from scratch.
        trunk: Which backbone; for "medslip", that of the checkpoint.
        trunk_weights: For "imagenet": torchvision's name of the weights, or a file with a torchvision state dict.
    """

    weights: Literal["medslip", "imagenet", "random"] = "medslip"
    trunk: TrunkName = "resnet50"
    trunk_weights: str = "IMAGENET1K_V1"


@dataclass(frozen=True)
class FinetuneDataConfig:
    """Which images, and how they are split and loaded.

    Attributes:
        train: Images to train on.
        valid: Images on which the best epoch is chosen; None sets valid_fraction of the training patients aside.
        test: Images to test on; None sets test_fraction of the training patients aside.
        valid_fraction: Fraction of the patients, above 0, if there are no validation images.
        test_fraction: Fraction of the patients, above 0, if there are no test images.
        split_seed: Seed of the patient split.
        fraction: Fraction of the training images whose labels are used, such as 0.01, 0.1 or 1. Each seed draws its own
            subsample, stratified by label; a smaller subsample is contained in a larger one.
        passes: Passes over the subsample per epoch; more for a small subsample.
        side: Side of the model's input in pixels, a multiple of 16.
        preload: Decode all images once and keep them in memory, an eighth larger than the side for random crops. Only for data
            sets that fit.
        workers: Processes that load and augment images.
    """

    train: DataSet
    valid: DataSet | None = None
    test: DataSet | None = None
    valid_fraction: float = 0.15
    test_fraction: float = 0.15
    split_seed: int = 0
    fraction: float = 1.0
    passes: int = 1
    side: int = 224
    preload: bool = False
    workers: int = 2

    def __post_init__(self) -> None:
        check_fraction(self.fraction)
        check_at_least(self, "data.", passes=1)
        if not (min(self.valid_fraction, self.test_fraction) > 0 and self.valid_fraction + self.test_fraction < 1):
            raise InputError(
                f"data: valid_fraction {self.valid_fraction} and test_fraction {self.test_fraction} must be above 0 and "
                "their sum below 1"
            )
        if len({part.equalise for part in (self.train, self.valid, self.test) if part is not None}) > 1:
            raise InputError("data: equalise differs between train, valid and test; use the same value for all three")


@dataclass(frozen=True)
class FinetuneConfig:
    """What both tasks share.

    Attributes:
        data: What to train and test on.
        checkpoint: The pre-trained weights: ours, or the authors' .pth. With *, the newest matching file.
        init: How the backbone is initialised.
        train: The training loop.
        optim: The optimiser; the paper's recipe is a constant learning rate of 1e-5.
        seeds: One run per seed; it decides the initial weights, order, augmentation and subsample.
        resamples: Bootstrap resamples of patients.
        patients: How predictions.csv and the run pages name patients: "hash" gives each a name that does not tell who it is;
            "keep" uses the data set's own.
        resume: true continues the run in the output directory, exactly as if it had not stopped. auto does so where there
            is one, and else starts it, so that the same command is right after every interruption. SIGTERM, SIGUSR1 or SIGHUP
            during training saves the state after the present step, or the present validation, and exits with status 75.
        device: Where to compute.
        output: The run directory; None takes runs/TASK/DATE-TIME.
    """

    data: FinetuneDataConfig
    checkpoint: Path | None = None
    init: InitConfig = field(default_factory=InitConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(
            learning_rate=1e-5, warmup_learning_rate=1e-5, final_learning_rate=1e-5, warmup_steps=0
        )
    )
    seeds: tuple[int, ...] = (0,)
    resamples: int = 1000
    patients: Patients = "hash"
    resume: Resume = False
    device: Device = "auto"
    output: Path | None = None

    def __post_init__(self) -> None:
        check_at_least(self, resamples=0)
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise InputError(f"seeds: {list(self.seeds)} must be one or more different whole numbers, 0 or above")
        if self.train.seed:
            raise InputError("train.seed: fine-tuning takes its seeds from --seeds, as in --seeds [0,1,2]")


@dataclass(frozen=True)
class FinetuneSegConfig(FinetuneConfig):
    """Fine-tune for segmentation.

    Attributes:
        finding: The class whose masks are segmented; not needed if all masks are of one class.
        bridge: Channels of the U-Net's bridge, a multiple of 16; the up-blocks have 1/2 to 1/16 as many.
        choose_by: The validation score that chooses epoch and threshold: "dice", mean Dice over all images, as in the paper; or
            "dice_balanced", which weights images with and without a mask equally, for a finding so rare that predicting nothing
            has a high Dice.
        augmentation: Augmentation of training images and their masks.
    """

    finding: str | None = None
    bridge: int = BRIDGE
    choose_by: Criterion = "dice"
    augmentation: JointAugmentationConfig = field(default_factory=JointAugmentationConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bridge < 16 or self.bridge % 16:
            raise InputError(f"bridge: {self.bridge} is not a multiple of 16")


@dataclass(frozen=True)
class FinetuneClsConfig(FinetuneConfig):
    """Fine-tune for classification.

    Attributes:
        linear_probe: Freeze the backbone and train one linear layer on its averaged features, without a fourth stage.
        fourth_stage: Torchvision's name of weights, or a file, for the fourth stage; None: those of the backbone with
            init.weights imagenet, else from scratch.
        augmentation: Augmentation of training images.
        specificity: Operating points, chosen on the validation images: the highest sensitivity at this specificity, 0..1.
    """

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
class InitialBackbone:
    """A backbone's initial weights, opened once for all seeds.

    Attributes:
        name: Which backbone.
        state: Its tensors; None initialises it at random, differently for each seed.
        source: Where the weights come from, for people.
        transform: The mean and standard deviation that go with the weights, and the side.
        checkpoint: The checkpoint that the weights come from, if any.
        fourth_stage: Torchvision weights that include a fourth stage, if any.
    """

    name: TrunkName
    state: Mapping[str, Tensor] | None
    source: str
    transform: Preprocessing
    checkpoint: Path | None = None
    fourth_stage: str | None = None

    def trunk(self) -> Trunk:
        """A new trunk with these weights."""
        trunk = Trunk(self.name)
        if self.state is not None:
            load_strictly(trunk, self.state, self.source)
        return trunk

    def describe(self, model: nn.Module, fourth_stage: str | None = None) -> dict[str, Any]:
        """Which parts of a model were loaded and which are random: part -> number of tensors.

        Args:
            model: Its parts are ``trunk`` and others.
            fourth_stage: Weights that its fourth stage was loaded from, if any.
        """
        loaded = {"trunk": self.state is not None, "fourth_stage": fourth_stage is not None}
        parts = {name: len(part.state_dict()) for name, part in model.named_children()}
        return {
            "source": self.source,
            "trunk": self.name,
            "loaded": {name: number for name, number in parts.items() if loaded.get(name)},
            "random": {name: number for name, number in parts.items() if not loaded.get(name)},
        }


def open_backbone(config: InitConfig, checkpoint: Path | None, side: int) -> InitialBackbone:
    """Open the initial weights of the backbone.

    Raises:
        InputError: The weights cannot be had, or a checkpoint is given that would not be used.
    """
    if config.weights == "medslip":
        if checkpoint is None:
            raise InputError("checkpoint: not given; give one, or set init.weights to imagenet or random")
        checkpoint = newest(checkpoint)
        opened = _open_checkpoint(checkpoint)
        state = opened.model.image_encoder.trunk.state_dict()
        transform = replace(opened.card.transform, side=side)
        return InitialBackbone(opened.card.model.trunk, state, str(checkpoint), transform, checkpoint)
    if checkpoint is not None:
        raise InputError(
            f"checkpoint: {checkpoint} is not used with init.weights {config.weights}; leave one of them out"
        )
    transform = Preprocessing(side)
    if config.weights == "random":
        return InitialBackbone(config.trunk, None, "random weights", transform)
    try:
        state = Trunk(config.trunk, config.trunk_weights).state_dict()
    except InputError as error:  # which names the key of pre-training
        raise InputError(str(error).replace("model.trunk_weights", "init.trunk_weights", 1)) from None
    source = f"torchvision {config.trunk_weights}"
    return InitialBackbone(config.trunk, state, source, transform, fourth_stage=config.trunk_weights)


def _open_checkpoint(path: Path) -> Checkpoint:
    """A checkpoint of ours or the authors', which needs no text encoder here, as its prompts are not used."""
    if path.suffix not in AUTHORS_SUFFIXES:
        return load_checkpoint(path)
    pathology, anatomy = (torch.zeros(len(names), AUTHORS_TEXT_WIDTH) for names in (PATHOLOGIES, ANATOMIES))
    return load_authors(path, pathology, anatomy)


def describe_init(init: Mapping[str, Any]) -> str:
    """The result of ``InitialBackbone.describe`` as one line."""

    def named(parts: Mapping[str, int]) -> str:
        return ", ".join(f"{number} tensors of the {name}" for name, number in parts.items()) or "nothing"

    return f"{init['trunk']} from {init['source']}: loaded {named(init['loaded'])}; random {named(init['random'])}"


# Splits --------------------------------------------------------------------------------------------------------------


def read_splits(config: FinetuneDataConfig, on_bad_image: OnFault = "error") -> dict[str, ImageTable]:
    """Read train, valid and test images, with no patient in two of them.

    Args:
        config: Which images.
        on_bad_image: "skip" does not check the training images.

    Raises:
        InputError: Images cannot be read, two splits share a patient, or a publisher's test images are given to train on.
    """
    train = config.train.read()
    published = set(train.images["split"])
    if not isinstance(config.train, ListedDataSet) and "train" not in published and published != {""}:
        raise InputError(
            f"{train.name}: these are the publisher's {' and '.join(sorted(published))} images; choose those to train on "
            "(key data.train.split)"
        )
    given = {"valid": config.valid, "test": config.test}
    fractions = {"valid": config.valid_fraction, "test": config.test_fraction}
    wanted = {name: 0.0 if given[name] else fraction for name, fraction in fractions.items()}
    splits = split_patients(train, config.split_seed, wanted["valid"], wanted["test"])
    splits |= {name: data.read() for name, data in given.items() if data is not None}
    check_shared(splits)
    for name, table in splits.items():
        if name != "train" or on_bad_image == "error":
            read_headers(table.paths)  # a file that is not an image is found now, not after the training
    return splits


# The two tasks -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Segmentation:
    """Masks of one finding, a U-Net on the backbone, Dice and cross-entropy; scored at a threshold chosen on validation."""

    config: FinetuneSegConfig
    name, command, loss = "segmentation", "finetune_seg", SEGMENTATION_LOSS

    @property
    def criterion(self) -> tuple[str, str]:
        """The logged validation score that chooses the best epoch, and its title."""
        return f"validation_{self.config.choose_by}", words(self.config.choose_by)

    def targets(self, splits: Splits) -> Splits:
        """Check that each split has a mask of the finding, and for balanced Dice an image without one; label them so."""
        finding = self.config.finding or _only_finding(splits["train"])
        labelled = {}
        for name, table in splits.items():
            masks = _masks(table, finding)
            marked = np.isin(np.arange(len(table)), masks["image"])
            if not marked.any() or (self.config.choose_by == "dice_balanced" and marked.all()):
                which = "every one" if marked.any() else "none"
                raise InputError(
                    f"{table.name}: {which} of the {len(table)} images of the {name} split has a mask of {finding}; "
                    "change the fractions, or use more images"
                )
            labelled[name] = replace(table, labels=one_class(finding, marked))
        return labelled

    def source(self, table: ImageTable, split: str) -> Source:
        """Images and targets of a split: for "train" as the augmentation takes them, else as the model does."""
        side = self.config.data.side
        side = roomy(side) if split == "train" else side
        return ImageSource(table, side, Masks(table, table.classes[0], side), self.config.data.train.equalise)

    def augment(self) -> Augment:
        """The augmentation of training images."""
        return JointTransform(self.config.data.side, self.config.augmentation)

    def model(self, backbone: InitialBackbone, classes: int) -> tuple[nn.Module, dict[str, Any]]:
        """A model on the backbone; and which parts of it were loaded."""
        model = Segmenter(backbone.trunk(), self.config.bridge)
        return model, backbone.describe(model)

    def measure(self, logits: Tensor, targets: Tensor) -> Arrays:
        """The fields of PixelCounts."""
        counts = count_pixels(logits.sigmoid()[:, 0].cpu().numpy(), targets[:, 0].cpu().numpy() > 0)
        return counts.marked, counts.predicted, counts.overlap

    def validate(self, table: ImageTable, measured: Arrays, losses: dict[str, float]) -> Validation:
        """Score the validation images at the best threshold."""
        counts = PixelCounts(*measured)
        threshold, score = best_threshold(counts, self.config.choose_by)
        found = score_segmentation(image_scores(counts, threshold), table.patients, resamples=0)
        scores = found.set_index("score")["estimate"].map(float)
        values = losses | {f"validation_{name}": scores[name] for name in get_args(Criterion) if name in scores}
        return Validation(score, values | {"validation_threshold": threshold})

    def card(self, table: ImageTable) -> dict[str, Any]:
        """What best.safetensors records to rebuild the model."""
        return {"finding": table.classes[0], "bridge": self.config.bridge, "equalise": self.config.data.train.equalise}

    def score(
        self,
        folder: Path,
        splits: Splits,
        measured: Mapping[str, Arrays],
        validation: Mapping[str, Any],
        predict: Predict,
    ) -> tuple[dict[str, pd.DataFrame], dict[str, Any]]:
        """Score the test images: write predictions.csv and overlays.png.

        Args:
            folder: The seed's run directory.
            splits: Train, valid and test images.
            measured: For "valid" and "test", what ``measure`` returned, in the images' order.
            validation: What the best epoch logged.
            predict: The trained model.

        Returns:
            Tables, and further entries of metrics.json.
        """
        test, threshold, resamples = splits["test"], validation["validation_threshold"], self.config.resamples
        cases = image_scores(PixelCounts(*measured["test"]), threshold)
        images = test.images.rename(columns={"path": "image"})[["image", "patient"]]
        table = pd.concat([images, cases], axis=1).assign(**metadata_columns(test.images))
        write_predictions(table, folder, self.config.patients)
        tiles = []
        for what, index in _examples(cases):
            image, target, probability = (each[0].numpy() for each in predict(index))
            mask = target > 0
            grey = np.where(mask & ~binary_erosion(mask), np.uint8(255), image)
            heat_map = _PREDICTED * (probability >= threshold)
            tiles.append(Tile(grey, f"{what}\nDice {cases['dice'][index]:.2f}", heat_map))
        overview(folder / "overlays.png", tiles)
        means = score_columns(cases)[["dice", "dice_on_positives"]]
        if not means["dice_on_positives"].sum():
            print(
                "the best epoch predicts no pixel of any test mask; train for longer (--train.epochs, --data.passes), on more "
                "labels, or with another --optim.learning_rate"
            )
        tables = {"scores": score_segmentation(cases, test.patients, resamples)}
        tables |= by_group(test.images, lambda inside, owner: MeansInGroup(inside, owner, means), resamples)
        return tables, {"threshold": threshold}

    def summary(self, scores: pd.DataFrame) -> dict[str, float]:
        """What is averaged over seeds of one seed's table ``scores``; and the Dice of predicting nothing."""
        rows = scores.set_index("score")
        nothing = 1 - rows["images"]["dice_on_positives"] / rows["images"]["dice"]
        return rows["estimate"].map(float).to_dict() | {"dice_of_predicting_nothing": nothing}


_PREDICTED = 0.6
"""Colour of predicted pixels, on the scale of heat maps."""


def _masks(table: ImageTable, finding: str | None = None) -> pd.DataFrame:
    """The masks of a finding, or of any."""
    if table.findings is None:
        raise InputError(f"{table.name}: has no masks to segment")
    findings = table.findings if finding is None else table.findings[table.findings["class"] == finding]
    is_box = findings["mask"].isna()
    if finding is not None and is_box.any():
        image = table.paths[findings["image"].to_numpy(int)[is_box][0]]
        raise InputError(
            f"{table.name}: {image} has a box of {finding} without a mask; give it one, or leave the image out"
        )
    return findings[~is_box]


def _only_finding(table: ImageTable) -> str:
    classes = sorted(set(_masks(table)["class"]))
    if not classes:
        raise InputError(f"{table.name}: none of the {len(table)} training images has a mask")
    if len(classes) > 1:
        raise InputError(f"finding: not given; {table.name} has masks of {', '.join(classes)}")
    return classes[0]


def _examples(cases: pd.DataFrame) -> list[tuple[str, int]]:
    """Four each of the best, median and worst images with a mask, and the largest false alarms among the others."""
    marked = cases["marked_pixels"] > 0
    order = cases[marked].sort_values("dice", ascending=False, kind="stable").index
    middle = max(0, len(order) // 2 - 2)
    # With few images, each is shown once.
    groups = {"best": order[:4], "median": order[4:-4][max(0, middle - 4) :][:4], "worst": order[4:][-4:]}
    alarms = cases[~marked & (cases["predicted_pixels"] > 0)]
    groups["false alarm"] = alarms.sort_values("predicted_pixels", ascending=False, kind="stable").index[:4]
    return [(what, int(index)) for what, indices in groups.items() for index in indices]


@dataclass(frozen=True)
class _Classification:
    """Class labels; a linear head on the backbone's fourth stage, or a linear probe; cross-entropy; AUROC and the like."""

    config: FinetuneClsConfig
    name, command, loss = "fine-tuned classification", "finetune_cls", CLASSIFICATION_LOSS
    criterion = "validation_auroc", "Mean AUROC"

    def targets(self, splits: Splits) -> Splits:
        """Check that all splits have labels of the same classes."""
        for name, which in (("train", "training"), ("valid", "validation"), ("test", "test")):
            check_classes(splits[name], splits["train"].classes, which)
            check_scorable(splits[name])
        return splits

    def source(self, table: ImageTable, split: str) -> Source:
        """Without preloading, training crops are cut from the file's own pixels."""
        data, labels = self.config.data, ClassLabels(table.label_array)
        if split == "train" and not data.preload:
            smallest = TrainingTransform(data.side, self.config.augmentation).source_side
            return ImageSource(table, None, labels, data.train.equalise, smallest)
        side = roomy(data.side) if split == "train" else data.side
        return ImageSource(table, side, labels, data.train.equalise)

    def augment(self) -> Augment:
        return LabelAugment(TrainingTransform(self.config.data.side, self.config.augmentation))

    def model(self, backbone: InitialBackbone, classes: int) -> tuple[nn.Module, dict[str, Any]]:
        trunk, weights = backbone.trunk(), self.config.fourth_stage or backbone.fourth_stage
        if self.config.linear_probe:
            model: nn.Module = LinearProbe(trunk, classes)
        else:
            model = Classifier(trunk, FourthStage(backbone.name, weights), classes)
        return model, backbone.describe(model, weights)

    def measure(self, logits: Tensor, targets: Tensor) -> Arrays:
        """The probabilities."""
        return (logits.sigmoid().cpu().numpy(),)

    def validate(self, table: ImageTable, measured: Arrays, losses: dict[str, float]) -> Validation:
        """If no AUROC can be computed, the loss chooses the epoch."""
        auroc = mean_auroc(score(table.classes, table.label_array, measured[0], table.patients, resamples=0))
        values = losses | {"validation_auroc": auroc}
        return Validation(auroc if np.isfinite(auroc) else -losses["validation_total"], values)

    def card(self, table: ImageTable) -> dict[str, Any]:
        equalise = self.config.data.train.equalise
        return {"classes": table.classes, "linear_probe": self.config.linear_probe, "equalise": equalise}

    def score(
        self,
        folder: Path,
        splits: Splits,
        measured: Mapping[str, Arrays],
        validation: Mapping[str, Any],
        predict: Predict,
    ) -> tuple[dict[str, pd.DataFrame], dict[str, Any]]:
        """Also draws roc.png, precision_recall.png, calibration.png and, with several groups, subgroups.png."""
        test, valid = (
            Predictions(table.name, table.images, table.classes, table.label_array, measured[split][0])
            for split, table in (("test", splits["test"]), ("valid", splits["valid"]))
        )
        tables = evaluate(test, valid, self.config.specificity, self.config.resamples)
        table = prediction_table(test.images, test.classes, test.probabilities, test.labels)
        write_predictions(table, folder, self.config.patients)
        draw(folder, tables, test)
        return tables, {"specificity": self.config.specificity, "validation_data": valid.about()}

    def summary(self, scores: pd.DataFrame) -> dict[str, float]:
        """Means over classes, and each class's AUROC."""
        mean, classes = scores[scores["class"] == MEAN].iloc[0], class_rows(scores)
        named = {name: mean[name].value for name in ("auroc", "average_precision", "max_f1")}
        if len(classes) > 1:
            named |= {f"auroc_{row['class']}": row["auroc"].value for _, row in classes.iterrows()}
        return {name: value for name, value in named.items() if not np.isnan(value)}


_Task = _Segmentation | _Classification


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
    with processes(config.device) as world:
        output, resume = agreed_folder(config.output, _task(config).command, world, config.resume)
        backbone = open_backbone(config.init, config.checkpoint, config.data.side)
        config = replace(config, checkpoint=backbone.checkpoint, output=output, resume=resume)
        task = _task(config)
        splits = task.targets(read_splits(config.data, config.train.on_bad_image))
        subsamples = choose_subsamples(splits["train"].label_array, config.data.fraction, config.seeds)
        with _begun(output, config, splits, world):
            sources = {name: task.source(table, name) for name, table in splits.items()}
            if config.data.preload:
                skips = config.train.on_bad_image == "skip"
                sources = {
                    name: preload(source, len(splits[name]), config.data.workers, skips and name == "train")
                    for name, source in sources.items()
                }
            folders = {seed: output / f"seed_{seed}" for seed in config.seeds}
            for seed, folder in folders.items():
                if not (config.resume and (folder / "metrics.json").is_file()):
                    _run_seed(folder, task, backbone, splits, sources, subsamples[seed], seed, world, show)
            if world.is_main:
                _finish(output, task, splits, folders, str(world.device), show)
    return output


def _task(config: FinetuneSegConfig | FinetuneClsConfig) -> _Task:
    return _Segmentation(config) if isinstance(config, FinetuneSegConfig) else _Classification(config)


@contextmanager
def _begun(output: Path, config: FinetuneConfig, splits: Splits, world: Processes) -> Iterator[None]:
    """A run directory with config.yaml, valid_list.txt and test_list.txt, which is removed again if the input is unusable."""
    if config.resume:
        check_same_config(output, config)
        if world.is_main:
            _write_lists(output, splits)  # the run may have been killed before they were written
        yield
        return
    world.from_main(lambda: begin(output, config))
    with removed_on_error(output):
        world.from_main(lambda: _write_lists(output, splits))
        yield


def _write_lists(output: Path, splits: Splits) -> None:
    for name in ("valid", "test"):
        _write_list(output / f"{name}_list.txt", splits[name])


def _write_list(path: Path, table: ImageTable) -> None:
    write_text(path, "".join(f"{image}\n" for image in table.paths))


def _run_seed(
    folder: Path,
    task: _Task,
    backbone: InitialBackbone,
    splits: Splits,
    sources: Mapping[str, Source],
    subsample: Indices,
    seed: int,
    world: Processes,
    show: bool,
) -> None:
    """Train on the subsample, keep the epoch that validates best, then score the test images."""
    config = task.config
    train, valid, test = splits["train"], splits["valid"], splits["test"]
    torch.manual_seed(seed)
    model, init = task.model(backbone, len(train.classes))
    objective = Objective(model, task.loss, backbone.transform.normalise, config.train.channels_last)
    objective.to(world.device)

    positive = (train.label_array[subsample] == PRESENT).any(axis=0)
    missing = [name for name, has in zip(train.classes, positive, strict=True) if not has]
    if world.is_main:
        if seed == config.seeds[0]:
            print(f"{describe_init(init)}\nclasses: {', '.join(train.classes)}")
        if missing:
            print(
                f"seed {seed}: none of the {len(subsample)} labelled images has {', '.join(missing)}; the model learns that "
                "it is always absent, and its scores stay in the mean"
            )
        _write_list(folder / "train_list.txt", train.at(subsample))

    def examine(split: str) -> tuple[Arrays, dict[str, float]]:
        images = len(splits[split])
        batches = evaluation_loader(sources[split], images, _shard(config, images, world))
        return _examine(task, objective, batches, world)

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

    best, last = folder / "best.safetensors", folder / "last.safetensors"
    images = np.tile(subsample, config.data.passes)
    shard, skips = _shard(config, len(images), world), config.train.on_bad_image == "skip"
    batches = training_loader(sources["train"], images, task.augment(), seed, shard, skips)
    trainer = Trainer(
        replace(config.train, seed=seed), config.optim, world, folder,
        lambda: task.validate(valid, *examine("valid")), save_best, train.paths,
    )  # fmt: skip
    trainer.fit(objective, batches, bool(config.resume) and last.is_file())

    tensors, metadata = read_tensors(best)
    load_strictly(objective.model, tensors, str(best))
    objective.eval()
    measured = {split: examine(split)[0] for split in ("valid", "test")}
    if not world.is_main:
        return
    finetuning_curves(folder / "losses.png", read_log(folder / "log.jsonl"), *task.criterion)

    @torch.inference_mode()
    def predict(index: int) -> tuple[Tensor, Tensor, Tensor]:
        image, target = sources["test"](index)
        return image, target, objective.predict(image[None].to(world.device)).float().sigmoid()[0].cpu()

    validation = json.loads(metadata["card"])["validation"]
    tables, settings = task.score(folder, splits, measured, validation, predict)
    data = {
        "name": test.name,
        "images": len(test),
        "patients": count_patients(patient_index(test.patients)),
        "learnt_from": len(subsample),
        "never_labelled_present": missing,
        **task.card(train),
    }
    settings |= bootstrap_settings(config.resamples, 0, test.patients)
    settings |= {"seed": seed, "validation": validation, "init": init, **count_skipped(folder)}
    write_metrics(folder, task.name, data, tables, settings, str(world.device))
    # The state is large. A resumed run takes a seed's metrics.json, which was written last, for the end of that seed.
    for state in (last, folder / PREVIOUS):
        state.unlink(missing_ok=True)
    if show:
        print(f"\nseed {seed}, test images")
        show_tables(tables)


def _shard(config: FinetuneConfig, images: int, world: Processes) -> Shard:
    """This process's share of the batches; a batch is never larger than a process's share of the images."""
    batch = max(1, min(config.train.batch_size, images // (world.world_size * config.train.accumulate)))
    return Shard(batch, config.data.workers, world.world_size, world.rank, world.device.type == "cuda")


def _examine(
    task: _Task, objective: Objective, batches: Iterable[Batch], world: Processes
) -> tuple[Arrays, dict[str, float]]:
    """Measure the predictions of a split that the processes share.

    Returns:
        In every process: what ``task.measure`` returns, for all images in order; and the mean losses.
    """
    one = torch.ones(1, device=world.device)
    losses, count = torch.zeros(len(task.loss.names), device=world.device), torch.zeros(1, device=world.device)
    rows: list[Arrays] = []
    for batch in (batch.to(world.device) for batch in batches):
        assert batch.labels is not None
        # In full precision even during training: thresholds are for the model as users run it.
        with torch.inference_mode(), torch.autocast(world.device.type, enabled=False):
            logits = objective.predict(batch.images).float()
            losses += task.loss(logits, batch.labels, one)
            count += task.loss.counts(batch.labels).to(world.device)
        rows.append((batch.indices.cpu().numpy(), *task.measure(logits, batch.labels)))
    # A process may have no image, so the lists are joined before the arrays.
    everything = [row for share in world.gather(rows) for row in share]
    position, *columns = (np.concatenate(column) for column in zip(*everything, strict=True))
    order = np.argsort(position)
    mean = (world.sum(losses) / world.sum(count).clamp(min=1)).tolist()
    named = {f"validation_{name}": value for name, value in zip(task.loss.names, mean, strict=True)}
    return tuple(column[order] for column in columns), named


def _finish(output: Path, task: _Task, splits: Splits, folders: Mapping[int, Path], device: str, show: bool) -> None:
    """Write metrics.json and run.html over all seeds; one row per score."""
    config = task.config
    runs = {seed: read_metrics(folder) for seed, folder in folders.items()}
    summaries = {f"seed_{seed}": task.summary(from_records(metrics["scores"])) for seed, metrics in runs.items()}
    scores = pd.DataFrame(summaries).dropna()
    table = pd.DataFrame({"mean": scores.mean(axis=1), "deviation": scores.std(axis=1)}).join(scores)
    table = table.rename_axis("score").reset_index()
    counts = {name: len(images) for name, images in splits.items()}
    data = {"name": splits["test"].name, **task.card(splits["train"]), "fraction": config.data.fraction, **counts}
    settings = {"seeds": list(config.seeds), "init": runs[config.seeds[0]]["init"]}
    page = finish(output, task.name, data, {"scores": table}, settings, device)
    if show:
        print(f"\n{to_text(table)}\n\nweights, predictions, metrics and figures: {output}\nrun page: {page}")
