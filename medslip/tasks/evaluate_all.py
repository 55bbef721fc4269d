"""A model and every data set that is there -> one table in the shape of the papers' tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from medslip.data.dataset import DataSet
from medslip.errors import InputError
from medslip.evaluation.bootstrap import Estimate
from medslip.evaluation.classification import MEAN, class_rows
from medslip.evaluation.grounding_scores import ABOVE_PRIOR, ALL
from medslip.evaluation.report_page import write_page
from medslip.evaluation.tables import to_markdown, write_csv
from medslip.files import write_text
from medslip.model.device import choose_device
from medslip.run_dir import (
    RUNS,
    begin,
    check_at_least,
    check_unused,
    discard_beginning,
    timestamp,
    write_metrics,
)
from medslip.tasks import ground, zeroshot_cls
from medslip.tasks.ground import GroundConfig
from medslip.tasks.weights import AuthorsConfig, newest, open_weights
from medslip.tasks.zeroshot_cls import ZeroshotConfig
from medslip.training.distributed import Device


@dataclass(frozen=True)
class ClassificationSet:
    """A data set to classify.

    Attributes:
        data: Which images.
        validation: Images, not among them, that operating points and recalibration are chosen on; None: neither.
        prompt: Free-text queries: one as "class: text", or several as {class: text}.
        fibrosis: ChestX-ray14's Fibrosis has no pathology of its own: ask the "published" catch-all, or by its own "prompt".
    """

    data: DataSet
    validation: DataSet | None = None
    prompt: dict[str, str] | str = field(default_factory=dict)
    fibrosis: Literal["published", "prompt"] = "published"


@dataclass(frozen=True)
class GroundingSet:
    """A data set to ground.

    Attributes:
        data: The images, which have boxes or masks.
        validation: Other images that the thresholds are chosen on. None: a part of the patients is set aside for that.
        prior: Images whose boxes make the prior; None takes the validation images.
        aside: Fraction of the patients that is set aside if there are no validation images, 0 to 1.
        layers: Decoder layers whose attention is averaged, from 0; none named means all.
        heads: Attention heads of these layers, from 0; none named means all.
        shifts: K: maps of K x K copies, shifted by parts of a patch, are averaged; 1 takes the image as it is.
        anatomy: Whether to multiply in the anatomy stream's map.
        threshold: Of the model's map, 0 to 1, for IoU, Dice and boxes; None chooses it on images that are not scored.
        box_iou: IoU, 0 to 1, at which a predicted box finds a true one.
    """

    data: DataSet
    validation: DataSet | None = None
    prior: DataSet | None = None
    aside: float = 0.2
    layers: list[int] = field(default_factory=list)
    heads: list[int] = field(default_factory=list)
    shifts: Literal[1, 2, 4, 8] = 2
    anatomy: bool = False
    threshold: float | None = None
    box_iou: float = 0.3

    def __post_init__(self) -> None:
        # What grounding would refuse is refused here, before any other data set is evaluated.
        GroundConfig(Path(), self.data, aside=self.aside, threshold=self.threshold, box_iou=self.box_iou)


@dataclass(frozen=True)
class EvaluateAllConfig:
    """Evaluate a model on every data set that is there.

    Attributes:
        checkpoint: The weights: ours, or the authors' .pth; a pattern such as runs/*/best.safetensors takes the newest
            file that matches.
        classification: Name -> a data set to classify zero-shot. Those whose path does not exist are left out, and named.
        grounding: Name -> a data set to ground.
        text_encoder: Where the checkpoint's text encoder is, for free text, if not under the name that it recorded.
        authors: How to read the authors' .pth.
        resamples: Bootstrap resamples of patients.
        seed: Of the resamples, and of the patients set aside.
        batch_size: Images at a time.
        workers: Processes that decode images.
        device: Where to compute.
        output: The folder of all runs; None takes runs/evaluate_all/DATE-TIME.
    """

    checkpoint: Path
    classification: dict[str, ClassificationSet] = field(default_factory=dict)
    grounding: dict[str, GroundingSet] = field(default_factory=dict)
    text_encoder: str | None = None
    authors: AuthorsConfig = field(default_factory=AuthorsConfig)
    resamples: int = 1000
    seed: int = 0
    batch_size: int = 64
    workers: int = 2
    device: Device = "auto"
    output: Path | None = None

    def __post_init__(self) -> None:
        check_at_least(self, resamples=0, seed=0, batch_size=1, workers=0)
        if not (self.classification or self.grounding):
            raise InputError("classification, grounding: not given")
        for name in (*self.classification, *self.grounding):
            if Path(name).name != name or name == "..":
                raise InputError(f"{name!r} cannot be a data set's name: its run folder is called after it")


@dataclass(frozen=True)
class _Step:
    """One evaluation.

    Attributes:
        data_set: Its name.
        task: "zeroshot_cls" or "grounding", the folder of its run in the output.
        path: Where the data set is.
        run: Evaluates it into a folder; returns the tables, None without labels.
    """

    data_set: str
    task: Literal["zeroshot_cls", "grounding"]
    path: Path
    run: Callable[[Path], dict[str, pd.DataFrame] | None]


def run(config: EvaluateAllConfig, show: bool = True) -> Path:
    """Evaluate; returns the output folder.

    It then holds config.yaml, results.md, results.csv (a row per score: data_set, task, findings, class, map, score, value,
    low, high, n), metrics.json, run.html of all runs, and the complete run directory of each data set, zeroshot_cls/NAME or
    grounding/NAME.

    Args:
        config: What to evaluate on what.
        show: Whether to print the tables.

    Raises:
        InputError: The checkpoint cannot be used, no data set exists, or one is broken; the others are evaluated first.
    """
    output = config.output or RUNS / "evaluate_all" / timestamp()
    check_unused(output)
    checkpoint = newest(config.checkpoint)
    config = replace(config, checkpoint=checkpoint, output=output)
    steps = list(_steps(config))
    if not any(step.path.exists() for step in steps):
        paths = ", ".join(dict.fromkeys(str(step.path) for step in steps)) or "none is configured"
        raise InputError(f"no data set found: {paths}; name some, as in --config configs/evaluate_all/published.yaml")
    provenance = open_weights(checkpoint, config.authors).card.provenance
    begin(output, config)
    found: dict[tuple[str, str], dict[str, pd.DataFrame]] = {}
    states = []
    for step in steps:
        folder = output / step.task / step.data_set
        state, why = "done", ""
        if not step.path.exists():
            state, why = "not found", str(step.path)
        else:
            print(f"{step.task} on {step.data_set} ...", flush=True)
            try:
                tables = step.run(folder)
            except InputError as error:
                state, why = "failed", str(error)
            else:
                why = "classified, no labels to score against" if tables is None else ""
                found |= {} if tables is None else {(step.data_set, step.task): tables}
        about = {"data_set": step.data_set, "task": step.task, "state": state, "why": why}
        states.append({**about, "run": str(folder)})
    failures = "; ".join(f"{s['task']} on {s['data_set']}: {s['why']}" for s in states if s["state"] == "failed")
    done = [Path(state["run"]) for state in states if state["state"] == "done"]
    if not done:
        discard_beginning(output)
        raise InputError(failures)
    tables = combine(found)
    title = f"Evaluation of {checkpoint}"
    page = results_page(title, tables, pd.DataFrame(states))
    write_text(output / "results.md", page)
    write_csv(results_table(tables), output / "results.csv")
    settings = {
        "checkpoint": str(checkpoint),
        "provenance": provenance,
        "bootstrap": {"resamples": config.resamples, "seed": config.seed, "level": 0.95},
    }
    device = str(choose_device(config.device))
    write_metrics(
        output, "evaluation of all data sets", {}, {"data_sets": pd.DataFrame(states), **tables}, settings, device
    )
    path = write_page(output, title, done)
    if show:
        print(f"\n{page}\nresults, metrics and runs: {output}\nrun page: {path}")
    if failures:
        raise InputError(f"{failures}; the others are in {output}")
    return output


def _steps(config: EvaluateAllConfig) -> Iterator[_Step]:
    for name, entry in config.classification.items():
        yield _Step(name, "zeroshot_cls", entry.data.path, partial(_classify, config, entry))
    for name, place in config.grounding.items():
        yield _Step(name, "grounding", place.data.path, partial(_ground, config, place))


def _classify(config: EvaluateAllConfig, entry: ClassificationSet, folder: Path) -> dict[str, pd.DataFrame] | None:
    keys = ("data", "validation", "prompt", "fibrosis")
    options: dict[str, Any] = _common(config) | {key: getattr(entry, key) for key in keys}
    return zeroshot_cls.run(ZeroshotConfig(**options, text_encoder=config.text_encoder, output=folder), show=False)


def _ground(config: EvaluateAllConfig, entry: GroundingSet, folder: Path) -> dict[str, pd.DataFrame]:
    keys = ("data", "validation", "prior", "aside", "layers", "heads", "shifts", "anatomy", "threshold", "box_iou")
    options: dict[str, Any] = _common(config) | {key: getattr(entry, key) for key in keys}
    return ground.run(GroundConfig(**options, output=folder), show=False)


def _common(config: EvaluateAllConfig) -> dict[str, Any]:
    """What every evaluation is configured with."""
    keys = ("checkpoint", "authors", "resamples", "seed", "batch_size", "workers", "device")
    return {key: getattr(config, key) for key in keys}


def combine(found: Mapping[tuple[str, str], Mapping[str, pd.DataFrame]]) -> dict[str, pd.DataFrame]:
    """The scores of all evaluations: "classification" and "grounding" -> a table, its first column the data set.

    Args:
        found: (data set, "zeroshot_cls" or "grounding") -> the tables of the run.
    """
    parts: dict[str, list[pd.DataFrame]] = {"classification": [], "grounding": []}
    for (name, task), tables in found.items():
        scores = tables["scores"].copy()
        scores.insert(0, "data_set", name)
        parts["classification" if task == "zeroshot_cls" else "grounding"].append(scores)
    return {key: pd.concat(tables, ignore_index=True) for key, tables in parts.items() if tables}


def results_table(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """results.csv: one row per score of every class and mean.

    Args:
        tables: What ``combine`` returned.
    """
    rows = []
    for task, table in tables.items():
        for record in table[table.get("map", pd.Series("model", table.index)) != ABOVE_PRIOR].to_dict("records"):
            about = {"data_set": record["data_set"], "task": task, "findings": record.get("findings", "")}
            about |= {"class": record["class"], "map": record.get("map", "model")}
            n = record["cases" if task == "grounding" else "images"]
            for score, found in record.items():
                if isinstance(found, Estimate):
                    values = {"value": found.value, "low": found.low, "high": found.high}
                    rows.append({**about, "score": score, **values, "n": n})
    return pd.DataFrame(rows)


def results_page(title: str, tables: Mapping[str, pd.DataFrame], states: pd.DataFrame) -> str:
    """results.md, in the form of the papers' tables.

    One table of data sets and one per data set of several classes for classification, one of data sets for grounding, and what
    has no results.

    Args:
        title: Of the page.
        tables: What ``combine`` returned.
        states: One row per evaluation: ``data_set``, ``task``, ``state``, ``why``.
    """
    parts = [f"# {title}", "Brackets hold 95 % intervals over resampled patients."]
    if "classification" in tables:
        scores = tables["classification"].drop(columns=["threshold"])
        means = scores[scores["class"] == MEAN].drop(columns=["class", "positives"])
        parts += ["## Zero-shot classification", to_markdown(means)]
        parts.append("Max F1 is over thresholds, the accuracy is at that threshold; means are over classes.")
        for name, of_set in scores.groupby("data_set", sort=False):
            if len(class_rows(of_set)) > 1:
                parts += [f"### {name}, by class", to_markdown(of_set.drop(columns="data_set"))]
    if "grounding" in tables:
        scores = tables["grounding"]
        of_all = scores[(scores["class"] == ALL) & (scores["map"] != ABOVE_PRIOR)].drop(columns=["class", "patients"])
        of_all = of_all.assign(findings=of_all["findings"] + " than a patch")
        parts += ["## Grounding", to_markdown(of_all)]
        parts.append(
            "Pointing game: the maximum lies inside a box; any pixel, the published rule: the maximal patch touches one. "
            "uniform: a map that is the same everywhere; prior: each class's mean box."
        )
    missing = states[states["why"] != ""]
    if len(missing):
        lines = [
            f"- {row.data_set} ({row.task}): {'' if row.state == 'done' else f'{row.state}: '}{row.why}"
            for row in missing.itertuples()
        ]
        parts += ["## Without results", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


COMMAND = (EvaluateAllConfig, run)
