"""Fine-tuning for classification: trunk, fourth stage, linear head (or a linear probe) -> best on validation -> test, once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from medslip.data.checks import refuse_shared, refuse_without_scores
from medslip.data.finetune_loading import Chosen, classified_training_loader
from medslip.data.fractions import refuse_bad_fraction
from medslip.data.images import read_headers
from medslip.data.labelled import LabelledImages
from medslip.data.loading import Batch, evaluation_loader, preload
from medslip.data.transforms import AugmentationConfig, TrainingTransform, roomy
from medslip.errors import InputError
from medslip.evaluation.classification import score, summarise
from medslip.evaluation.figures import precision_recall_curves, roc_curves
from medslip.evaluation.judgement import judge
from medslip.evaluation.run_folder import judgement_table, read_metrics, score_table, write_metrics, write_predictions
from medslip.labels import PRESENT
from medslip.model.classifier import Classifier, LinearProbe, fourth_stage
from medslip.tasks.finetune import (
    Fit,
    Start,
    StartConfig,
    begun,
    choose_labels,
    conclude,
    finetuning_optim,
    finite_or,
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
from medslip.tasks.zeroshot_cls import (
    ImagesConfig,
    draw_judgement,
    read_images,
    refuse_bad_specificity,
)
from medslip.training.distributed import Device, Processes, processes
from medslip.training.engine import TrainConfig, Validation
from medslip.training.finetuning import CLASSIFICATION_LOSSES, ClassificationObjective
from medslip.training.optim import OptimConfig

TASK = "fine-tuned classification"


@dataclass(frozen=True)
class ClassificationDataConfig:
    """Which images and labels, and how they are divided.

    Attributes:
        train: Images to learn from.
        valid: Images that choose the best epoch; None sets training patients aside.
        test: Images that the result is scored on.
        valid_fraction: Share of the training patients set aside, where there are no validation images.
        split_seed: Decides which patients.
        fraction: Share of the training images that are learnt from, such as 0.01, 0.1 or 1. Chosen by each seed,
            stratified by the labels; a smaller share lies inside a larger one.
        passes: How often these come between two validations; more for a small share.
        side: Side of the model's input in pixels, a multiple of 16.
        preload: Keep all images in memory, decoded once, at an eighth more than the side: for a corpus that fits. Random
            crops are then cut from that, and small ones are magnified.
        workers: Processes that load and augment images.
    """

    train: ImagesConfig = field(default_factory=lambda: ImagesConfig(list=Path("train_val_list.txt")))
    valid: ImagesConfig | None = None
    test: ImagesConfig = field(default_factory=ImagesConfig)
    valid_fraction: float = 0.1
    split_seed: int = 0
    fraction: float = 1.0
    passes: int = 1
    side: int = 224
    preload: bool = False
    workers: int = 2

    def __post_init__(self) -> None:
        refuse_bad_parts(self.valid_fraction, None, self.passes)
        refuse_bad_fraction(self.fraction)
        parts = [part for part in (self.train, self.valid, self.test) if part is not None]
        if len({part.equalise for part in parts}) > 1:
            raise InputError("data: equalise differs between train, valid and test; the images must be treated alike")
        if self.preload and self.train.equalise:
            raise InputError("data.preload: cannot be combined with equalise; leave one of them out")


@dataclass(frozen=True)
class FinetuneClsConfig:
    """Fine-tune for classification.

    Attributes:
        checkpoint: The weights: ours, or the published .pth; None takes the newest phantom run's.
        start: What the trunk starts from.
        data: What to learn from and to test on.
        linear_probe: Freeze the trunk and learn one linear layer on its averaged features, without a fourth stage.
        fourth_stage: Torchvision's name of weights, or a file, for the fourth stage; None: as the trunk with start.weights
            imagenet, else from scratch.
        augmentation: How training images are varied.
        train: The loop.
        optim: The optimiser; the published recipe is a constant learning rate of 1e-5.
        seeds: One run each: first weights, order, augmentation, and which labels a share below 1 chooses.
        specificity: Operating points, chosen on the validation images: the highest sensitivity at this specificity, 0..1.
        resamples: Bootstrap resamples of patients.
        resume: Go on with the run in the output folder, as if it had never stopped.
        device: Where to compute.
        output: The run folder; None takes runs/finetune_cls/DATE-TIME.
    """

    checkpoint: Path | None = None
    start: StartConfig = field(default_factory=StartConfig)
    data: ClassificationDataConfig = field(default_factory=ClassificationDataConfig)
    linear_probe: bool = False
    fourth_stage: str | None = None
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    optim: OptimConfig = field(default_factory=finetuning_optim)
    seeds: tuple[int, ...] = (0,)
    specificity: float = 0.9
    resamples: int = 1000
    resume: bool = False
    device: Device = "auto"
    output: Path | None = None

    def __post_init__(self) -> None:
        refuse_bad_seeds(self.seeds, self.train)
        refuse_less(self, resamples=0)
        refuse_bad_specificity(self.specificity)
        if self.linear_probe and self.fourth_stage:
            raise InputError("fourth_stage: a linear probe has none; leave one of them out")


@dataclass(frozen=True)
class _Part:
    """A split, and what of it is in memory.

    Attributes:
        data: Its images.
        labels: n x C, int8.
        equalise: Whether grey values are spread first.
        preloaded: Images at the side that they are used at; None reads the files.
    """

    data: LabelledImages
    labels: npt.NDArray[np.int8]
    equalise: bool
    preloaded: Tensor | None


def run(config: FinetuneClsConfig, show: bool = True) -> Path:
    """Fine-tune once for each seed; returns the run folder.

    It then holds config.yaml, metrics.json (mean and deviation over seeds), report.html, valid_list.txt and test_list.txt; and
    for each seed a folder seed_N with train_list.txt, best.safetensors, log.jsonl, tensorboard/, losses.png, metrics.json,
    predictions.csv, roc.png, precision_recall.png, calibration.png and, where sex, age or view are known, subgroups.png, of
    the test images. The validation images, which chose the epoch, choose the operating points and the recalibration too. In a
    seed's metrics.json, ``data.never_labelled_present`` lists the classes that no labelled image had.

    Args:
        config: What to learn from what.
        show: Whether to print the tables.

    Raises:
        InputError: The checkpoint, an image, the labels or the config cannot be used.
    """
    with processes(config.device) as world:
        output = agreed_folder(config.output, "finetune_cls", world, config.resume)
        start, checkpoint = open_start(config.start, config.checkpoint, config.data.side)
        splits = _read(config.data)
        labels = splits["train"].labels
        assert labels is not None
        strata = [" ".join(map(str, row)) for row in labels.tolist()]
        chosen = choose_labels(strata, (labels == PRESENT).any(axis=1), config.data.fraction, config.seeds)
        config = replace(config, checkpoint=checkpoint, output=output)
        with begun(output, config, splits, world):
            runs, report = _run_seeds(config, start, splits, chosen, world, show)
            about = {
                "name": splits["test"].name,
                "fraction": config.data.fraction,
                "linear_probe": config.linear_probe,
            }
            conclude(output, TASK, about, splits, runs, report, world, show)
    return output


def _run_seeds(
    config: FinetuneClsConfig,
    start: Start,
    splits: dict[str, LabelledImages],
    chosen: dict[int, Chosen],
    world: Processes,
    show: bool,
) -> tuple[dict[int, dict[str, float]], dict[str, Any]]:
    """Seed -> test scores, in the main process; and what was loaded."""
    train, valid = (_part(splits[name], name, config) for name in ("train", "valid"))
    runs: dict[int, dict[str, float]] = {}
    report: dict[str, Any] = {}
    for seed in config.seeds:
        classification = _Classification(config, seed, start, train, valid, world)
        report = classification.report
        if world.is_main and not runs:
            print(show_start(report))
        classification.run(chosen[seed], splits["test"], show)
        if world.is_main:
            runs[seed] = _values(read_metrics(seed_folder(Path(str(config.output)), seed)))
    return runs, report


def _unseen(train: _Part, chosen: Chosen) -> list[str]:
    """Classes that no image of a share of the labels has."""
    seen = (train.labels[chosen] == PRESENT).any(axis=0)
    return [name for name, there in zip(train.data.classes, seen, strict=True) if not there]


def _values(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The scores of a seed, from its metrics.json."""
    macro, classes = metrics["macro"]["scores"], metrics["classes"]
    named = {name: macro[name]["value"] for name in ("auroc", "average_precision", "max_f1")}
    named |= {f"auroc_{entry['name']}": entry["scores"]["auroc"]["value"] for entry in classes if len(classes) > 1}
    return {name: value for name, value in named.items() if value is not None}


def _read(config: ClassificationDataConfig) -> dict[str, LabelledImages]:
    """Train, valid and test, without a patient in two of them."""
    train, test = read_images(config.train), read_images(config.test)
    if config.valid is None:
        parts = split_patients(
            train.patients,
            train.paths,
            config.split_seed,
            config.valid_fraction,
            0.0,
            train.name,
        )
        train, valid = _take(train, parts["train"]), _take(train, parts["valid"])
    else:
        valid = read_images(config.valid)
    splits = {"train": train, "valid": valid, "test": test}
    for name, split in splits.items():
        if split.labels is None:
            raise InputError(f"{split.name}: the images to {name} have no labels")
        if split.classes != train.classes:
            raise InputError(f"{split.name}: has other classes to {name} than to train ({', '.join(split.classes)})")
    refuse_shared(splits)
    for split in splits.values():
        refuse_without_scores(split)
        read_headers(split.paths)  # a file that is no image is named now, not after the training
    return splits


def _take(images: LabelledImages, indices: npt.NDArray[np.intp]) -> LabelledImages:
    def some(values: list[Any]) -> list[Any]:
        return [values[index] for index in indices]

    return replace(
        images,
        paths=some(images.paths),
        labels=None if images.labels is None else images.labels[indices],
        patients=some(images.patients),
        views=some(images.views),
        sexes=some(images.sexes),
        ages=images.ages[indices],
    )


def _part(data: LabelledImages, split: str, config: FinetuneClsConfig) -> _Part:
    source = config.data.test if split == "test" else (split == "valid" and config.data.valid) or config.data.train
    side = config.data.side
    if split == "train":
        side = roomy(side)
    assert data.labels is not None
    kept = preload(data.paths, side, config.data.workers) if config.data.preload else None
    return _Part(data, data.labels, source.equalise, kept)


class _Classification:
    """One seed's fine-tuning.

    Args:
        config: Everything.
        seed: This run's.
        start: First weights of the trunk.
        train: Images to learn from.
        valid: Images to choose the epoch on.
        world: The processes that share them.

    Attributes:
        report: What was loaded, and what stayed random.
    """

    def __init__(
        self, config: FinetuneClsConfig, seed: int, start: Start, train: _Part, valid: _Part, world: Processes
    ) -> None:
        self._config, self._seed, self._world, self._start = config, seed, world, start
        self._train, self._valid = train, valid
        self._fit = Fit(
            replace(config.train, seed=seed),
            config.optim,
            world,
            seed_folder(Path(str(config.output)), seed),
            "validation_auroc",
            "Mean AUROC",
            config.resume,
        )
        torch.manual_seed(seed)
        model, stage = _model(config, start, len(train.data.classes))
        self.report = replace(start, resnet=stage).report(model)
        self._objective = ClassificationObjective(model, start.transform.normalise, config.train.channels_last)
        self._objective.to(world.device)
        self._valid_loader = self._loader(valid)

    def run(self, chosen: Chosen, test: LabelledImages, show: bool) -> None:
        """Learn from the chosen images, choose the epoch on validation, then score the test images."""
        if self._fit.is_scored:
            return
        data, config, folder = self._train.data, self._config, self._fit.folder
        repeated = np.tile(chosen, config.data.passes)
        unseen = _unseen(self._train, chosen)
        if self._world.is_main:
            if unseen:
                print(
                    f"seed {self._seed}: none of the {len(chosen)} labelled images has {', '.join(unseen)}; this is learnt "
                    "as never there, and stays in the mean"
                )
            write_names(folder / "train_list.txt", [data.paths[index] for index in chosen])
        batches = classified_training_loader(
            data,
            repeated,
            TrainingTransform(config.data.side, config.augmentation),
            self._seed,
            self._fit.shard(len(repeated), config.data.workers),
            self._train.preloaded,
            self._train.equalise,
        )
        card = {
            "task": TASK,
            "classes": data.classes,
            "linear_probe": config.linear_probe,
            "transform": self._start.transform.to_dict(),
            "equalise": config.data.train.equalise,
            "start": self.report,
            "config": config_to_dict(config),
        }
        best = self._fit.run(self._objective, batches, CLASSIFICATION_LOSSES, self._validate, card)
        part = _part(test, "test", config)
        probabilities, _ = self._examine(part, self._loader(part))
        validated, _ = self._examine(self._valid, self._valid_loader)
        if not self._world.is_main:
            return
        scores = score(data.classes, part.labels, probabilities, test.patients, config.resamples)
        judgement = judge(test, probabilities, (self._valid.data, validated), config.specificity, config.resamples)
        write_predictions(folder, test.paths, test.patients, data.classes, probabilities, part.labels, test.attributes)
        roc_curves(folder / "roc.png", scores, part.labels, probabilities)
        precision_recall_curves(folder / "precision_recall.png", scores, part.labels, probabilities)
        draw_judgement(folder, judgement, scores)
        about = {"name": test.name, "part": "test", "learnt_from": len(chosen), "never_labelled_present": unseen}
        extra = {"seed": self._seed, "validation": best, "start": self.report}
        # Last: a run that is resumed takes it for the end of this seed.
        write_metrics(folder, TASK, about, scores, device=str(self._world.device), extra=extra, judgement=judgement)
        self._fit.finish()
        if show:
            print(f"seed {self._seed}, test images\n{score_table(scores)}\n\n{judgement_table(judgement)}\n")

    def _loader(self, part: _Part) -> Iterable[Batch]:
        shard = self._fit.shard(len(part.data), self._config.data.workers)
        return evaluation_loader(
            part.data.paths,
            self._start.transform,
            shard.batch,
            shard.workers,
            world_size=shard.world_size,
            rank=shard.rank,
            preloaded=part.preloaded,
            pin_memory=shard.pin_memory,
            equalise=part.equalise,
        )

    def _validate(self) -> Validation:
        part = self._valid
        probabilities, loss = self._examine(part, self._valid_loader)
        scores = score(part.data.classes, part.labels, probabilities, part.data.patients, resamples=0)
        auroc = summarise(scores).auroc
        values = {"validation_total": loss, "validation_auroc": finite_or(auroc, float("nan"))}
        return Validation(finite_or(auroc, -loss), values)

    def _examine(self, part: _Part, loader: Iterable[Batch]) -> tuple[npt.NDArray[np.float32], float]:
        """Probabilities of every image, in order, and the mean loss."""
        device = self._world.device
        indices, answers = [], []
        for batch in (batch.to(device) for batch in loader):
            # In full precision, also within training: operating points are for the model as others open it.
            with torch.inference_mode(), torch.autocast(device.type, enabled=False):
                answers.append(self._objective.answer(batch.images).float().cpu().numpy())
            indices.append(batch.indices.cpu().numpy())
        (logits,) = in_order(self._world, indices, answers)
        labels = torch.from_numpy(part.labels)
        loss = self._objective.loss(torch.from_numpy(logits), labels, (labels >= 0).sum())
        probabilities: npt.NDArray[np.float32] = torch.from_numpy(logits).sigmoid().numpy()
        return probabilities, float(loss)


def _model(config: FinetuneClsConfig, start: Start, classes: int) -> tuple[nn.Module, str | None]:
    """The model, and the weights of its fourth stage (None: random, or there is none)."""
    if config.linear_probe:
        return LinearProbe(start.trunk(), classes), None
    weights = config.fourth_stage or start.resnet
    return Classifier(start.trunk(), fourth_stage(start.name, weights), classes), weights


def phantom_config(corpus: Path, checkpoint: Path | None, output: Path | None) -> FinetuneClsConfig:
    """A short fine-tuning on phantoms, for two cores: on those that the pre-training did not learn from."""
    table = corpus / "findings.csv"
    if not table.is_file():
        raise InputError(
            f"{table}: no phantom corpus; make one with: python scripts/make_phantom.py (or: medslip make_phantom)"
        )
    return FinetuneClsConfig(
        checkpoint=checkpoint,
        data=ClassificationDataConfig(
            train=ImagesConfig(kind="table", path=table, split="valid"),
            test=ImagesConfig(kind="table", path=table, split="test"),
            valid_fraction=0.25,
            side=128,
            preload=True,
            workers=0,
        ),
        augmentation=AugmentationConfig(scale_min=0.8, operations=0),
        train=TrainConfig(epochs=4, batch_size=16),
        optim=OptimConfig(learning_rate=5e-4, warmup_steps=10),
        output=output,
    )


def embedded_default() -> FinetuneClsConfig:
    """What the script runs without arguments: the newest phantom run's trunk, on phantoms it did not learn from.

    Raises:
        InputError: There is no phantom run yet.
    """
    newest_phantom_checkpoint()  # where there is none, nothing else need be said
    return phantom_config(PHANTOM, None, None)


COMMAND = (FinetuneClsConfig, run)
