"""A model and all data sets that exist -> one table in the form of the papers' tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import pandas as pd

from medslip.errors import InputError
from medslip.evaluation.bootstrap import Estimate
from medslip.evaluation.classification import MEAN, class_rows
from medslip.evaluation.grounding_scores import ABOVE_PRIOR, ALL
from medslip.evaluation.run_page import write_page
from medslip.evaluation.tables import to_markdown, write_csv
from medslip.files import write_text
from medslip.model.device import choose_device
from medslip.run_dir import begin, discard_beginning, write_metrics
from medslip.tasks import ground, zeroshot_cls
from medslip.tasks.ground import GroundConfig, GroundOptions
from medslip.tasks.weights import EvaluationConfig
from medslip.tasks.zeroshot_cls import ZeroshotConfig, ZeroshotOptions


@dataclass(frozen=True, kw_only=True)
class EvaluateAllConfig(EvaluationConfig):
    """Evaluate a model on all data sets whose paths exist.

    Attributes:
        classification: Name -> a data set to classify zero-shot. Those whose path does not exist are skipped and listed.
        grounding: Name -> a data set to ground.
        text_encoder: The checkpoint's text encoder, for free text, if it is not found under its recorded name.
    """

    classification: dict[str, ZeroshotOptions] = field(default_factory=dict)
    grounding: dict[str, GroundOptions] = field(default_factory=dict)
    text_encoder: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.classification or self.grounding):
            raise InputError("classification, grounding: not given")
        for name in (*self.classification, *self.grounding):
            if Path(name).name != name or name == "..":
                raise InputError(
                    f"{name!r} cannot be the name of a data set, because its run directory is named after it"
                )


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
    config, output = config.resolved("evaluate_all")
    steps: list[tuple[str, str, ZeroshotOptions | GroundOptions]] = [
        *(("zeroshot_cls", name, entry) for name, entry in config.classification.items()),
        *(("grounding", name, entry) for name, entry in config.grounding.items()),
    ]
    if not any(entry.data.path.exists() for _, _, entry in steps):
        paths = ", ".join(dict.fromkeys(str(entry.data.path) for _, _, entry in steps))
        raise InputError(
            f"no data set found: {paths}; give the paths of yours, as in --config configs/evaluate_all/paper.yaml"
        )
    provenance = config.open().card.provenance
    begin(output, config)
    found: dict[tuple[str, str], Mapping[str, pd.DataFrame]] = {}
    rows = []
    for task, name, entry in steps:
        folder, state, why = output / task / name, "done", ""
        if not entry.data.path.exists():
            state, why = "not found", str(entry.data.path)
        else:
            print(f"{task} on {name} ...", flush=True)
            try:
                tables = _evaluate(config, entry, folder)
                found |= {(name, task): tables} if tables else {}
                why = "" if tables else "classified; no labels to score against"
            except InputError as error:
                state, why = "failed", str(error)
        rows.append({"data_set": name, "task": task, "state": state, "why": why, "run": str(folder)})
    states = pd.DataFrame(rows)
    failed = states[states["state"] == "failed"]
    failures = "; ".join(failed["task"] + " on " + failed["data_set"] + ": " + failed["why"])
    done = [Path(folder) for folder in states.loc[states["state"] == "done", "run"]]
    if not done:
        discard_beginning(output)
        raise InputError(failures)
    combined, title = combine(found), f"Evaluation of {config.checkpoint}"
    page = results_page(title, combined, states)
    write_text(output / "results.md", page)
    write_csv(results_table(combined), output / "results.csv")
    settings = {
        "checkpoint": str(config.checkpoint),
        "provenance": provenance,
        "bootstrap": {"resamples": config.resamples, "seed": config.seed, "level": 0.95},
    }
    device = str(choose_device(config.device))
    write_metrics(output, "evaluation of all data sets", {}, {"data_sets": states, **combined}, settings, device)
    path = write_page(output, title, done)
    if show:
        print(f"\n{page}\nresults, metrics and runs: {output}\nrun page: {path}")
    if failures:
        raise InputError(f"{failures}; the others are in {output}")
    return output


def _evaluate(
    config: EvaluateAllConfig, entry: ZeroshotOptions | GroundOptions, folder: Path
) -> Mapping[str, pd.DataFrame] | None:
    """Classify or ground one data set into a folder."""
    common = {each.name: getattr(config, each.name) for each in fields(EvaluationConfig)}
    options: dict[str, Any] = common | vars(entry) | {"output": folder, "text_encoder": config.text_encoder}
    if isinstance(entry, GroundOptions):
        return ground.run(GroundConfig(**options), show=False)
    return zeroshot_cls.run(ZeroshotConfig(**options), show=False)


def combine(found: Mapping[tuple[str, str], Mapping[str, pd.DataFrame]]) -> dict[str, pd.DataFrame]:
    """The scores of all evaluations: "classification" and "grounding" -> a table, its first column the data set.

    Args:
        found: (data set, "zeroshot_cls" or "grounding") -> the tables of the run.
    """
    parts: dict[str, list[pd.DataFrame]] = {"classification": [], "grounding": []}
    for (name, task), tables in found.items():
        scores = pd.concat([tables[key] for key in ("class_scores", "scores") if key in tables], ignore_index=True)
        scores.insert(0, "data_set", name)
        parts["classification" if task == "zeroshot_cls" else "grounding"].append(scores)
    return {key: pd.concat(tables, ignore_index=True) for key, tables in parts.items() if tables}


_RESULTS = ["data_set", "task", "findings", "class", "map", "score", "value", "low", "high", "n"]
"""The columns of results.csv."""


def results_table(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """results.csv: one row per score of every class and mean.

    Args:
        tables: What ``combine`` returned.
    """
    rows = []
    for task, table in tables.items():
        for record in table.to_dict("records"):
            about = {"data_set": record["data_set"], "task": task, "findings": record.get("findings", "")}
            about |= {"class": record["class"], "map": record.get("map", "model")}
            n = record["cases" if task == "grounding" else "images"]
            for score, found in record.items():
                if isinstance(found, Estimate):
                    values = {"value": found.value, "low": found.low, "high": found.high}
                    rows.append({**about, "score": score, **values, "n": n})
    results = pd.DataFrame(rows, columns=_RESULTS)
    return results[results["map"] != ABOVE_PRIOR]


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
