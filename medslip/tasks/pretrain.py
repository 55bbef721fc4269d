"""Pre-training: list and label store -> batches -> MeDSLIP -> losses -> a checkpoint for zero-shot prediction."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from medslip.checkpoints import Card, save_checkpoint
from medslip.config import config_to_dict
from medslip.data.augmentation import AugmentationConfig, LabelAugment, TrainingTransform
from medslip.data.loading import (
    Batch,
    ImageSource,
    Shard,
    Source,
    StudyLabels,
    evaluation_loader,
    preload,
    training_loader,
)
from medslip.data.prepared import ImageList, read_image_list
from medslip.data.preprocessing import Preprocessing, roomy
from medslip.data.reading import check_files
from medslip.errors import InputError
from medslip.evaluation.bootstrap import count_patients, patient_index
from medslip.evaluation.classification import mean_auroc, score
from medslip.evaluation.figures import loss_curves
from medslip.evaluation.run_page import write_page
from medslip.files import fingerprint
from medslip.labels import LabelStore
from medslip.losses import existence_of
from medslip.model.medslip import MeDSLIP, ModelConfig
from medslip.model.text_encoder import TextConfig, TextEncoder
from medslip.run_dir import (
    Resume,
    agreed_folder,
    begin,
    bootstrap_settings,
    check_unused,
    discard_beginning,
    write_metrics,
)
from medslip.training.criterion import Criterion, LossConfig, loss_terms
from medslip.training.distributed import Device, Processes, processes
from medslip.training.engine import Progress, TrainConfig, Trainer, Validation, count_skipped, read_log
from medslip.training.objective import Objective
from medslip.training.optim import OptimConfig
from medslip.vocabulary import FINDINGS, PATHOLOGIES, load_prompts


@dataclass(frozen=True)
class PretrainDataConfig:
    """The data set, as written by prepare_data.py.

    Attributes:
        train: Training list.
        valid: Validation list; its scores choose the best checkpoint.
        labels: Label store of both lists.
        side: Side of the model's input in pixels, a multiple of 16.
        preload: Decode all images once, to an eighth more than the side, and keep them in memory.
        workers: Processes that load and augment images.
    """

    train: Path
    valid: Path
    labels: Path
    side: int = 224
    preload: bool = False
    workers: int = 2


@dataclass(frozen=True)
class PromptConfig:
    """Prompt files; null takes the packaged prompts.

    Attributes:
        pathology: JSON file of 75 explanations, such as the authors' "observation explanation.json".
        anatomy: JSON file of 51 location texts.
    """

    pathology: Path | None = None
    anatomy: Path | None = None


@dataclass(frozen=True)
class PretrainConfig:
    """Pre-train MeDSLIP on a prepared data set.

    Attributes:
        data: The data set.
        model: Architecture and initialisation.
        text: The frozen text encoder.
        prompts: Prompt files.
        loss: The losses.
        augmentation: Augmentation of training images.
        train: The training loop.
        optim: The optimiser.
        output: The run directory; {time} in it stands for the date and time.
        resume: true continues the run in the output directory, exactly as if it had not stopped. auto does so where there
            is one, and else starts it, so that the same command is right after every interruption. SIGTERM, SIGUSR1 or SIGHUP
            during training saves the state after the present step, or the present validation, and exits with status 75.
        device: Where to compute.
    """

    data: PretrainDataConfig
    model: ModelConfig = field(default_factory=ModelConfig)
    text: TextConfig = field(default_factory=TextConfig)
    prompts: PromptConfig = field(default_factory=PromptConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    output: Path = Path("runs/pretrain")
    resume: Resume = False
    device: Device = "auto"


def run(config: PretrainConfig) -> Path:
    """Pre-train; returns the best checkpoint.

    The run directory then holds config.yaml, best.safetensors (and .json), last.safetensors to resume from, log.jsonl,
    tensorboard/, losses.png, metrics.json (validation scores of the best checkpoint) and run.html.

    Raises:
        InputError: Something in the data or the config cannot be used.
    """
    train, valid = read_image_list(config.data.train), read_image_list(config.data.valid)
    store = LabelStore(config.data.labels)
    labels = StudyLabels(train, store), StudyLabels(valid, store)
    skips = config.train.on_bad_image == "skip"
    for table in (valid,) if skips else (train, valid):
        advice = "get the image, or give a copy of the list without it"
        check_files(table.images["path"], table.images["line"], table.source, advice=advice)
    if not config.resume:
        check_unused(config.output)
    prompts = load_prompts(config.prompts.pathology, config.prompts.anatomy)
    side, preprocessing = config.data.side, Preprocessing(config.data.side)
    encoder, prepared = TextEncoder(config.text), fingerprint_of(config.data)
    torch.manual_seed(config.train.seed)
    model = MeDSLIP(config.model, encoder.encode(prompts.pathology), encoder.encode(prompts.anatomy))
    with processes(config.device) as world:
        output, resume = agreed_folder(config.output, "pretrain", world, config.resume)
        config = replace(config, output=output, resume=resume)
        if world.is_main:
            _print_shared(train, valid)
        criterion = Criterion(loss_terms(config.loss))
        objective = Objective(model, criterion, preprocessing.normalise, config.train.channels_last)
        objective.to(world.device)
        shard = Shard(
            config.train.batch_size, config.data.workers, world.world_size, world.rank, world.device.type == "cuda"
        )
        augment = TrainingTransform(side, config.augmentation)
        images: Source = ImageSource(train, None, labels[0], at_least=augment.source_side)
        examined: Source = ImageSource(valid, side, labels[1])
        if config.data.preload:
            images = preload(ImageSource(train, roomy(side), labels[0]), len(train), shard.workers, skips)
            examined = preload(examined, len(valid), shard.workers)
        augmented = LabelAugment(augment)
        batches = training_loader(images, np.arange(len(train)), augmented, config.train.seed, shard, skips)
        examined_batches = evaluation_loader(examined, len(valid), shard)
        validator = Validator(
            objective, criterion, list(valid.images["patient"]), examined_batches, config.train.seed, world
        )

        def save_best(progress: Progress, values: dict[str, float]) -> None:
            provenance: dict[str, Any] = {"step": progress.step, "validation": values, "config": config_to_dict(config)}
            card = Card(config.model, preprocessing, encoder.identity, prompts, provenance)
            save_checkpoint(config.output / "best.safetensors", model, card)
            if validator.scores is not None:
                patients = validator.patients
                data = {
                    "list": str(config.data.valid),
                    "part": "validation",
                    "fingerprint": prepared,
                    "images": len(patients),
                    "patients": count_patients(patient_index(patients)),
                }
                settings = {"validation": values, "step": progress.step, **count_skipped(config.output)}
                settings |= bootstrap_settings(0, 0, patients)
                scores = {"scores": validator.scores}
                write_metrics(config.output, "pre-training", data, scores, settings, str(world.device))

        world.from_main(lambda: begin(config.output, config, resume))
        trainer = Trainer(config.train, config.optim, world, config.output, validator, save_best, train.images["path"])
        try:
            trainer.fit(objective, batches, resume)
        except (InputError, OSError):
            if world.is_main:
                discard_beginning(config.output)
            raise
        if world.is_main:
            loss_curves(config.output / "losses.png", read_log(config.output / "log.jsonl"))
            print(f"run page: {write_page(config.output)}")
    return config.output / "best.safetensors"


def fingerprint_of(data: PretrainDataConfig) -> str:
    """Identifies a prepared data set, wherever and whenever it was written."""
    return fingerprint([data.train, data.valid, data.labels / "cells.bin"])


def _print_shared(train: ImageList, valid: ImageList) -> None:
    """Print how many patients both lists share: the authors' lists are used unchanged, but this should not go unnoticed."""
    if shared := set(valid.images["patient"]).intersection(train.images["patient"]) - {""}:
        print(
            f"{valid.source}: {len(shared)} of its patients are also in {train.source}; the validation scores will be too "
            "good"
        )


class Validator:
    """Deterministic validation: losses with seeded negatives, and zero-shot AUROC against the labels of the reports.

    A pathology is scored if at least one report calls it present and one absent. Words of normality and the catch-all for
    excluded words are not findings, and do not enter the mean.

    Args:
        objective: Model and losses.
        criterion: The losses.
        patients: Of the validation images.
        batches: The validation images and their label matrices.
        seed: Of the negatives.
        world: The processes that divide the images among them.

    Attributes:
        patients: Patient of each image.
        scores: Scores of the last validation; None if no pathology can be scored.
    """

    def __init__(
        self,
        objective: Objective,
        criterion: Criterion,
        patients: list[str],
        batches: Iterable[Batch],
        seed: int,
        world: Processes,
    ) -> None:
        self._objective, self._criterion, self._loader = objective, criterion, batches
        self.patients, self._seed, self._world = patients, seed, world
        self.scores: pd.DataFrame | None = None

    def __call__(self) -> Validation:
        """Score the model with its present weights."""
        criterion, world = self._criterion, self._world
        summed = torch.zeros(len(criterion.names), device=world.device)
        counts = torch.zeros(len(criterion.weights), device=world.device)
        predicted = []
        for batch in (batch.to(world.device) for batch in self._loader):
            assert batch.labels is not None
            output = self._objective.predict(batch.images)
            generator = torch.Generator().manual_seed(self._seed * 1_000_003 + int(batch.indices[0]))
            summed += criterion(output, batch.labels, torch.ones_like(counts), generator)
            counts += criterion.counts(batch.labels).to(world.device)
            probability = output.pathology_logits.float().softmax(dim=-1)[..., 1]
            existence, _ = existence_of(batch.labels)
            predicted.append([tensor.cpu().numpy() for tensor in (batch.indices, probability, existence)])
        losses = (world.sum(summed)[1:] / world.sum(counts).clamp(min=1)).tolist()
        values = {f"validation_{name}": loss for name, loss in zip(criterion.names[1:], losses, strict=True)}
        values["validation_total"] = sum(w * loss for w, loss in zip(criterion.weights, losses, strict=True))
        self.scores = self._score([part for shard in world.gather(predicted) for part in shard])
        auroc = math.nan if self.scores is None else mean_auroc(self.scores)
        values["validation_auroc"] = auroc
        return Validation(-values["validation_total"] if math.isnan(auroc) else auroc, values)

    def _score(self, predicted: list[list[npt.NDArray[Any]]]) -> pd.DataFrame | None:
        indices, probability, existence = (np.concatenate(column) for column in zip(*predicted, strict=True))
        order = np.argsort(indices)
        probability, existence = probability[order], existence[order].astype(np.int8)
        scored = [
            column
            for column, name in enumerate(PATHOLOGIES)
            if name in FINDINGS and (existence[:, column] == 1).any() and (existence[:, column] == 0).any()
        ]
        if not scored:
            return None
        names = [PATHOLOGIES[column] for column in scored]
        return score(names, existence[:, scored], probability[:, scored], self.patients, resamples=0)


COMMAND = (PretrainConfig, run)
