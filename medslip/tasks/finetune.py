"""What both fine-tuning tasks share: what the trunk starts from, the training of one seed, the summary over seeds."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from medslip.checkpoints import (
    FINETUNED_FORMAT,
    FINETUNED_VERSION,
    Checkpoint,
    load_checkpoint,
    load_published_checkpoint,
)
from medslip.data.finetune_loading import Chosen, Shard
from medslip.data.fractions import choose_fraction
from medslip.data.labelled import LabelledImages
from medslip.data.masked import MaskedImages
from medslip.data.splits import SPLITS, split_of
from medslip.data.transforms import EvaluationTransform
from medslip.errors import InputError
from medslip.evaluation.estimates import estimate
from medslip.evaluation.figures import finetuning_curves
from medslip.evaluation.report import write_report
from medslip.evaluation.run_folder import METRICS_FORMAT, METRICS_VERSION, environment, write_json
from medslip.files import to_json, write_text
from medslip.model.image_encoder import Trunk, TrunkName
from medslip.model.weights import load_strictly, read_tensors, write_tensors
from medslip.tasks.run_start import begin_run, nothing_half_written, refuse_other_config
from medslip.tasks.weights import newest_phantom_checkpoint
from medslip.training.distributed import Processes
from medslip.training.engine import Progress, TrainConfig, Trainer, Validation, read_log
from medslip.training.finetuning import FinetuningObjective
from medslip.training.optim import OptimConfig
from medslip.vocabulary import ANATOMIES, PATHOLOGIES

PUBLISHED_TEXT_WIDTH = 768
"""T of the published checkpoint."""


@dataclass(frozen=True)
class StartConfig:
    """What the trunk starts from.

    Attributes:
        weights: "medslip": the checkpoint's trunk; "imagenet": torchvision's weights; "random": from scratch.
        trunk: Which trunk, unless the checkpoint says so.
        trunk_weights: "imagenet": torchvision's name of the weights, or a file with a torchvision state dict.
    """

    weights: Literal["medslip", "imagenet", "random"] = "medslip"
    trunk: TrunkName = "resnet50"
    trunk_weights: str = "IMAGENET1K_V1"


@dataclass(frozen=True)
class Start:
    """The trunk's first weights, opened once for every seed.

    Attributes:
        name: Which trunk.
        state: Its tensors; None draws them anew for every seed.
        source: Where they are from, in words.
        transform: Mean and deviation that go with the weights, and the side.
        resnet: Torchvision weights that also hold a fourth stage; None elsewhere.
    """

    name: TrunkName
    state: Mapping[str, Tensor] | None
    source: str
    transform: EvaluationTransform
    resnet: str | None = None

    def trunk(self) -> Trunk:
        """A trunk of its own, with these weights."""
        trunk = Trunk(self.name)
        if self.state is not None:
            load_strictly(trunk, self.state, self.source)
        return trunk

    def report(self, model: nn.Module) -> dict[str, Any]:
        """What of a model was loaded, and what stayed random.

        Args:
            model: Its parts are ``trunk`` and others; ``fourth_stage`` is loaded where the weights hold one.

        Returns:
            ``source``, ``trunk``; ``loaded`` and ``random``, part -> number of tensors.
        """
        known = {"trunk": self.state is not None, "fourth_stage": self.resnet is not None}
        parts = {name: len(part.state_dict()) for name, part in model.named_children()}
        return {
            "source": self.source,
            "trunk": self.name,
            "loaded": {name: number for name, number in parts.items() if known.get(name, False)},
            "random": {name: number for name, number in parts.items() if not known.get(name, False)},
        }


def open_start(config: StartConfig, checkpoint: Path | None, side: int) -> tuple[Start, Path | None]:
    """The first weights; and the checkpoint that they are from, None for "imagenet" and "random".

    Raises:
        InputError: The weights cannot be had, or a checkpoint is named that would not be used.
    """
    if config.weights == "medslip":
        checkpoint = checkpoint or newest_phantom_checkpoint()
        opened = _open_for_trunk(checkpoint)
        trunk = opened.model.image_encoder.trunk
        transform = replace(opened.card.transform, side=side)
        return Start(opened.card.model.trunk, trunk.state_dict(), str(checkpoint), transform), checkpoint
    if checkpoint is not None:
        raise InputError(
            f"checkpoint: {checkpoint} is not used with start.weights {config.weights}; leave one of them out"
        )
    transform = EvaluationTransform(side)
    if config.weights == "random":
        return Start(config.trunk, None, "random weights", transform), None
    try:
        state = Trunk(config.trunk, config.trunk_weights).state_dict()
    except InputError as error:
        # The trunk speaks of the key that pre-training has for them.
        raise InputError(str(error).replace("model.trunk_weights", "start.trunk_weights", 1)) from None
    return Start(config.trunk, state, f"torchvision {config.trunk_weights}", transform, config.trunk_weights), None


def _open_for_trunk(path: Path) -> Checkpoint:
    """A checkpoint of ours or a published one. Its prompts are not asked here: a published one needs no text encoder."""
    if path.suffix not in (".pth", ".pt"):
        return load_checkpoint(path)
    none, width = torch.zeros, PUBLISHED_TEXT_WIDTH
    return load_published_checkpoint(path, none(len(PATHOLOGIES), width), none(len(ANATOMIES), width))


def show_start(report: Mapping[str, Any]) -> str:
    """The report of ``Start.report`` as one line."""

    def named(parts: Mapping[str, int]) -> str:
        return ", ".join(f"{number} tensors of the {name}" for name, number in parts.items()) or "nothing"

    return (
        f"{report['trunk']} from {report['source']}: loaded {named(report['loaded'])}; random {named(report['random'])}"
    )


def finetuning_optim() -> OptimConfig:
    """The published recipe: a constant learning rate of 1e-5."""
    return OptimConfig(learning_rate=1e-5, warmup_learning_rate=1e-5, final_learning_rate=1e-5, warmup_steps=0)


def refuse_bad_seeds(seeds: Sequence[int], train: TrainConfig) -> None:
    """Refuse seeds that are none, negative or named twice, and a seed in the loop's own config.

    Raises:
        InputError: Saying which.
    """
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise InputError(f"seeds: {list(seeds)} must be one or more different whole numbers, 0 or above")
    if train.seed:
        raise InputError("train.seed: fine-tuning takes its seeds from --seeds, as in --seeds [0,1,2]")


def refuse_bad_parts(valid_fraction: float, test_fraction: float | None, passes: int) -> None:
    """Refuse splits that leave nothing to learn, choose or test on.

    Raises:
        InputError: A value is out of range.
    """
    rest = 0.0 if test_fraction is None else test_fraction
    if not 0 < valid_fraction < 1 or not 0 <= rest < 1 or valid_fraction + rest >= 1 or test_fraction == 0:
        raise InputError(
            f"data: valid_fraction {valid_fraction}"
            + ("" if test_fraction is None else f" and test_fraction {test_fraction}")
            + " must be above 0 and leave something to train on"
        )
    if passes < 1:
        raise InputError(f"data.passes: {passes} is less than 1")


def split_patients(
    patients: Sequence[str], paths: Sequence[Path], seed: int, valid_fraction: float, test_fraction: float, source: str
) -> dict[str, Chosen]:
    """Positions of train, valid and test, whole patients at a time; an image of an unknown patient is one of its own.

    Args:
        patients: n names, empty where unknown.
        paths: n image files. Where they lie on this machine decides nothing.
        seed: Of the split.
        valid_fraction: Share of the patients.
        test_fraction: Share of the patients; 0 for no test images.
        source: The data set, for messages.

    Raises:
        InputError: A split that was asked for gets no image.
    """
    folder = os.path.commonpath([os.path.abspath(path.parent) for path in paths])
    names = [Path(os.path.relpath(path, folder)).as_posix() for path in paths]
    parts = [
        split_of(patient or name, seed, valid_fraction, test_fraction)
        for patient, name in zip(patients, names, strict=True)
    ]
    found = {split: np.flatnonzero(np.asarray(parts) == split) for split in SPLITS}
    for split, indices in found.items():
        if not len(indices) and (split != "test" or test_fraction):
            raise InputError(
                f"{source}: {len(parts)} images are too few, none is left to {split}; change the fractions"
            )
    return found


def choose_labels(
    strata: Sequence[str], positive: npt.NDArray[np.bool_], fraction: float, seeds: Sequence[int]
) -> dict[int, Chosen]:
    """The training images that each seed learns from.

    Args:
        strata: n, an image's labels as a text.
        positive: n, whether an image has anything to find.
        fraction: Share of the images.
        seeds: Of the choice.

    Raises:
        InputError: The fraction is out of range, or leaves a seed nothing to find.
    """
    chosen = {seed: choose_fraction(strata, fraction, seed) for seed in seeds}
    for seed, indices in chosen.items():
        if not positive[indices].any():
            raise InputError(
                f"data.fraction: {fraction} leaves seed {seed} {len(indices)} training image(s) without any finding; take more"
            )
    return chosen


@contextmanager
def begun(
    output: Path, config: Any, splits: Mapping[str, MaskedImages | LabelledImages], world: Processes
) -> Iterator[None]:
    """A run folder with config.yaml, valid_list.txt and test_list.txt, removed again where its input is refused.

    Of a run that is resumed, it stays as it is.

    Args:
        output: The run folder, the same in every process.
        config: The resolved config dataclass, with an attribute ``resume``.
        splits: "train", "valid" and "test".
        world: The processes; the main one writes.

    Raises:
        InputError: The folder is in use, or the run to resume began with another config.
    """
    if config.resume:
        refuse_other_config(output, config)
        yield
        return
    with nothing_half_written(output):
        world.wait()  # all have seen the folder empty before one writes
        if world.is_main:
            begin_run(output, config)
            for name in ("valid", "test"):
                write_names(output / f"{name}_list.txt", splits[name].paths)
        world.wait()
        yield


def conclude(
    output: Path,
    task: str,
    about: Mapping[str, Any],
    splits: Mapping[str, MaskedImages | LabelledImages],
    runs: Mapping[int, Mapping[str, float]],
    start: Mapping[str, Any],
    world: Processes,
    show: bool,
) -> None:
    """Write metrics.json and report.html over all seeds, in the main process.

    Args:
        output: The run folder.
        task: What was done.
        about: What was learnt from; the numbers of images are added.
        splits: "train", "valid" and "test".
        runs: Seed -> score -> value.
        start: What ``Start.report`` returned.
        world: The processes.
        show: Whether to print the table.
    """
    if not world.is_main:
        return
    data = {**about, **{name: len(split) for name, split in splits.items()}}
    table = write_summary(output, task, data, runs, start, str(world.device))
    page = write_report(output)
    if show:
        print(f"{table}\n\nweights, predictions, metrics and figures: {output}\nreport: {page}")


def write_names(path: Path, names: Sequence[Path]) -> None:
    """Write a list file, one image a line."""
    write_text(path, "".join(f"{name}\n" for name in names))


@dataclass(frozen=True)
class Fit:
    """How one seed is trained.

    Attributes:
        train: The loop, with this seed.
        optim: The optimiser.
        world: One process or many.
        folder: This seed's run folder.
        score: The logged score that chooses the best epoch.
        score_name: What it is called.
        resume: Whether to go on from this seed's last epoch, where there is one.
    """

    train: TrainConfig
    optim: OptimConfig
    world: Processes
    folder: Path
    score: str
    score_name: str
    resume: bool

    def shard(self, images: int, workers: int) -> Shard:
        """This process's share of the batches; a batch is not larger than the list."""
        world = self.world
        batch = max(1, min(self.train.batch_size, images // (world.world_size * self.train.accumulate)))
        return Shard(batch, workers, world.world_size, world.rank, world.device.type == "cuda")

    def run(
        self,
        objective: FinetuningObjective,
        batches: Any,
        loss_names: tuple[str, ...],
        validate: Callable[[], Validation],
        card: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Train, and leave the objective's model with the weights of the best validation epoch, in eval mode.

        Args:
            objective: On its device.
            batches: Training batches.
            loss_names: What the objective returns.
            validate: Scores the model as it is; see Trainer.
            card: What best.safetensors says of itself.

        Returns:
            The values that the best validation logged.
        """
        best = self.folder / "best.safetensors"

        def save_best(progress: Progress, values: dict[str, float]) -> None:
            about = {
                "format": FINETUNED_FORMAT,
                "version": FINETUNED_VERSION,
                **card,
                "step": progress.step,
                "validation": values,
            }
            write_tensors(best, objective.model.state_dict(), {"card": to_json(about)})

        trainer = Trainer(self.train, self.optim, self.world, self.folder, loss_names, validate, save_best)
        trainer.fit(objective, batches, self.resume and self._state.is_file())
        tensors, metadata = read_tensors(best)
        load_strictly(objective.model, tensors, str(best))
        objective.eval()
        if self.world.is_main:
            finetuning_curves(
                self.folder / "losses.png", read_log(self.folder / "log.jsonl"), self.score, self.score_name
            )
        validation: dict[str, Any] = json.loads(metadata["card"])["validation"]
        return validation

    @property
    def _state(self) -> Path:
        return self.folder / "last.safetensors"

    @property
    def is_scored(self) -> bool:
        """Whether a run that is resumed has come to the end of this seed before."""
        return self.resume and (self.folder / "metrics.json").is_file()

    def finish(self) -> None:
        """Once the test images are scored, by the main process: nothing goes on from here, and it is large."""
        self._state.unlink(missing_ok=True)


def seed_folder(output: Path, seed: int) -> Path:
    """Where a seed's run goes."""
    return output / f"seed_{seed}"


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Sample standard deviation over seeds (None for one seed), and the values."""
    return {"deviation": float(np.std(values, ddof=1)) if len(values) > 1 else None, "by_seed": list(values)}


def write_summary(
    output: Path,
    task: str,
    data: Mapping[str, Any],
    runs: Mapping[int, Mapping[str, float]],
    start: Mapping[str, Any],
    device: str,
) -> str:
    """Write metrics.json over all seeds; its shape is in docs/metrics.md.

    Args:
        output: The run folder.
        task: What was done.
        data: What was learnt from and tested on.
        runs: Seed -> score -> value.
        start: What ``Start.report`` returned.
        device: The torch device of the run.

    Returns:
        A table, a line a score.
    """
    names = [name for name in next(iter(runs.values())) if all(name in values for values in runs.values())]
    spreads = {name: spread([values[name] for values in runs.values()]) for name in names}
    means = {name: float(np.mean(entry["by_seed"])) for name, entry in spreads.items()}
    metrics = {
        "format": METRICS_FORMAT, "version": METRICS_VERSION, "task": task, "data": data, "seeds": list(runs),
        "scores": {name: estimate(mean) for name, mean in means.items()}, "spread": spreads, "start": start,
        "environment": environment(device),
    }  # fmt: skip
    write_json(output / "metrics.json", metrics)
    head = f"{'test score':28}" + "".join(f"{f'seed {seed}':>10}" for seed in runs) + f"{'mean':>10}{'deviation':>11}"
    lines = [head, "-" * len(head)]
    for name, entry in spreads.items():
        cells = "".join(f"{value:10.4f}" for value in (*entry["by_seed"], means[name]))
        shown = "-" if entry["deviation"] is None else f"{entry['deviation']:.4f}"
        lines.append(f"{name.replace('_', ' '):28}{cells}{shown:>11}")
    return "\n".join(lines)


def in_order(world: Processes, indices: Sequence[Any], *columns: Sequence[Any]) -> list[np.ndarray[Any, Any]]:
    """Everybody's rows of a data set that the processes share, in its order.

    Args:
        world: The processes; of more than there are images, some have no rows.
        indices: A list of arrays: which rows.
        columns: Lists of arrays of as many rows each.
    """
    everybody = world.gather((indices, *columns))
    # Lists are joined before they are concatenated: of an empty share there would be nothing to concatenate.
    position, *joined = (
        np.concatenate([array for arrays in column for array in arrays]) for column in zip(*everybody, strict=True)
    )
    order = np.argsort(position)
    return [column[order] for column in joined]


def finite_or(value: float | None, instead: float) -> float:
    """The value, or another where it is not defined."""
    return instead if value is None or not math.isfinite(value) else value
