"""Does each part of the method help, and are the defaults better than the published form?

    python benchmarks/ablation.py [--rows NAME ...] [--corpora easy hard] [--seeds 0 1 2] [--results FILE] [--table]

Trains a small model on phantoms for each row, corpus and seed, all for the same number of steps, and scores held-out phantoms:

- AUROC: zero-shot macro AUROC of the 18 findings.
- anatomy: macro AUROC of the anatomy stream, against the reports.
- pointing: pointing game on findings larger than a patch, and on smaller ones.
- side: how often the model knows left from right, by ICL and by the maps (docs/metrics.md, `sides`).
- 10 % labels: macro AUROC after fine-tuning on a tenth of the training phantoms' labels.
- equal time: the highest validation macro AUROC within the CPU time that the fastest row takes for all its steps; the time of a
  step is measured for all rows in turn, and is in the table relative to the first row's.

Every finished (corpus, row, seed) is a line of the results file; what is in it is not trained again, so the command can be
interrupted and repeated. It ends with the table and the figure of all lines, docs/ablation.png; --table only draws them.

The backbone is a ResNet-18 with half its channels, at 96 x 96 pixels. To learn more in few steps, all runs start from one
trunk, trained with class labels on half of the kinds of findings, on phantoms of another seed (once for either residual gamma).
The easy corpus is that of make_phantom.py. In the hard one images have less contrast and more grain, findings are fainter and
more per study, and the labels for training are noisy: a tenth of the triplets is dropped, and 3 % are wrong: present instead of
absent or the reverse, or on the other side.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy
from torchvision.models.resnet import BasicBlock, ResNet

from medslip.config import phantom_config
from medslip.data import augmentation
from medslip.data.datasets.csv_table import CsvTable
from medslip.data.images import read_image
from medslip.data.prepared import read_list
from medslip.data.preprocessing import Preprocessing
from medslip.evaluation.bootstrap import Resampled, patient_index, resample_means
from medslip.evaluation.classification import SCORES, resample_scores
from medslip.evaluation.sides import correct_sides
from medslip.evaluation.tables import from_records
from medslip.labels import ABSENT, PRESENT, LabelStore, LabelStoreWriter
from medslip.losses import existence_of
from medslip.model import trunk
from medslip.model.image_encoder import ImageEncoder, Streams
from medslip.model.medslip import MeDSLIP
from medslip.phantoms import study as phantom_study
from medslip.phantoms.findings import KINDS, Plan, choose
from medslip.predictor import Predictor, present_probability
from medslip.run_dir import read_metrics
from medslip.tasks import finetune_cls, ground, make_phantom, prepare_data, pretrain
from medslip.tasks.ground import GroundConfig
from medslip.training.criterion import Criterion, loss_terms
from medslip.training.engine import read_log
from medslip.vocabulary import ANATOMIES, MIRRORED_ANATOMY, PATHOLOGIES, class_pathologies, pathology_index

STUDIES, VALID, TEST = 1600, 0.1, 0.25
SIDE, EPOCHS, BATCH = 96, 3, 8
TRUNK_STUDIES, TRUNK_EPOCHS = 3000, 6
RESAMPLES = 50
METRICS = (
    "auroc",
    "anatomy",
    "pointing_larger",
    "pointing_smaller",
    "side_icl",
    "side_maps",
    "finetuned",
    "equal_time",
)
TITLES = ("AUROC", "anatomy", "pointing, larger", "smaller", "side, ICL", "side, maps", "10 % labels", "equal time")

# Rows ----------------------------------------------------------------------------------------------------------------


@contextmanager
def one_set_of_patches() -> Iterator[None]:
    """Neither a gate nor a second projection: both decoders read the same patches."""

    def split(self: ImageEncoder, features: Tensor) -> Streams[Tensor]:
        patches = self.pathology_stream(features.flatten(2).transpose(1, 2))
        return Streams(patches, patches)

    with patch.object(ImageEncoder, "split", split):
        yield


@contextmanager
def no_gate() -> Iterator[None]:
    """Two streams that read all of the features."""

    def split(self: ImageEncoder, features: Tensor) -> Streams[Tensor]:
        patches = features.flatten(2).transpose(1, 2)
        return Streams(self.pathology_stream(patches), self.anatomy_stream(patches))

    with patch.object(ImageEncoder, "split", split):
        yield


@contextmanager
def pathology_losses_only() -> Iterator[None]:
    """Neither losses of the anatomy stream nor ICL."""

    def terms(config: Any) -> Any:
        return {name: term for name, term in loss_terms(config).items() if name.endswith("_pathology")}

    with patch.object(pretrain, "loss_terms", terms):
        yield


@contextmanager
def sides_kept() -> Iterator[None]:
    """A mirrored image keeps its labels."""
    with patch.object(augmentation, "mirror_labels", lambda matrix: matrix):
        yield


@contextmanager
def positions() -> Iterator[None]:
    """Patches carry a sinusoidal encoding of their row and column, each in half of the channels."""
    plain = ImageEncoder.split

    def split(self: ImageEncoder, features: Tensor) -> Streams[Tensor]:
        streams = plain(self, features)
        added = encoding(features.shape[-1], streams.pathology.shape[-1])
        return Streams(streams.pathology + added, streams.anatomy + added)

    with patch.object(ImageEncoder, "split", split):
        yield


def encoding(side: int, width: int) -> Tensor:
    """Side^2 x width: sines and cosines of row and column at wavelengths from 2 pi patches up to ten grids."""
    wave = (10 * side / (2 * math.pi)) ** -torch.linspace(0, 1, width // 4)
    angle = torch.arange(side)[:, None] * wave
    along = torch.cat([angle.sin(), angle.cos()], dim=1)  # side x width / 2
    rows, columns = along[:, None].expand(-1, side, -1), along[None].expand(side, -1, -1)
    return torch.cat([rows, columns], dim=-1).flatten(0, 1)


@dataclass(frozen=True)
class Row:
    """What a row changes in the configs of pre-training, and in the code."""

    model: dict[str, Any] = field(default_factory=dict)
    loss: dict[str, Any] = field(default_factory=dict)
    augmentation: dict[str, Any] = field(default_factory=dict)
    code: tuple[Callable[[], Any], ...] = ()
    anatomy: bool = True  # whether the anatomy stream is trained


ROWS: dict[str, Row] = {
    "ours": Row(),
    "published form": Row(
        {
            "similarity": "dot", "initialisation": "authors", "decoder_layers": 4, "decoder_heads": 4, "dropout": 0.1,
            "add_zero_attn": False, "residual_gamma": 1.0,
        },
        {"alpha": 1.0, "negatives": 7},
    ),
    "one stream (as MedKLIP)": Row(code=(one_set_of_patches, pathology_losses_only), anatomy=False),
    "two streams, one trained": Row(code=(pathology_losses_only,), anatomy=False),
    "two streams, no gate": Row(code=(no_gate,)),
    "no ProtoCL": Row(loss={"alpha": 0.0}),
    "no ICL": Row(loss={"beta": 0.0}),
    "7 negatives": Row(loss={"negatives": 7}),
    "dot product": Row({"similarity": "dot"}),
    "N(0, 0.02) initialisation": Row({"initialisation": "authors"}),
    "no zero-attention": Row({"add_zero_attn": False}),
    "residual gamma 1": Row({"residual_gamma": 1.0}),
    "flips, sides exchanged": Row(augmentation={"flip_probability": 0.5}),
    "flips, sides kept": Row(augmentation={"flip_probability": 0.5}, code=(sides_kept,)),
    "2-D positional encoding": Row(code=(positions,)),
}  # fmt: skip
"""Name -> what is changed in the phantoms' config; the first is compared with all others."""

OURS = next(iter(ROWS))

# Corpora -------------------------------------------------------------------------------------------------------------


def harder(draw: Callable[..., Any], seed: int, index: int, side: int, *given: Sequence[Plan]) -> Any:
    """A study of the hard corpus: two draws of findings in one, each fainter, on an image with less contrast and more grain."""
    if given:  # for the contact sheet
        return draw(seed, index, side, *given)
    random = np.random.default_rng((seed, 10, index))
    plans: dict[str, Plan] = {}
    for plan in (*choose(random), *choose(random)):
        taken = {zone for other in plans.values() for zone in other.site.zones}
        if plan.kind.name not in plans and not plan.site.zones & taken:
            plans[plan.kind.name] = replace(plan, degree=0.8 * plan.degree)
    study = draw(seed, index, side, [plans[name] for name in KINDS if name in plans])
    image = study.image.astype(float)
    image = image.mean() + 0.75 * (image - image.mean()) + random.normal(0, 4, image.shape)
    return replace(study, image=image.clip(0, 255).astype(np.uint8))


def corpus_of(name: str, work: Path) -> tuple[Path, Path]:
    """Draw and prepare a corpus, unless that was done; returns both folders."""
    corpus, prepared = work / name, work / f"{name}_prepared"
    config = make_phantom.MakePhantomConfig(corpus, STUDIES, VALID, TEST, side=128, workers=1)
    with (
        patch.object(make_phantom, "draw_study", partial(harder, phantom_study.draw_study))
        if name == "hard"
        else ExitStack()
    ):
        make_phantom.run(config)
    if not (prepared / "summary.json").is_file():
        prepare_data.run(phantom_config(prepare_data.PrepareConfig, "prepare_data", corpus, prepared))
    if name == "hard" and not (prepared / "noisy").is_dir():
        write_noisy(prepared)
    return corpus, prepared


def write_noisy(prepared: Path) -> None:
    """Write the label store once more, as noisy/, with faults in the studies of the training list."""
    store, writer, random = LabelStore(prepared / "labels"), LabelStoreWriter(), np.random.default_rng(0)
    lists = {split: read_list(prepared / f"{split}.csv").images for split in ("train", "valid", "test")}
    studies = {
        int(row): study for images in lists.values() for row, study in zip(images["row"], images["study"], strict=True)
    }
    training = set(lists["train"]["row"])
    for row in range(len(store)):
        cells = {}
        for anatomy, pathology, state in zip(*(part.tolist() for part in store.cells(row)), strict=True):
            dropped, wrong, which = random.random(3)
            if row in training and dropped < 0.1:
                continue
            if row in training and wrong < 0.03:
                if which < 0.5 and MIRRORED_ANATOMY[anatomy] not in (-1, anatomy):
                    anatomy = MIRRORED_ANATOMY[anatomy]
                else:
                    state = ABSENT if state == PRESENT else PRESENT
            cells[anatomy, pathology] = state
        writer.add(studies[row], cells)
    writer.write(prepared / "noisy")


# One run -------------------------------------------------------------------------------------------------------------


class HalfResNet(ResNet):
    """A ResNet-18 with half of its channels."""

    def __init__(self) -> None:
        super().__init__(BasicBlock, [2, 2, 2, 2])
        self.inplanes = 32
        self.conv1 = torch.nn.Conv2d(3, 32, 7, 2, 3, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(32)
        for stage in range(4):
            layer = self._make_layer(BasicBlock, 32 * 2**stage, 2, stride=min(stage + 1, 2))
            setattr(self, f"layer{stage + 1}", layer)
        self.fc = torch.nn.Linear(256, 1000)
        for module in self.modules():  # as torchvision does for the original
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def half_backbones() -> Any:
    """A context in which every backbone is a HalfResNet; checkpoints of such models are read within it."""

    def half(_: str, weights: str | None) -> ResNet:
        model = HalfResNet()
        if weights is not None:
            model.load_state_dict(torch.load(weights, weights_only=True))
        return model

    return patch.object(trunk, "_torchvision_model", half)


@contextmanager
def changed(row: Row) -> Iterator[None]:
    """A context with the row's changes of the code."""
    with ExitStack() as stack:
        for change in row.code:
            stack.enter_context(change())
        yield


def trained_trunk(work: Path, residual_gamma: float) -> Path:
    """Weights of the trunk that runs start from, trained on every other class of another corpus unless that was done."""
    path = work / f"trunk_{residual_gamma}.pt"
    if path.is_file():
        return path
    corpus = work / "trunk"
    make_phantom.run(make_phantom.MakePhantomConfig(corpus, TRUNK_STUDIES, 0.01, 0.01, side=128, workers=1, seed=1))
    table, preprocessing, random = CsvTable(corpus / "findings.csv").read(), Preprocessing(side=SIDE), torch.Generator()
    images = torch.stack([preprocessing(read_image(path)) for path in table.paths])
    labels = torch.tensor(table.label_array[:, ::2] == 1).float()
    torch.manual_seed(0)
    model = HalfResNet()
    trunk._scale_residuals(model, residual_gamma)
    model.fc = torch.nn.Linear(model.fc.in_features, labels.shape[1])
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    steps = TRUNK_EPOCHS * len(images) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-3, steps)
    for step in range(steps):
        chosen = torch.randint(len(images), (BATCH,), generator=random)
        loss = cross_entropy(model(preprocessing.normalise(images[chosen])), labels[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 250 == 0:
            print(f"trunk: step {step} of {steps}, loss {loss.item():.3f}", flush=True)
    model.fc = HalfResNet().fc
    torch.save(model.state_dict(), path)
    return path


def step_costs(names: Collection[str], rounds: int = 8) -> dict[str, float]:
    """The CPU time of a training step of these rows, relative to OURS; the least of several, which are taken in turn."""
    config, random = phantom_config(pretrain.PretrainConfig, "pretrain"), torch.Generator().manual_seed(0)
    images = torch.randn(BATCH, 3, SIDE, SIDE, generator=random)
    labels = torch.randint(-200, 2, (BATCH, len(ANATOMIES), len(PATHOLOGIES)), generator=random).clamp(min=-1)
    prompts = [torch.randn(len(names), 384, generator=random) for names in (PATHOLOGIES, ANATOMIES)]
    seconds, parts = dict.fromkeys((OURS, *names), math.inf), {}
    for _ in range(rounds):
        for name in seconds:
            row = ROWS[name]
            with half_backbones(), changed(row):
                if name not in parts:
                    model = MeDSLIP(replace(config.model, **row.model), *prompts)
                    parts[name] = model, Criterion(pretrain.loss_terms(replace(config.loss, **row.loss)))
                model, criterion = parts[name]
                began = time.process_time()
                criterion(model(images), labels, generator=random)[0].backward()
                seconds[name] = min(seconds[name], time.process_time() - began)
    return {name: round(each / seconds[OURS], 2) for name, each in seconds.items()}


def run(corpus: str, name: str, seed: int, work: Path) -> dict[str, Any]:
    """Train and score one row with one seed; returns its line of the results file."""
    drawn, prepared = corpus_of(corpus, work)
    row, folder = ROWS[name], work / "runs" / f"{corpus}_{list(ROWS).index(name)}_{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    config = phantom_config(pretrain.PretrainConfig, "pretrain", prepared=prepared, output=folder / "pretrain")
    labels = prepared / ("noisy" if corpus == "hard" else "labels")
    model = replace(config.model, **row.model)
    start = trained_trunk(work, model.residual_gamma)
    config = replace(
        config,
        data=replace(config.data, side=SIDE, labels=labels),
        train=replace(config.train, epochs=EPOCHS, batch_size=BATCH, seed=seed),
        optim=replace(config.optim, warmup_steps=40),
        augmentation=replace(config.augmentation, **{"scale_min": 0.9} | row.augmentation),
        model=replace(model, trunk_weights=str(start), residual_gamma=1.0),
        loss=replace(config.loss, **row.loss),
        device="cpu",
    )
    with half_backbones(), changed(row):
        checkpoint = pretrain.run(config)
        log = read_log(folder / "pretrain" / "log.jsonl")
        curve = [entry["validation_auroc"] for entry in log if entry["kind"] == "validation"]
        predictor = Predictor.from_pretrained(checkpoint, device="cpu")
        scores = zero_shot(predictor, drawn, prepared, row.anatomy) | grounded(
            predictor, drawn, checkpoint, row.anatomy
        )
        tuned = finetuned(drawn, checkpoint, seed, folder)
    line = {"corpus": corpus, "row": name, "seed": seed, "finetuned": tuned}
    line["curve"] = [round(value, 4) for value in curve]
    for metric, found in scores.items():
        line[metric] = round(float(found.values), 4)
        line[f"{metric}_drawn"] = [round(float(value), 4) for value in found.drawn]
    if name == OURS:  # for benchmarks/prompts.py
        checkpoint.replace(work / f"{corpus}_{seed}.safetensors")
    shutil.rmtree(folder)
    return line


def zero_shot(predictor: Predictor, corpus: Path, prepared: Path, with_anatomy: bool) -> dict[str, Resampled]:
    """Macro AUROC of both streams on the test phantoms."""
    table, listed = CsvTable(corpus / "findings.csv", split="test").read(), read_list(prepared / "test.csv")
    place = {path.resolve(): row for row, path in enumerate(listed.paths)}
    order = [place[path.resolve()] for path in table.paths]
    outputs = [output for _, output in predictor.outputs(table.paths)]
    pathology, anatomy = (
        np.concatenate([present_probability(getattr(output, f"{stream}_logits")) for output in outputs])
        for stream in Streams._fields
    )
    columns = [pathology_index(pathology) for pathology in class_pathologies(table.classes, {}, "phantoms")]
    scores = {"auroc": macro_auroc(table.label_array, pathology[:, columns], table.patients)}
    if with_anatomy:
        store = LabelStore(prepared / "labels")
        cells = np.stack([store.dense(row) for row in listed.images["row"].iloc[order]])
        _, exists = existence_of(torch.from_numpy(cells))
        scores["anatomy"] = macro_auroc(exists.numpy(), anatomy, table.patients)
    return scores


def macro_auroc(labels: Any, probabilities: Any, patients: list[str]) -> Resampled:
    """Mean AUROC over the classes with at least 10 images present and 10 absent."""
    enough = np.flatnonzero(((labels == 1).sum(0) >= 10) & ((labels == 0).sum(0) >= 10))
    found = resample_scores(labels[:, enough], probabilities[:, enough], patient_index(patients), RESAMPLES, 0)
    return found[:, SCORES.index("auroc")].mean()


def grounded(predictor: Predictor, corpus: Path, checkpoint: Path, with_anatomy: bool) -> dict[str, Resampled]:
    """Pointing game and sides on the test phantoms."""
    config = phantom_config(GroundConfig, "ground", corpus, checkpoint=checkpoint)
    config = replace(config, shifts=1, workers=0, device="cpu")
    images = config.data.read()
    images = images.at(np.flatnonzero(images.found()))
    cases = ground.score_cases(ground.look(predictor, images, config), images, {}, {"model": 0.5}, 0.3)
    larger = cases["larger_than_a_patch"].astype(bool)
    values = {
        "pointing_larger": cases["model_pointing"].where(larger),
        "pointing_smaller": cases["model_pointing"].where(~larger),
    }
    if with_anatomy:
        values |= {f"side_{way}": correct for way, correct in correct_sides(cases).items()}
    found = resample_means(pd.DataFrame(values).to_numpy(), patient_index(cases["patient"].tolist()), RESAMPLES, 0)
    return {name: found[column] for column, name in enumerate(values)}


def finetuned(corpus: Path, checkpoint: Path, seed: int, folder: Path) -> float:
    """Test macro AUROC of a classifier fine-tuned on a tenth of the labels."""
    config = phantom_config(finetune_cls.FinetuneClsConfig, "finetune_cls", corpus, checkpoint=checkpoint)
    part = partial(CsvTable, corpus / "findings.csv")
    data = replace(config.data, train=part(split="train"), valid=part(split="valid"), side=SIDE, fraction=0.1, passes=2)
    train = replace(config.train, epochs=3, batch_size=BATCH)
    config = replace(
        config, data=data, train=train, seeds=(seed,), resamples=0, output=folder / "finetuned", device="cpu"
    )
    metrics = read_metrics(finetune_cls.run(config, show=False))
    scores = from_records(metrics["scores"]).set_index("score")
    return round(float(scores[f"seed_{seed}"]["auroc"]), 4)


# Table and figure ----------------------------------------------------------------------------------------------------


def summarise(lines: list[dict[str, Any]]) -> pd.DataFrame:
    """One row per corpus, row and metric: mean over seeds and half width of its interval, both also of the difference to OURS.

    The variance of a mean is that over seeds, with Student's factor for as many seeds as there are, plus that over resampled
    patients, who are the same in all runs on a corpus. Differences are of the same seeds and patients.
    """
    found = []
    runs = {(line["corpus"], line["row"], line["seed"]): line for line in lines if "row" in line}
    cost = costs_in(lines)
    for (_, row, _), line in runs.items():
        epochs = int(1.02 * len(line["curve"]) * min(cost.values()) / cost[row])
        line["equal_time"] = max(line["curve"][:epochs])
    for corpus, row in dict.fromkeys((corpus, row) for corpus, row, _ in runs):
        seeds = sorted(seed for c, r, seed in runs if (c, r) == (corpus, row))
        for metric in METRICS:
            values = {seed: values_of(runs[corpus, row, seed], metric) for seed in seeds}
            ours = {seed: values_of(runs[corpus, OURS, seed], metric) for seed in seeds if (corpus, OURS, seed) in runs}
            both = [seed for seed in ours if row != OURS and len(ours[seed]) == len(values[seed])]
            mean, half = interval(np.array(list(values.values())))
            difference, within = interval(np.array([np.subtract(values[seed], ours[seed]) for seed in both]))
            found.append(
                {"corpus": corpus, "row": row, "metric": metric, "seeds": len(seeds), "mean": mean, "half": half,
                 "difference": difference, "difference_half": within, "cost": cost[row]}
            )  # fmt: skip
    return pd.DataFrame(found)


def costs_in(lines: list[dict[str, Any]]) -> dict[str, float]:
    """Row -> the time of its step, relative to that of OURS."""
    return {name: cost for line in lines for name, cost in line.get("step_costs", {}).items()}


def values_of(line: dict[str, Any], metric: str) -> list[float]:
    """The metric of a run, then its values on resampled patients."""
    return [line.get(metric, math.nan), *line.get(f"{metric}_drawn", [])]


def interval(values: Any) -> tuple[float, float]:
    """Mean over seeds and half width of its 95 % interval; seeds x (value, then resamples of patients)."""
    if not len(values):
        return math.nan, math.nan
    number = len(values)
    over_seeds = stats.t.ppf(0.975, number - 1) * values[:, 0].std(ddof=1) / number**0.5 if number > 1 else math.nan
    over_patients = 1.96 * np.nanstd(values[:, 1:].mean(axis=0)) if values.shape[1] > 1 else 0.0
    return float(values[:, 0].mean()), math.hypot(over_seeds, over_patients)


def markdown(summary: pd.DataFrame) -> str:
    """One table per corpus: OURS, then the differences of the other rows."""
    parts = []
    for corpus, of_corpus in summary.groupby("corpus", sort=False):
        parts += [
            f"\n{corpus} corpus; differences to the first row\n",
            f"| | seeds | time per step | {' | '.join(TITLES)} |",
            "| --- |" + " --- |" * (len(TITLES) + 2),
        ]
        for row in ROWS:
            cells = of_corpus[of_corpus["row"] == row].set_index("metric")
            if cells.empty:
                parts.append(f"| {row} | 0 |" + " missing |" + " |" * len(TITLES))
                continue
            shown = []
            for metric in METRICS:
                columns = ["mean", "half"] if row == OURS else ["difference", "difference_half"]
                value, half = cells.loc[[metric], columns].to_numpy(float)[0]
                sign = "" if row == OURS else "+"
                clear = "**" if row != OURS and abs(value) > half else ""
                within = "" if math.isnan(half) else f" ± {half:.3f}"
                shown.append("-" if math.isnan(value) else f"{clear}{value:{sign}.3f}{within}{clear}")
            parts.append(f"| {row} | {cells['seeds'].iloc[0]} | {cells['cost'].iloc[0]:.2f} | {' | '.join(shown)} |")
    return "\n".join(parts)


def draw(summary: pd.DataFrame, path: Path) -> None:
    """Differences to OURS with their intervals, one panel per metric, one mark per corpus."""
    rows = [row for row in ROWS if row != OURS and (summary["row"] == row).any()]
    if not rows:
        return
    figure, panels = plt.subplots(1, len(METRICS), figsize=(2 * len(METRICS), 0.8 + 0.32 * len(rows)), sharey=True)
    for panel, metric, title in zip(panels, METRICS, TITLES, strict=True):
        for shift, (corpus, cells) in zip(
            (-0.15, 0.15), summary[summary["metric"] == metric].groupby("corpus", sort=False), strict=False
        ):
            cells = cells.set_index("row").reindex(rows)
            panel.errorbar(
                cells["difference"],
                np.arange(len(rows)) + shift,
                xerr=cells["difference_half"].fillna(0),
                fmt="o",
                ms=3,
                lw=1,
                label=corpus,
            )
        panel.axvline(0, color="0.6", lw=0.8)
        panel.set_title(title, fontsize=9)
        panel.tick_params(labelsize=7)
    panels[0].set_yticks(range(len(rows)), rows, fontsize=8)
    panels[0].invert_yaxis()
    panels[-1].legend(fontsize=7)
    figure.supxlabel(f"difference to {OURS}, 95 % intervals over seeds and patients", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Run what is missing, then write table and figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--corpora", nargs="+", choices=["easy", "hard"], default=["easy", "hard"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--results", type=Path, default=Path(__file__).with_name("ablation_results.jsonl"))
    parser.add_argument(
        "--work", type=Path, default=Path("runs/ablation"), help="corpora, and runs until they are scored"
    )
    parser.add_argument("--figure", type=Path, default=Path("docs/ablation.png"))
    parser.add_argument("--table", action="store_true", help="run nothing")
    options = parser.parse_args()
    first = list(ROWS)[:2]
    wanted = [
        (c, r, s) for rows in (first, list(ROWS)[2:]) for s in options.seeds for r in rows for c in options.corpora
    ]
    lines = read(options.results)
    unmeasured = [name for name in options.rows if name not in costs_in(lines)]
    if unmeasured and not options.table:
        append({"step_costs": step_costs(unmeasured)}, options.results)
    done = {(line["corpus"], line["row"], line["seed"]) for line in lines if "row" in line}
    for corpus, row, seed in [] if options.table else wanted:
        if row in options.rows and (corpus, row, seed) not in done:
            began = time.monotonic()
            line = run(corpus, row, seed, options.work)
            append(line, options.results)
            print(f"{corpus}, {row}, seed {seed}: AUROC {line['auroc']}, {time.monotonic() - began:.0f} s", flush=True)
    summary = summarise(read(options.results))
    print(markdown(summary))
    draw(summary, options.figure)


def append(line: dict[str, Any], path: Path) -> None:
    """Add a line to a results file."""
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a results file, which may not be there yet."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


if __name__ == "__main__":
    main()
