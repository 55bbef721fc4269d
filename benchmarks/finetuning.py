"""Does the pre-trained backbone beat random initialisation where a tenth of the phantoms have labels?

    python benchmarks/finetuning.py CHECKPOINT [--tasks segmentation classification probe] [--studies 2000]
        [--epochs 10] [--tuning_epochs 5] [--passes 4] [--corpus FOLDER] [--output runs/finetuning]

CHECKPOINT is a best.safetensors that scripts/pretrain.py or scripts/demo.py trained on phantoms. The phantoms here are drawn
from another seed than the demo's, so pre-training saw none of them. Three tasks, each with both initialisations:

- segmentation: a U-Net on the backbone segments the pneumothorax; test Dice.
- classification: backbone, fourth stage and linear head classify all 18 findings; test macro AUROC.
- probe: one linear layer on the frozen backbone's averaged features; test macro AUROC.

For each initialisation the learning rate is chosen by the validation score of a seed that is not reported: three rates are
tried for TUNING_EPOCHS each, then the next one for as long as the best is at an edge. Three seeds then train at that rate for
EPOCHS. A seed uses the same images, in the same order, and the same head with both initialisations. Prints a table of test
scores, and whether the validation score was still rising at the end.

An epoch is PASSES passes over the labelled images, and a validation.

Everything is in bfloat16. Runs that are already in the output folder are not repeated; choose another folder to change a rate
or TUNING_EPOCHS. On one thread: classification 30 minutes, the probe with --epochs 6 --tuning_epochs 3 9 minutes, segmentation
with --studies 4000 --epochs 12 about 70 minutes, 35 per initialisation.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from medslip.checkpoints import load_checkpoint
from medslip.config import phantom_config
from medslip.evaluation.tables import from_records
from medslip.run_dir import read_metrics
from medslip.tasks import finetune_cls, finetune_seg, make_phantom
from medslip.tasks.finetune import InitConfig, run
from medslip.training.engine import TrainConfig, read_log
from medslip.training.optim import OptimConfig

INITS = ("medslip", "random")
TUNING_SEED, SEEDS = 100, (0, 1, 2)
FRACTION = 0.1
FINDING = "pneumothorax"
RATES = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
FIRST_RATES = {"segmentation": (3e-4, 1e-3, 3e-3), "classification": (1e-4, 3e-4, 1e-3), "probe": (1e-3, 3e-3, 1e-2)}
"""Tried first; then their neighbours among RATES while the best is at an edge."""

REPORTED = {
    "segmentation": ("dice_on_positives", "dice_balanced"),
    "classification": ("auroc",),
    "probe": ("auroc",),
}
"""Test scores in the table; validation chooses by balanced Dice or AUROC."""

CHOSEN_BY = {
    "segmentation": "validation_dice_balanced",
    "classification": "validation_auroc",
    "probe": "validation_auroc",
}


@dataclass(frozen=True)
class Plan:
    """What all runs share.

    Attributes:
        checkpoint: The pre-trained weights.
        corpus: The phantoms to train and test on.
        output: Holds one folder per run.
        epochs: Validations per run.
        tuning_epochs: Validations per run that tries a learning rate.
        passes: Passes over the labelled images before each validation.
    """

    checkpoint: Path
    corpus: Path
    output: Path
    epochs: int
    tuning_epochs: int
    passes: int

    def run(self, task: str, init: str, rate: float, seeds: Sequence[int], epochs: int) -> Path:
        """Fine-tune at one learning rate, unless that was done before; returns the run directory."""
        folder = self.output / f"{task}_{init}_{rate:g}_seeds_{'_'.join(map(str, seeds))}"
        if (folder / "metrics.json").exists():
            return folder
        card = load_checkpoint(self.checkpoint).card
        pretrained = init == "medslip"
        changes: dict[str, Any] = {
            "checkpoint": self.checkpoint if pretrained else None,
            "init": InitConfig("medslip" if pretrained else "random", trunk=card.model.trunk),
            "train": TrainConfig(epochs=epochs, batch_size=8, precision="bfloat16"),
            "optim": OptimConfig(
                learning_rate=rate, warmup_learning_rate=0.0, final_learning_rate=0.0, warmup_steps=20
            ),
            "seeds": tuple(seeds),
            "resamples": 100,
            "output": folder,
        }
        shared: dict[str, Any] = {"fraction": FRACTION, "passes": self.passes, "side": card.transform.side}
        began = time.monotonic()
        if task == "segmentation":
            segmentation = phantom_config(finetune_seg.FinetuneSegConfig, "finetune_seg", self.corpus)
            data = replace(segmentation.data, valid_fraction=0.15, test_fraction=0.3, **shared)
            run(replace(segmentation, data=data, finding=FINDING, bridge=128, **changes), show=False)
        else:
            classification = phantom_config(finetune_cls.FinetuneClsConfig, "finetune_cls", self.corpus)
            parts = replace(classification.data, valid_fraction=0.2, **shared)
            changes |= {"data": parts, "linear_probe": task == "probe"}
            run(replace(classification, **changes), show=False)
        print(f"{folder.name}: {time.monotonic() - began:.0f} s", flush=True)
        return folder


def validations(folder: Path, task: str, seed: int) -> list[float]:
    """The validation score after each epoch."""
    log = read_log(folder / f"seed_{seed}" / "log.jsonl")
    return [entry[CHOSEN_BY[task]] for entry in log if entry["kind"] == "validation"]


def tune(plan: Plan, task: str, init: str) -> tuple[float, dict[float, float]]:
    """The rate that validates best with the tuning seed; and the score of each rate that was tried."""
    found: dict[float, float] = {}
    wanted = list(FIRST_RATES[task])
    while wanted:
        rate = wanted.pop(0)
        found[rate] = max(
            validations(plan.run(task, init, rate, (TUNING_SEED,), plan.tuning_epochs), task, TUNING_SEED)
        )
        if not wanted:
            place = RATES.index(max(found, key=lambda tried: found[tried]))
            wanted = [rate for rate in RATES[max(0, place - 1) : place + 2] if rate not in found]
    return max(found, key=lambda tried: found[tried]), dict(sorted(found.items()))


def table(values: dict[str, list[float]], name: str, rates: dict[str, float]) -> list[str]:
    """Rows of one score: each initialisation, and the difference."""
    rows = [(init, f"{rates[init]:g}", np.array(values[init])) for init in INITS]
    rows.append(("pre-trained - random", "", rows[0][2] - rows[1][2]))
    return [
        f"| {name} | {init} | {rate} | "
        + " | ".join(f"{value:.3f}" for value in (*scores, scores.mean(), scores.std(ddof=1)))
        + " |"
        for init, rate, scores in rows
    ]


def main() -> None:
    """Tune, train, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--tasks", nargs="+", choices=list(REPORTED), default=list(REPORTED))
    parser.add_argument("--studies", type=int, default=2000, help="phantoms to draw")
    parser.add_argument("--epochs", type=int, default=10, help="validations per run")
    parser.add_argument("--tuning_epochs", type=int, default=5, help="the same, for runs that try a learning rate")
    parser.add_argument("--passes", type=int, default=4, help="passes over the labels before each validation")
    parser.add_argument("--corpus", type=Path, help="drawn if missing; data_file/phantom_seed1_STUDIES")
    parser.add_argument("--output", type=Path, default=Path("runs/finetuning"))
    options = parser.parse_args()
    # Almost none in the training split: fine-tuning uses the phantoms of the other two.
    corpus = options.corpus or Path(f"data_file/phantom_seed1_{options.studies}")
    drawing = make_phantom.MakePhantomConfig(corpus, options.studies, 0.7, 0.299, seed=1)
    make_phantom.run(drawing)
    output = options.output / f"{options.studies}_studies_{options.epochs}_x_{options.passes}"
    plan = Plan(options.checkpoint, corpus, output, options.epochs, options.tuning_epochs, options.passes)
    seeds = " | ".join(f"seed {seed}" for seed in SEEDS)
    lines = [
        f"| test score | initialisation | learning rate | {seeds} | mean | deviation |",
        "|---" * (5 + len(SEEDS)) + "|",
    ]
    notes = []
    for task in options.tasks:
        folders, rates = {}, {}
        for init in INITS:
            rates[init], tried = tune(plan, task, init)
            folders[init] = plan.run(task, init, rates[init], SEEDS, plan.epochs)
            shown = ", ".join(f"{rate:g}: {score:.3f}" for rate, score in tried.items())
            notes.append(f"{task}, {init}: validation score of the tuning seed by learning rate: {shown}")
            for seed in SEEDS:
                curve = validations(folders[init], task, seed)
                late = len(curve) - max(1, len(curve) // 4)
                notes.append(
                    f"{task}, {init}, seed {seed}: best validation {max(curve[:late]):.3f} in the first {late} epochs, "
                    f"{max(curve[late:]):.3f} in the last {len(curve) - late} (mean {np.mean(curve[late:]):.3f})"
                )
        metrics = {init: read_metrics(folder) for init, folder in folders.items()}
        scores = {init: from_records(found["scores"]).set_index("score") for init, found in metrics.items()}
        images = metrics[INITS[0]]["data"]
        labelled = [len((folders[INITS[0]] / f"seed_{seed}" / "train_list.txt").read_text().split()) for seed in SEEDS]
        notes.append(f"{task}: {labelled} labelled, {images['valid']} validation and {images['test']} test images")
        for name in REPORTED[task]:
            values = {init: [scores[init][f"seed_{seed}"][name] for seed in SEEDS] for init in INITS}
            lines += table(values, f"{task}: {name.replace('_', ' ')}", rates)
        print("\n".join((*lines, "", *notes)), flush=True)


if __name__ == "__main__":
    main()
