"""Fine-tuning for segmentation: trunk -> U-Net -> Dice and cross-entropy -> best on validation -> test, once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from medslip.data.finetune_loading import (
    Chosen,
    Pairs,
    masked_evaluation_loader,
    masked_training_loader,
    preload_pairs,
)
from medslip.data.fractions import refuse_bad_fraction
from medslip.data.joint_transforms import JointAugmentationConfig, JointTransform
from medslip.data.loading import Batch
from medslip.data.masked import MaskedImages, read_phantom_masks
from medslip.data.siim_acr import read_masks
from medslip.errors import InputError
from medslip.evaluation.estimates import estimate, subgroup_entries
from medslip.evaluation.figures import Tile, overview
from medslip.evaluation.run_folder import (
    METRICS_FORMAT,
    METRICS_VERSION,
    attribute_columns,
    environment,
    read_metrics,
    subgroup_lines,
    write_json,
)
from medslip.evaluation.segmentation import (
    THRESHOLDS,
    Criterion,
    PixelCounts,
    SegmentationScores,
    best_threshold,
    count_pixels,
    score_segmentation,
)
from medslip.evaluation.subgroup_means import subgroup_means
from medslip.evaluation.subgroups import AttributeScores, groups_of
from medslip.files import written_whole
from medslip.model.segmenter import BRIDGE, Segmenter
from medslip.tasks.finetune import (
    Fit,
    Start,
    StartConfig,
    begun,
    choose_labels,
    conclude,
    finetuning_optim,
    in_order,
    open_start,
    refuse_bad_parts,
    refuse_bad_seeds,
    seed_folder,
    show_start,
    split_patients,
    write_names,
)
from medslip.tasks.run_start import PHANTOM, agreed_folder, config_to_dict, refuse_less
from medslip.tasks.weights import newest_phantom_checkpoint
from medslip.training.distributed import Device, Processes, processes
from medslip.training.engine import TrainConfig, Validation
from medslip.training.finetuning import SEGMENTATION_LOSSES, SegmentationObjective
from medslip.training.optim import OptimConfig

TASK = "segmentation"

_PREDICTED = 0.6
"""Colour of predicted pixels, on the scale of heat maps."""


@dataclass(frozen=True)
class SegmentationDataConfig:
    """Which images and masks, and how they are divided.

    Attributes:
        kind: "siim_acr": SIIM-ACR Pneumothorax, the publisher's folder or a CSV of pictures with masks; "phantom": the
            phantoms of a corpus's validation and test studies, which pre-training did not learn from.
        path: The folder, or the CSV.
        images: "siim_acr": the folder of the images, where it is not the usual one.
        masks: "siim_acr": the folder of mask pictures; None takes a folder "masks" beside the CSV.
        pathology: "phantom": the finding to segment.
        valid_fraction: Share of the patients that choose the best epoch and the threshold.
        test_fraction: Share of the patients that the result is scored on.
        split_seed: Decides which patients.
        fraction: Share of the training images whose masks are learnt from, such as 0.01, 0.1 or 1. Chosen by each seed,
            stratified by whether there is a mask; a smaller share lies inside a larger one.
        passes: How often these come between two validations; more for a small share.
        side: Side of the model's input and output in pixels, a multiple of 16.
        preload: Keep all images and masks in memory, decoded once: for a corpus that fits.
        workers: Processes that load and augment images.
    """

    kind: Literal["siim_acr", "phantom"] = "siim_acr"
    path: Path = Path("data_file/siim_acr")
    images: Path | None = None
    masks: Path | None = None
    pathology: str = "pneumothorax"
    valid_fraction: float = 0.15
    test_fraction: float = 0.15
    split_seed: int = 0
    fraction: float = 1.0
    passes: int = 1
    side: int = 224
    preload: bool = False
    workers: int = 2

    def __post_init__(self) -> None:
        refuse_bad_parts(self.valid_fraction, self.test_fraction, self.passes)
        refuse_bad_fraction(self.fraction)


@dataclass(frozen=True)
class FinetuneSegConfig:
    """Fine-tune for segmentation.

    Attributes:
        checkpoint: The weights: ours, or the published .pth; None takes the newest phantom run's.
        start: What the trunk starts from.
        data: What to learn from and to test on.
        bridge: Channels of the U-Net's bridge, a multiple of 16; the up-blocks have a half to a sixteenth of it.
        choose_by: The validation score that chooses epoch and threshold: "dice", mean Dice over all images, as published; or
            "dice_balanced", where images with and without a mask weigh alike, for a finding so rare that predicting nothing
            has a high Dice.
        augmentation: How training images and masks are varied.
        train: The loop.
        optim: The optimiser; the published recipe is a constant learning rate of 1e-5.
        seeds: One run each: first weights, order, augmentation, and which labels a share below 1 chooses.
        resamples: Bootstrap resamples of patients.
        resume: Go on with the run in the output folder, as if it had never stopped.
        device: Where to compute.
        output: The run folder; None takes runs/finetune_seg/DATE-TIME.
    """

    checkpoint: Path | None = None
    start: StartConfig = field(default_factory=StartConfig)
    data: SegmentationDataConfig = field(default_factory=SegmentationDataConfig)
    bridge: int = BRIDGE
    choose_by: Criterion = "dice"
    augmentation: JointAugmentationConfig = field(default_factory=JointAugmentationConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    optim: OptimConfig = field(default_factory=finetuning_optim)
    seeds: tuple[int, ...] = (0,)
    resamples: int = 1000
    resume: bool = False
    device: Device = "auto"
    output: Path | None = None

    def __post_init__(self) -> None:
        refuse_bad_seeds(self.seeds, self.train)
        refuse_less(self, resamples=0)
        if self.bridge < 16 or self.bridge % 16:
            raise InputError(f"bridge: {self.bridge} is no multiple of 16")


@dataclass(frozen=True)
class _Part:
    """A split, and what of it is in memory.

    Attributes:
        data: Its images.
        pairs: Images and masks at the side that they are used at; None reads the files.
    """

    data: MaskedImages
    pairs: Pairs | None


def run(config: FinetuneSegConfig, show: bool = True) -> Path:
    """Fine-tune once for each seed; returns the run folder.

    It then holds config.yaml, metrics.json (mean and deviation over seeds), report.html, valid_list.txt and test_list.txt; and
    for each seed a folder seed_N with train_list.txt, best.safetensors, log.jsonl, tensorboard/, losses.png, metrics.json,
    predictions.csv and overlays.png, of the test images.

    Args:
        config: What to learn from what.
        show: Whether to print the table.

    Raises:
        InputError: The checkpoint, an image, a mask or the config cannot be used.
    """
    with processes(config.device) as world:
        output = agreed_folder(config.output, "finetune_seg", world, config.resume)
        start, checkpoint = open_start(config.start, config.checkpoint, config.data.side)
        data = _read(config.data)
        splits = _split(data, config)
        marked = splits["train"].marked
        strata = ["marked" if there else "empty" for there in marked]
        chosen = choose_labels(strata, marked, config.data.fraction, config.seeds)
        config = replace(config, checkpoint=checkpoint, output=output)
        with begun(output, config, splits, world):
            runs, report = _run_seeds(config, start, splits, chosen, world, show)
            about = {"name": data.name, "finding": data.finding, "fraction": config.data.fraction}
            conclude(output, TASK, about, splits, runs, report, world, show)
    return output


def _run_seeds(
    config: FinetuneSegConfig,
    start: Start,
    splits: dict[str, MaskedImages],
    chosen: dict[int, Chosen],
    world: Processes,
    show: bool,
) -> tuple[dict[int, dict[str, float]], dict[str, Any]]:
    """Seed -> test scores, in the main process; and what was loaded."""
    train, valid = (_part(splits[name], name, config) for name in ("train", "valid"))
    runs: dict[int, dict[str, float]] = {}
    report: dict[str, Any] = {}
    for seed in config.seeds:
        segmenter = _Segmentation(config, seed, start, train, valid, world)
        report = segmenter.report
        if world.is_main and not runs:
            print(show_start(report))
        segmenter.run(chosen[seed], splits["test"], show)
        if not world.is_main:
            continue
        runs[seed] = _values(read_metrics(seed_folder(Path(str(config.output)), seed)))
        if not runs[seed]["dice_marked"]:
            print(
                f"seed {seed}: the best epoch finds no marked pixel of any test image; learn for longer (--train.epochs, "
                "--data.passes), from more labels, or at another --optim.learning_rate"
            )
    return runs, report


def _values(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The scores of a seed, from its metrics.json."""
    data, scores = metrics["data"], metrics["scores"]
    nothing = 1 - data["marked"] / data["images"]
    return {name: entry["value"] for name, entry in scores.items()} | {"dice_of_predicting_nothing": nothing}


def _split(data: MaskedImages, config: FinetuneSegConfig) -> dict[str, MaskedImages]:
    """Train, valid and test, each with something to find."""
    parts = split_patients(
        data.patients,
        data.paths,
        config.data.split_seed,
        config.data.valid_fraction,
        config.data.test_fraction,
        data.name,
    )
    splits = {name: data.take(indices) for name, indices in parts.items()}
    for name, split in splits.items():
        if not split.marked.any() or (config.choose_by == "dice_balanced" and split.marked.all()):
            which = "every one" if split.marked.any() else "none"
            raise InputError(
                f"{data.name}: {which} of the {len(split)} images to {name} has a mask of {data.finding}; change "
                "the fractions, or take more images"
            )
    return splits


def _read(config: SegmentationDataConfig) -> MaskedImages:
    if config.kind == "phantom":
        return read_phantom_masks(config.path, config.pathology)
    return read_masks(config.path, config.images, config.masks)


def _part(data: MaskedImages, split: str, config: FinetuneSegConfig) -> _Part:
    side = config.data.side
    if split == "train":
        side = JointTransform(side, config.augmentation).source_side
    return _Part(data, preload_pairs(data, side, config.data.workers) if config.data.preload else None)


class _Segmentation:
    """One seed's fine-tuning.

    Args:
        config: Everything.
        seed: This run's.
        start: First weights of the trunk.
        train: Images to learn from.
        valid: Images to choose the epoch and the threshold on.
        world: The processes that share them.

    Attributes:
        report: What was loaded, and what stayed random.
    """

    def __init__(
        self, config: FinetuneSegConfig, seed: int, start: Start, train: _Part, valid: _Part, world: Processes
    ) -> None:
        self._config, self._seed, self._world = config, seed, world
        self._train, self._transform = train, start.transform
        self._fit = Fit(
            replace(config.train, seed=seed),
            config.optim,
            world,
            seed_folder(Path(str(config.output)), seed),
            f"validation_{config.choose_by}",
            "Mean Dice" if config.choose_by == "dice" else "Balanced Dice",
            config.resume,
        )
        torch.manual_seed(seed)
        self._model = Segmenter(start.trunk(), config.bridge)
        self.report = start.report(self._model)
        self._objective = SegmentationObjective(self._model, start.transform.normalise, config.train.channels_last)
        self._objective.to(world.device)
        self._valid, self._valid_patients = self._loader(valid), valid.data.patients

    def run(self, chosen: Chosen, test: MaskedImages, show: bool) -> None:
        """Learn from the chosen images, choose epoch and threshold on validation, then score the test images."""
        if self._fit.is_scored:
            return
        data, config, folder = self._train.data, self._config, self._fit.folder
        repeated = np.tile(chosen, config.data.passes)
        if self._world.is_main:
            write_names(folder / "train_list.txt", [data.paths[index] for index in chosen])
        batches = masked_training_loader(
            data,
            repeated,
            JointTransform(config.data.side, config.augmentation),
            self._seed,
            self._fit.shard(len(repeated), config.data.workers),
            self._train.pairs,
        )
        card = {
            "task": TASK,
            "finding": data.finding,
            "bridge": config.bridge,
            "transform": self._transform.to_dict(),
            "start": self.report,
            "config": config_to_dict(config),
        }
        best = self._fit.run(self._objective, batches, SEGMENTATION_LOSSES, self._validate, card)
        counts, _ = self._examine(self._loader(_part(test, "test", config)))
        if not self._world.is_main:
            return
        scores = score_segmentation(counts, best["validation_threshold"], test.patients, config.resamples, seed=0)
        parts = subgroup_means(
            {"dice": scores.dice, "dice_marked": np.where(counts.marked > 0, scores.dice, np.nan)},
            np.arange(len(test)),
            test.patients,
            groups_of(test.attributes),
            config.resamples,
            seed=0,
        )
        self._write(test, scores, parts, counts, best, len(chosen))
        self._fit.finish()
        if show:
            lines = (*subgroup_lines(parts, "dice", "Dice"), *subgroup_lines(parts, "dice_marked", "Dice where marked"))
            print("\n".join(f"seed {self._seed}: {line}" for line in lines))

    def _loader(self, part: _Part) -> Iterable[Batch]:
        shard = self._fit.shard(len(part.data), self._config.data.workers)
        return masked_evaluation_loader(part.data, self._config.data.side, shard, part.pairs)

    def _validate(self) -> Validation:
        counts, losses = self._examine(self._valid)
        threshold, score = best_threshold(counts, self._config.choose_by)
        scores = score_segmentation(counts, threshold, self._valid_patients, resamples=0).values
        values = {f"validation_{name}": loss for name, loss in zip(SEGMENTATION_LOSSES, losses, strict=True)}
        values |= {f"validation_{name}": scores[name] for name in get_args(Criterion) if name in scores}
        return Validation(score, values | {"validation_threshold": threshold})

    def _examine(self, loader: Iterable[Batch]) -> tuple[PixelCounts, list[float]]:
        """Pixel counts of every image, in order, and the mean losses."""
        device = self._world.device
        one = torch.ones((), device=device)
        summed = torch.zeros(len(SEGMENTATION_LOSSES), device=device)
        indices, counts = [], []
        for batch in (batch.to(device) for batch in loader):
            assert batch.labels is not None
            # In full precision, also within training: the threshold is for the model as others open it.
            with torch.inference_mode(), torch.autocast(device.type, enabled=False):
                logits = self._objective.answer(batch.images).float()
                summed += self._objective.loss(logits, batch.labels, one)
            indices.append(batch.indices.cpu().numpy())
            counts.append(count_pixels(logits.sigmoid()[:, 0].cpu().numpy(), batch.labels[:, 0].cpu().numpy() > 0))
        marked, predicted, overlap = in_order(
            self._world,
            indices,
            [part.marked for part in counts],
            [part.predicted for part in counts],
            [part.overlap for part in counts],
        )
        losses = (self._world.sum(summed) / len(marked)).tolist()
        return PixelCounts(marked, predicted, overlap), losses

    def _write(
        self,
        test: MaskedImages,
        scores: SegmentationScores,
        parts: Mapping[str, AttributeScores],
        counts: PixelCounts,
        best: dict[str, Any],
        learnt: int,
    ) -> None:
        """metrics.json, whose shape is in docs/metrics.md, predictions.csv and overlays.png of this seed."""
        folder, column = self._fit.folder, THRESHOLDS.index(scores.threshold)
        entries = {name: estimate(value, scores.intervals.get(name)) for name, value in scores.values.items()}
        metrics = {
            "format": METRICS_FORMAT,
            "version": METRICS_VERSION,
            "task": TASK,
            "data": {
                "name": test.name,
                "finding": test.finding,
                "part": "test",
                "images": scores.images,
                "patients": scores.patients,
                "marked": scores.marked,
                "learnt_from": learnt,
            },
            "seed": self._seed,
            "threshold": scores.threshold,
            "scores": entries,
            "bootstrap": {"resamples": scores.resamples, "seed": scores.seed, "unit": "patient", "level": 0.95},
            "subgroups": subgroup_entries(parts),
            "validation": best,
            "start": self.report,
            "environment": environment(str(self._world.device)),
        }
        table = pd.DataFrame(
            {
                "image": [str(path) for path in test.paths],
                "patient": test.patients,
                "marked_pixels": counts.marked,
                "predicted_pixels": counts.predicted[:, column],
                "dice": scores.dice,
                "iou": scores.iou,
                **attribute_columns(test.attributes),
            }
        )
        with written_whole(folder / "predictions.csv") as partial:
            table.to_csv(partial, index=False)
        chosen = _telling(counts.marked > 0, counts.predicted[:, column], scores.dice)
        tiles = self._tiles(test, [index for _, index in chosen], scores.threshold)
        titled = [
            replace(tile, title=f"{what}\nDice {scores.dice[index]:.2f}")
            for (what, index), tile in zip(chosen, tiles, strict=True)
        ]
        overview(folder / "overlays.png", titled)
        # Last: a run that is resumed takes it for the end of this seed.
        write_json(folder / "metrics.json", metrics)

    def _tiles(self, test: MaskedImages, indices: list[int], threshold: float) -> list[Tile]:
        """Image, the mask's outline in white, what is predicted in colour."""
        part = _Part(test.take(np.array(indices)), None)
        shard = replace(self._fit.shard(len(indices), 0), world_size=1, rank=0)
        tiles = []
        for batch in masked_evaluation_loader(part.data, self._config.data.side, shard):
            assert batch.labels is not None
            with torch.inference_mode():
                logits = self._objective.answer(batch.images.to(self._world.device)).float()
            probabilities = logits.sigmoid()[:, 0].cpu().numpy()
            for image, mask, probability in zip(batch.images[:, 0], batch.labels[:, 0], probabilities, strict=True):
                grey = image.numpy().copy()
                grey[_outline(mask.numpy() > 0)] = 255
                tiles.append(Tile(grey, heat_map=_PREDICTED * (probability >= threshold)))
        return tiles


def _outline(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The mask's pixels that touch something outside it."""
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner


def _telling(
    marked: npt.NDArray[np.bool_], predicted: npt.NDArray[np.int64], dice: npt.NDArray[np.float64]
) -> list[tuple[str, int]]:
    """Four each of the best, median and worst marked images, and the largest false alarms among the others."""
    order = np.flatnonzero(marked)[np.argsort(-dice[marked], kind="stable")]
    middle = max(0, len(order) // 2 - 2)
    # Of few images, each is shown once.
    lots = {"best": order[:4], "median": order[4:-4][max(0, middle - 4) :][:4], "worst": order[4:][-4:]}
    alarms = np.flatnonzero(~marked & (predicted > 0))
    lots["false alarm"] = alarms[np.argsort(-predicted[alarms], kind="stable")][:4]
    return [(what, int(index)) for what, indices in lots.items() for index in indices]


def phantom_config(corpus: Path, checkpoint: Path | None, output: Path | None) -> FinetuneSegConfig:
    """A short fine-tuning for two cores, on phantoms that the pre-training did not learn from.

    The heart is large: of the few masks that there are, smaller findings are not learnt in a minute.
    """
    return FinetuneSegConfig(
        checkpoint=checkpoint,
        data=SegmentationDataConfig(
            kind="phantom",
            path=corpus,
            pathology="cardiomegaly",
            valid_fraction=0.2,
            test_fraction=0.4,
            side=128,
            preload=True,
            workers=0,
        ),
        bridge=256,
        choose_by="dice_balanced",
        train=TrainConfig(epochs=8, batch_size=16),
        optim=OptimConfig(learning_rate=5e-4, warmup_steps=10),
        output=output,
    )


def embedded_default() -> FinetuneSegConfig:
    """What the script runs without arguments: the newest phantom run's trunk, on the phantoms that have masks.

    Raises:
        InputError: There is no phantom run yet.
    """
    newest_phantom_checkpoint()  # where there is none, nothing else need be said
    return phantom_config(PHANTOM, None, None)


COMMAND = (FinetuneSegConfig, run)
