"""Grounding: where the model looks for each finding, compared with where it is -> scores, baselines, overlays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from tqdm import tqdm

from medslip.data.dataset import DataSet
from medslip.data.images import read_image
from medslip.data.masks import decode_mask
from medslip.data.splits import set_aside
from medslip.data.table import METADATA, Finding, ImageTable, check_shared
from medslip.errors import InputError
from medslip.evaluation.classifier import metadata_columns
from medslip.evaluation.figures import Tile, box_curves, overview
from medslip.evaluation.grounding import box_region, mean_box_grid, overlap
from medslip.evaluation.grounding_scores import (
    ABOVE_PRIOR,
    ALL,
    CASE_SCORES,
    MAPS,
    SIZES,
    BoxRanking,
    MapPair,
    Truth,
    choose_threshold,
    score_case,
    score_grounding,
)
from medslip.evaluation.sides import WAYS, score_sides, side_of
from medslip.evaluation.subgroups import MeansInGroup, by_group
from medslip.evaluation.tables import to_text, write_predictions
from medslip.predictor import Predictor, Sight, check_attention
from medslip.run_dir import begin, bootstrap_settings, finish, removed_on_error
from medslip.tasks.weights import EvaluationConfig
from medslip.vocabulary import class_queries

Grid = npt.NDArray[np.float64]

PRIOR_SIDE = 64
"""Cells along each side of the prior."""

_TILES = 4


@dataclass(frozen=True, kw_only=True)
class GroundOptions:
    """What to ground, and how.

    Attributes:
        data: The images, which have boxes or masks.
        validation: Images, of patients other than the scored ones, on which the thresholds are chosen. None sets a fraction
            of the patients aside for this.
        prior: Images whose boxes are averaged for the baseline, of patients other than the scored ones; None takes the
            validation images.
        aside: Fraction of the patients to set aside without validation images, 0 to 1.
        layers: Decoder layers whose attention is averaged, from 0; empty for all.
        heads: Attention heads of these layers, from 0; empty for all.
        shifts: K: average the maps of K x K copies of an image, each shifted by a fraction of a patch, which resolves places
            within a patch; K x K + 1 times the work. 1 uses the unshifted image only.
        anatomy: Whether to multiply by the anatomy stream's map: its attention, weighted by the anatomies that the model pairs
            with the pathology in this image.
        threshold: Threshold of the model's map, 0 to 1, for IoU, Dice and boxes; None chooses the one with the best mean IoU
            on the validation images.
        box_iou: IoU, 0 to 1, from which a predicted box matches a true one.
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
        if not 0 < self.aside < 1:
            raise InputError(f"aside: {self.aside} is not between 0 and 1")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise InputError(f"threshold: {self.threshold} is outside 0..1")
        if not 0 < self.box_iou <= 1:
            raise InputError(f"box_iou: {self.box_iou} is not above 0 and at most 1")
        if self.validation is not None and self.validation.equalise != self.data.equalise:
            raise InputError("validation.equalise: differs from data.equalise; use the same value for both")


@dataclass(frozen=True, kw_only=True)
class GroundConfig(EvaluationConfig, GroundOptions):
    """Ground findings, anatomies or sentences zero-shot: compare attention maps with boxes or masks.

    Attributes:
        text_encoder: The checkpoint's text encoder, for sentences, if it is not found under its recorded name.
    """

    text_encoder: str | None = None

    def __post_init__(self) -> None:
        EvaluationConfig.__post_init__(self)
        GroundOptions.__post_init__(self)


@dataclass(frozen=True)
class Splits:
    """Images by what they are for.

    Attributes:
        prior: Their boxes make the prior; their pixels are not read.
        tuning: Thresholds are chosen on them.
        scored: The images that are scored.
    """

    prior: ImageTable
    tuning: ImageTable
    scored: ImageTable


@dataclass(frozen=True)
class Case:
    """A finding on an image, and what the model predicts of it.

    Attributes:
        index: The image's row in its table.
        path: The image's file.
        patient: Its patient; the file's path where unknown, so that an image's findings are resampled together.
        frame: Height and width that its boxes are given in.
        finding: Where the finding is.
        seen: The model's map, its probability of the finding, and the side that it leans to.
    """

    index: int
    path: Path
    patient: str
    frame: tuple[int, int]
    finding: Finding
    seen: Sight

    def truth(self) -> Truth:
        """Where the finding is, pixel by pixel.

        Raises:
            InputError: Its mask cannot be used.
        """
        if not self.finding.masks:
            return Truth(self.finding.boxes, box_region(self.finding.boxes, *self.frame))
        region = np.logical_or.reduce([decode_mask(mask, *self.frame) for mask in self.finding.masks])
        if not region.any():
            raise InputError(
                f"{self.path}: the mask of {self.finding.label} is empty; draw what the finding covers, or remove it"
            )
        return Truth(self.finding.boxes, region)

    def maps(self, baselines: Baselines) -> dict[str, MapPair]:
        """The maps that are scored, by the names in MAPS."""
        return {"model": self.seen.map} | {name: of_class[self.finding.label] for name, of_class in baselines.items()}


Baselines = Mapping[str, Mapping[str, MapPair]]
""""uniform" and "prior" -> class -> map."""


def run(config: GroundConfig, show: bool = True) -> dict[str, pd.DataFrame]:
    """Ground findings; returns the tables of metrics.json: ``scores`` of all findings, ``class_scores``, ``sides``, subgroups.

    The run directory then holds config.yaml, predictions.csv (a row per finding), metrics.json, overlays.png,
    box_precision_recall.png and run.html.

    Args:
        config: What to ground with what.
        show: Whether to print the tables.

    Raises:
        InputError: The checkpoint, an image, a box, a mask, a class, a layer or a head cannot be used.
    """
    config, output = config.resolved("ground")
    weights = config.open()
    check_attention(weights.card.model, config.layers, config.heads)
    splits = read_splits(config)
    for reason, count in splits.scored.left_out.items():
        if show and count:
            print(f"{splits.scored.name}: left out {count:,} {reason}")
    predictor = config.predictor(weights, config.data.equalise, config.text_encoder)
    scored = look(predictor, splits.scored, config)
    patches = scored[0].seen.map.patches.shape
    baselines = make_baselines(splits, patches[0])
    thresholds = choose_thresholds(look(predictor, splits.tuning, config), baselines)
    if config.threshold is not None:
        thresholds["model"] = config.threshold
    cases = score_cases(scored, splits.scored, baselines, thresholds, config.box_iou)
    scores = score_grounding(cases, config.resamples, config.seed)
    tables = {"scores": scores[scores["class"] == ALL], "class_scores": scores[scores["class"] != ALL]}
    tables["sides"] = score_sides(cases[cases["left_icl"].notna()], config.resamples, config.seed)
    tables |= pointing_by_group(cases, config.resamples, config.seed)
    begin(output, config)
    with removed_on_error(output):
        write_predictions(prediction_table(cases), output, config.patients, float_format="%.6g")
        overview(output / "overlays.png", _tiles(scored, cases), _TILES)
        box_curves(output / "box_precision_recall.png", _box_curves(cases, tables["scores"]))
        frames = {case.frame for case in scored}
        data = {
            "name": splits.scored.name,
            "kind": config.data.kind,
            "path": str(config.data.path),
            "images": len(splits.scored),
            "patients": cases["patient"].nunique(),
            "findings": len(cases),
            "prior_boxes": 0 if splits.prior.findings is None else len(splits.prior.findings),
            "tuning_images": len(splits.tuning),
            "frame": frames.pop() if len(frames) == 1 else None,
        }
        settings = bootstrap_settings(config.resamples, config.seed, splits.scored.patients) | {
            "thresholds": thresholds,
            "patches": patches,
            **{name: getattr(config, name) for name in ("box_iou", "shifts", "layers", "heads", "anatomy")},
            "checkpoint": str(config.checkpoint),
            "provenance": weights.card.provenance,
        }
        page = finish(output, "grounding", data, tables, settings, str(predictor.device))
    if show:
        _show(tables, thresholds, config)
        print(f"predictions, metrics and overlays: {output}\nrun page: {page}")
    return tables


def read_splits(config: GroundConfig) -> Splits:
    """The images that the config names, each with at least one finding.

    Raises:
        InputError: They cannot be read, have no boxes or masks, or share a patient.
    """
    scored = _localised(config.data)
    if config.validation is None:
        tuning, scored = set_aside(scored, config.aside, config.seed)
    else:
        tuning = _localised(replace(config.validation, classes=_mapping(config)))
        check_shared({"validation": tuning, "data": scored})
    if config.prior is None:
        return Splits(tuning, tuning, scored)
    prior = _localised(config.prior)
    check_shared({"prior": prior, "data": scored})
    return Splits(prior, tuning, scored)


def _mapping(config: GroundConfig) -> dict[str, str]:
    """Class -> pathology; what is given for the scored images is also used for the validation images."""
    return ({} if config.validation is None else config.validation.classes) | config.data.classes


def _localised(data: DataSet) -> ImageTable:
    images = data.read()
    if not images.found().any():
        raise InputError(f"{images.name}: no image has a box or mask")
    return images.at(np.flatnonzero(images.found()))


def look(predictor: Predictor, images: ImageTable, config: GroundConfig) -> list[Case]:
    """Where the model looks for each finding of each image.

    Raises:
        InputError: An image cannot be read, or a class has no query.
    """
    findings = [images.findings_of(index) for index in range(len(images))]
    classes = sorted({each.label for of_image in findings for each in of_image if not each.text})
    query_of = dict(zip(classes, class_queries(classes, _mapping(config), images.name), strict=True))
    paths, names, patients = images.paths, images.images["path"].astype(str).tolist(), images.patients
    options = {name: getattr(config, name) for name in ("layers", "heads", "shifts", "anatomy")}
    queries = [[each.text or query_of[each.label] for each in of_image] for of_image in findings]
    cases: list[Case] = []
    for index, sights in enumerate(predictor.maps(paths, queries, **options)):
        patient = patients[index] or names[index]
        for finding, seen in zip(findings[index], sights, strict=True):
            cases.append(Case(index, paths[index], patient, images.frame(index), finding, seen))
    return cases


def make_baselines(splits: Splits, side: int) -> dict[str, dict[str, MapPair]]:
    """The maps to compare with: the same everywhere; and the mean box of the class, or of all classes if it has none.

    Args:
        splits: The prior's boxes, and the classes that need a map.
        side: Of the model's grid of patches.
    """
    boxes: dict[str, list[Grid]] = {}
    for index in range(len(splits.prior)):
        height, width = splits.prior.frame(index)
        for finding in splits.prior.findings_of(index):
            boxes.setdefault(finding.label, []).append(np.divide(finding.boxes, (width, height, width, height)))
    every = [box for found in boxes.values() for box in found]
    uniform, prior = {}, {}
    for name in {*splits.scored.finding_classes, *splits.tuning.finding_classes}:
        uniform[name] = MapPair(np.ones((1, 1)), np.ones((side, side)))
        found = np.concatenate(boxes.get(name, every))
        prior[name] = MapPair(mean_box_grid(found, PRIOR_SIDE), mean_box_grid(found, side))
    return {"uniform": uniform, "prior": prior}


def choose_thresholds(cases: Sequence[Case], baselines: Baselines) -> dict[str, float]:
    """For each map, the threshold with the best mean IoU over these cases."""
    curves: dict[str, list[Grid]] = {name: [] for name in MAPS}
    for case in tqdm(cases, desc="threshold", unit="finding", leave=False, mininterval=1, disable=None):
        region = case.truth().region
        for name, found in case.maps(baselines).items():
            iou, _ = overlap(found.heat_map(*case.frame), region)
            curves[name].append(iou)
    return {name: choose_threshold(found) for name, found in curves.items()}


def score_cases(
    cases: Sequence[Case],
    images: ImageTable,
    baselines: Baselines,
    thresholds: Mapping[str, float],
    box_iou: float,
) -> pd.DataFrame:
    """Score every map on every case.

    Args:
        cases: Findings of the images.
        images: For the metadata.
        baselines: The other maps.
        thresholds: Of each map.
        box_iou: The IoU at which a predicted box finds a true one.

    Returns:
        One row per case, as ``score_grounding`` and ``score_sides`` take them, with the image's metadata and the finding's
        ``probability``.
    """
    rows = []
    for case in tqdm(cases, desc="scores", unit="finding", leave=False, mininterval=1, disable=None):
        truth = case.truth()
        row = {
            "patient": case.patient,
            "class": case.finding.label,
            "text": case.finding.text,
            "probability": case.seen.probability,
            "larger_than_a_patch": truth.is_large(len(case.seen.map.patches)),
            "boxes": len(truth.boxes),
            "side": side_of(truth.boxes, case.frame[1]),
            **{f"left_{way}": value for way, value in zip(WAYS, case.seen.sides, strict=True)},
        }
        for name, found in case.maps(baselines).items():
            row |= {
                f"{name}_{key}": value for key, value in score_case(found, truth, thresholds[name], box_iou).items()
            }
        rows.append(row)
    metadata = images.images[["path", *METADATA]].iloc[[case.index for case in cases]].reset_index(drop=True)
    return pd.concat([metadata, pd.DataFrame(rows)], axis=1)


def prediction_table(cases: pd.DataFrame) -> pd.DataFrame:
    """The predictions.csv of a grounding, one row per finding; docs/metrics.md gives its columns."""
    columns = [
        "patient",
        "class",
        *(["text"] if cases["text"].any() else []),
        "probability",
        "larger_than_a_patch",
        "boxes",
        "side",
        *(f"left_{way}" for way in WAYS),
    ]
    columns += [f"{name}_{key}" for name in MAPS for key in (*CASE_SCORES, "box_confidences", "box_found")]
    table = cases[columns].copy()
    table.insert(0, "image", cases["path"].astype(str))
    table["patient"] = table["patient"].where(table["patient"] != table["image"], "")
    for column in table.filter(regex="_box_(confidences|found)$"):
        table[column] = cases[column].map(lambda values: " ".join(f"{float(value):.6g}" for value in values))
    return table.assign(**metadata_columns(cases))


def pointing_by_group(cases: pd.DataFrame, resamples: int, seed: int) -> dict[str, pd.DataFrame]:
    """The model's pointing game on larger findings, by sex, age and view; see ``by_group``."""
    larger = cases[cases["larger_than_a_patch"].astype(bool)].reset_index(drop=True)
    scores = larger[["model_pointing"]].set_axis(["pointing"], axis=1)
    return by_group(larger, lambda inside, owner: MeansInGroup(inside, owner, scores), resamples, seed)


def _box_curves(cases: pd.DataFrame, scores: pd.DataFrame) -> dict[str, dict[str, tuple[Grid, Grid]]]:
    """One panel per size, one curve per map, over all findings of the size."""
    panels = {}
    for size in SIZES:
        chosen = cases[cases["larger_than_a_patch"] == (size == "larger")]
        if len(chosen):
            average = scores[scores["findings"] == size].set_index("map")["box_precision"].map(float)
            panels[f"findings {size} than one patch"] = {
                f"{name}, {average[name]:.3f}": BoxRanking(chosen, name, np.arange(len(chosen))).curve()
                for name in MAPS
            }
    return panels


def _tiles(cases: Sequence[Case], scores: pd.DataFrame) -> list[Tile]:
    """The best, middling and worst cases by pixel AUROC, one row each; an image occurs once per row."""
    auroc = scores["model_pixel_auroc"].dropna().sort_values(ascending=False, kind="stable")
    from_median = (auroc - auroc.median()).abs().sort_index().sort_values(kind="stable")
    rows = {"best": auroc.index, "median": from_median.index, "worst": auroc.index[::-1]}
    return [
        _tile(name, cases[index], auroc[index])
        for name, order in rows.items()
        for index in scores.loc[order].drop_duplicates("path").index[:_TILES]
    ]


def _tile(name: str, case: Case, auroc: float) -> Tile:
    image = read_image(case.path)
    height, width = case.frame
    down, across = image.shape[0] / height, image.shape[1] / width
    boxes = [(x * across, y * down, w * across, h * down) for x, y, w, h in case.finding.boxes]
    title = f"{name}: {case.finding.label}\npixel AUROC {auroc:.2f}, probability {case.seen.probability:.2f}"
    return Tile(image, title, case.seen.map.heat_map(height, width), boxes)


def map_table(scores: pd.DataFrame, size: str) -> pd.DataFrame:
    """One row per score, over all findings of a size: the model, the baselines, and how far the model is above the prior."""
    rows = scores[scores["findings"] == size].set_index("map")[[*CASE_SCORES, "box_precision"]].T
    for name in ("uniform", "prior"):
        rows[name] = rows[name].map(float)
    return rows[[*MAPS, ABOVE_PRIOR]].rename_axis("score").reset_index()


def _show(tables: Mapping[str, pd.DataFrame], thresholds: Mapping[str, float], config: GroundConfig) -> None:
    classes = tables["class_scores"]
    for size in tables["scores"]["findings"].unique():
        print(f"findings {size} than one patch\n\n{ALL}\n{to_text(map_table(tables['scores'], size))}\n")
        of_size = classes[(classes["findings"] == size) & (classes["map"] == "model")]
        of_size = of_size.drop(columns=["findings", "map", "patients"])
        of_size[list(CASE_SCORES[1:])] = of_size[list(CASE_SCORES[1:])].map(float)
        print(f"{to_text(of_size)}\n")
    if len(tables["sides"]):
        print(f"findings on one side: how often the model knows which (chance 0.5)\n{to_text(tables['sides'])}\n")
    for name in ("subgroups", "subgroup_gaps"):
        if len(tables[name]):
            print(f"pointing game on larger findings\n{to_text(tables[name])}\n")
    chosen = ", ".join(f"{name} {value:.2f}" for name, value in thresholds.items())
    print("pointing game: the maximum's pixel is inside a box; any pixel (published): the maximal patch touches one")
    if config.shifts > 1:
        print("the pointing game is of the map over shifted copies, any pixel of the unshifted image")
    print(f"IoU, Dice and boxes at thresholds {chosen}; a box is found at IoU {config.box_iou:g}")


COMMAND = (GroundConfig, run)
