"""A model and every data set that is there -> one table in the shape of the papers' tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from medslip.data.dataset import DataSet
from medslip.errors import InputError
from medslip.evaluation.report import write_report
from medslip.evaluation.results_table import Classified, Grounded, results_page
from medslip.evaluation.run_folder import METRICS_FORMAT, METRICS_VERSION, environment, write_json
from medslip.files import write_text, written_whole
from medslip.model.device import choose_device
from medslip.tasks import ground, zeroshot_cls
from medslip.tasks.ground import GroundConfig
from medslip.tasks.run_start import RUNS, begin_run, discard_start, refuse_less, refuse_used, timestamp
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
        refuse_less(self, resamples=0, seed=0, batch_size=1, workers=0)
        if not (self.classification or self.grounding):
            raise InputError("classification, grounding: not given")
        for name in (*self.classification, *self.grounding):
            if Path(name).name != name or name == "..":
                raise InputError(f"{name!r} cannot be a data set's name: its run folder is called after it")


@dataclass(frozen=True)
class _Step:
    """One evaluation.

    Attributes:
        name: The data set's.
        task: Folder of its run, in the output.
        path: Where the data set is.
        run: Does it, into a folder.
    """

    name: str
    task: Literal["zeroshot_cls", "grounding"]
    path: Path
    run: Callable[[Path], Classified | Grounded | None]


def run(config: EvaluateAllConfig, show: bool = True) -> Path:
    """Evaluate; returns the output folder.

    It then holds config.yaml, results.md, results.csv (a line a score: data_set, task, subset, name, map, score, value, low,
    high, n), metrics.json, report.html of all runs, and each data set's complete run folder, zeroshot_cls/NAME or
    grounding/NAME.

    Args:
        config: What to evaluate on what.
        show: Whether to print the tables.

    Raises:
        InputError: The checkpoint cannot be used, no data set is there, or one is broken; the others are evaluated first.
    """
    output = config.output or RUNS / "evaluate_all" / timestamp()
    refuse_used(output)
    checkpoint = newest(config.checkpoint)
    config = replace(config, checkpoint=checkpoint, output=output)
    steps = list(_steps(config))
    there = [step for step in steps if step.path.exists()]
    if not there:
        paths = ", ".join(dict.fromkeys(str(step.path) for step in steps)) or "none is configured"
        raise InputError(
            f"no data set is there: {paths}; name some, as in --config configs/evaluate_all/published.yaml"
        )
    provenance = open_weights(checkpoint, config.authors).card.provenance
    begin_run(output, config)
    found: list[Classified | Grounded] = []
    states: list[dict[str, Any]] = []
    for step in steps:
        folder = output / step.task / step.name
        state, why = "done", ""
        if step not in there:
            state, why = "not there", str(step.path)
        else:
            print(f"{step.task} on {step.name} ...", flush=True)
            try:
                result = step.run(folder)
            except InputError as error:
                state, why = "failed", str(error)
            else:
                found += [] if result is None else [result]
                why = "classified, no labels to score against" if result is None else ""
        states.append({"name": step.name, "task": step.task, "state": state, "why": why, "run": str(folder)})
    failed = [state for state in states if state["state"] == "failed"]
    if len(failed) == len(there):
        discard_start(output)
        raise InputError(_failures(failed))
    page = _write(output, config, states, found, provenance)
    done = [Path(state["run"]) for state in states if state["state"] == "done"]
    write_report(output, f"Evaluation of {checkpoint}", done)
    if show:
        print(f"\n{page}\nresults, metrics, runs and report: {output}")
    if failed:
        raise InputError(f"{_failures(failed)}; the others are in {output}")
    return output


def _failures(failed: list[dict[str, Any]]) -> str:
    return "; ".join(f"{state['task']} on {state['name']}: {state['why']}" for state in failed)


def _steps(config: EvaluateAllConfig) -> Iterator[_Step]:
    for name, entry in config.classification.items():
        yield _Step(name, "zeroshot_cls", entry.data.path, _classify(config, name, entry))
    for name, place in config.grounding.items():
        yield _Step(name, "grounding", place.data.path, _ground(config, name, place))


def _classify(
    config: EvaluateAllConfig, name: str, entry: ClassificationSet
) -> Callable[[Path], Classified | Grounded | None]:
    def classify(folder: Path) -> Classified | None:
        asked = ZeroshotConfig(
            **_common(config),
            data=entry.data,
            validation=entry.validation,
            prompt=entry.prompt,
            fibrosis=entry.fibrosis,
            text_encoder=config.text_encoder,
            output=folder,
        )
        scores = zeroshot_cls.run(asked, show=False)
        return None if scores is None else Classified(name, scores, zeroshot_cls.second_mean_without(entry.data))

    return classify


def _ground(
    config: EvaluateAllConfig, name: str, entry: GroundingSet
) -> Callable[[Path], Classified | Grounded | None]:
    keys = ("validation", "prior", "aside", "layers", "heads", "shifts", "anatomy", "threshold", "box_iou")
    options: dict[str, Any] = {key: getattr(entry, key) for key in keys}

    def look(folder: Path) -> Grounded:
        asked = GroundConfig(**_common(config), **options, data=entry.data, output=folder)
        return Grounded(name, ground.run(asked, show=False))

    return look


def _common(config: EvaluateAllConfig) -> dict[str, Any]:
    """What every evaluation takes alike."""
    keys = ("checkpoint", "authors", "resamples", "seed", "batch_size", "workers", "device")
    return {key: getattr(config, key) for key in keys}


def _write(
    output: Path,
    config: EvaluateAllConfig,
    states: list[dict[str, Any]],
    found: list[Classified | Grounded],
    provenance: Any,
) -> str:
    """Write results.md, results.csv and metrics.json, whose shape is in docs/metrics.md; returns the page."""
    classified = [entry for entry in found if isinstance(entry, Classified)]
    grounded = [entry for entry in found if isinstance(entry, Grounded)]
    missing = [
        f"{state['name']} ({state['task']}): {'' if state['state'] == 'done' else state['state'] + ': '}{state['why']}"
        for state in states
        if state["why"]
    ]
    results = [result for entry in found for result in entry.results()]
    page = results_page(f"Evaluation of {config.checkpoint}", classified, grounded, missing)
    write_text(output / "results.md", page)
    with written_whole(output / "results.csv") as partial:
        pd.DataFrame([line for result in results for line in result.lines()]).to_csv(partial, index=False)
    metrics = {
        "format": METRICS_FORMAT,
        "version": METRICS_VERSION,
        "task": "evaluation of all data sets",
        "checkpoint": str(config.checkpoint),
        "provenance": provenance,
        "data_sets": states,
        "bootstrap": {"resamples": config.resamples, "seed": config.seed, "level": 0.95},
        "results": [asdict(result) for result in results],
        "environment": environment(str(choose_device(config.device))),
    }
    write_json(output / "metrics.json", metrics)
    return page


COMMAND = (EvaluateAllConfig, run)
