"""Grounding: where the model looks for each finding, against where it is -> scores beside chance, overlays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from medslip.data.boxes import Rectangle
from medslip.data.grounded import (
    GroundedFinding,
    GroundedImages,
    read_cxr14,
    read_phantoms,
    read_region,
    read_rsna,
    split_patients,
)
from medslip.data.image_labels import class_pathologies
from medslip.data.images import read_image
from medslip.errors import InputError
from medslip.evaluation.estimates import subgroup_entries
from medslip.evaluation.figures import BoxCurve, Tile, box_curves, overview
from medslip.evaluation.grounding import (
    anatomy_grids,
    attention_grids,
    box_region,
    heat_map,
    interleave,
    mean_box_grid,
    overlap,
)
from medslip.evaluation.grounding_report import (
    ALL,
    SIZES,
    chance_table,
    class_table,
    write_case_scores,
    write_grounding_metrics,
)
from medslip.evaluation.grounding_scores import (
    CASE_SCORES,
    MAPS,
    CaseScores,
    GroupScores,
    MapPair,
    Truth,
    choose_threshold,
    precision_recall,
    score_case,
    score_groups,
)
from medslip.evaluation.report import write_report
from medslip.evaluation.run_folder import attribute_columns, subgroup_lines
from medslip.evaluation.subgroup_means import subgroup_means
from medslip.evaluation.subgroups import AttributeScores, groups_of
from medslip.model.medslip import MeDSLIPOutput
from medslip.predictor import Predictor, present_probability
from medslip.tasks.run_start import RUNS, begin_run, refuse_less, refuse_used, timestamp
from medslip.tasks.weights import AuthorsConfig, newest, open_weights
from medslip.training.distributed import Device
from medslip.vocabulary import pathology_index

Grid = npt.NDArray[np.float64]

PRIOR_SIDE = 64
"""Cells along each side of the prior."""

_TILES = 4


@dataclass(frozen=True)
class GroundedDataConfig:
    """Which images with boxes.

    Attributes:
        kind: "phantom": a phantom corpus, its test split, with masks; "cxr14": the publisher's ChestX-ray14 folder;
            "rsna": RSNA Pneumonia, the publisher's folder or the authors' CSV.
        path: The folder, or the CSV.
        list: "cxr14": which images, a file of names in the folder or elsewhere.
        images: "rsna": the folder of the images, where it is not the CSV's own, or not where the publisher has it.
        equalise: Spread the grey values of each image first (histogram equalisation), as published for RSNA.
        aside: "cxr14", "rsna": share of the patients with boxes, 0 to 1, that is not scored, but gives thresholds and prior.
            Phantoms have a validation split for the thresholds, and training boxes for the prior.
        classes: Class -> pathology, for classes that are not named after one.
    """

    kind: Literal["phantom", "cxr14", "rsna"]
    path: Path
    list: Path = Path("test_list.txt")
    images: Path | None = None
    equalise: bool = False
    aside: float = 0.2
    classes: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 < self.aside < 1:
            raise InputError(f"data.aside: {self.aside} is not between 0 and 1")
        if self.images is not None and self.kind != "rsna":
            raise InputError(f"data.images: not read for data.kind {self.kind}; leave it out")


@dataclass(frozen=True)
class GroundConfig:
    """Compare where the model looks with where the findings are.

    Attributes:
        checkpoint: The weights: ours, or the authors' .pth; a pattern such as runs/*/best.safetensors takes the newest
            file that matches.
        data: Which images.
        layers: Decoder layers whose attention is averaged, from 0; none named means all.
        heads: Attention heads of these layers, from 0; none named means all.
        shifts: K: the maps of K x K copies of an image, each shifted by parts of a patch, are laid over it and averaged, which
            tells places apart that one patch holds; K x K + 1 times the work. 1 takes the image as it is, once.
        anatomy: Whether to multiply in the anatomy stream's map: its attention, weighted by the anatomies that the model pairs
            with the pathology in this image.
        threshold: Of the model's map, 0 to 1, for IoU, Dice and boxes; None chooses the one of best mean IoU on images that are
            not scored.
        box_iou: IoU, 0 to 1, at which a predicted box finds a true one.
        authors: How to read the authors' .pth.
        resamples: Bootstrap resamples of patients.
        seed: Of the resamples, and of the patients set aside.
        batch_size: Images at a time.
        workers: Processes that decode images.
        device: Where to compute.
        output: The run folder; None takes runs/ground/DATE-TIME.
    """

    checkpoint: Path
    data: GroundedDataConfig
    layers: list[int] = field(default_factory=list)
    heads: list[int] = field(default_factory=list)
    shifts: Literal[1, 2, 4, 8] = 2
    anatomy: bool = False
    threshold: float | None = None
    box_iou: float = 0.3
    authors: AuthorsConfig = field(default_factory=AuthorsConfig)
    resamples: int = 1000
    seed: int = 0
    batch_size: int = 64
    workers: int = 2
    device: Device = "auto"
    output: Path | None = None

    def __post_init__(self) -> None:
        refuse_less(self, resamples=0, seed=0, batch_size=1, workers=0)
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise InputError(f"threshold: {self.threshold} is outside 0..1")
        if not 0 < self.box_iou <= 1:
            raise InputError(f"box_iou: {self.box_iou} is not above 0 and at most 1")


@dataclass(frozen=True)
class Splits:
    """Images by what they are for.

    Attributes:
        prior: Their boxes make the prior; their pixels are not read.
        tuning: Thresholds are chosen on them.
        scored: What the scores are of.
    """

    prior: GroundedImages
    tuning: GroundedImages
    scored: GroundedImages


@dataclass(frozen=True)
class Case:
    """A finding on an image, and what the model says of it.

    Attributes:
        image: Its file.
        patient: Its patient; the file's path where unknown.
        finding: Where it is.
        frame: Height and width that its boxes are given in.
        grid: The model's map, Kg x Kg with K shifts.
        centre: The point of its cells that the values stand for; see ``heat_map``.
        patches: g x g, the model's patches, of the image as it is.
        probability: The model's probability that it is there, of the image as it is.
    """

    image: Path
    patient: str
    finding: GroundedFinding
    frame: tuple[int, int]
    grid: Grid
    centre: float
    patches: Grid
    probability: float

    def truth(self) -> Truth:
        """Where the finding is, pixel by pixel.

        Raises:
            InputError: Its mask cannot be used.
        """
        if self.finding.mask is None:
            return Truth(self.finding.boxes, box_region(self.finding.boxes, *self.frame))
        return Truth(self.finding.boxes, read_region(self.finding.mask, self.frame))


def run(config: GroundConfig, show: bool = True) -> Mapping[str, Sequence[GroupScores]]:
    """Ground; returns the scores of larger and of smaller findings: every class, then all.

    The run folder then holds config.yaml, scores.csv (a line a finding), metrics.json, overlays.png,
    box_precision_recall.png and report.html.

    Args:
        config: What to ground with what.
        show: Whether to print the tables.

    Raises:
        InputError: The checkpoint, an image, a box, a mask, a class, a layer or a head cannot be used.
    """
    output = config.output or RUNS / "ground" / timestamp()
    refuse_used(output)
    checkpoint = newest(config.checkpoint)
    weights = open_weights(checkpoint, config.authors)
    model = weights.card.model
    _check_numbers("layers", config.layers, model.decoder_layers)
    _check_numbers("heads", config.heads, model.decoder_heads)
    splits = read_splits(config.data, config.seed)
    config = replace(config, checkpoint=checkpoint, output=output)
    device = None if config.device == "auto" else config.device
    predictor = Predictor(weights, device, config.batch_size, config.workers, config.data.equalise)
    scored = look(predictor, splits.scored, config)
    side = len(scored[0].patches)
    chance = {"uniform": _uniform(splits, side), "prior": _prior(splits, side)}
    thresholds = _thresholds(look(predictor, splits.tuning, config), chance)
    if config.threshold is not None:
        thresholds["model"] = config.threshold
    answers, larger = _score(scored, chance, thresholds, config.box_iou)
    groups = _groups(scored, larger, answers, config)
    parts = _subgroups(splits.scored, larger, answers["model"], config)
    begin_run(output, config)
    _write(config, output, splits, scored, larger, answers, groups, parts, thresholds, predictor)
    if show:
        _show(groups, parts, thresholds, config, output)
    report = write_report(output)
    if show:
        print(f"report: {report}")
    return groups


def _check_numbers(name: str, chosen: Sequence[int], number: int) -> None:
    for value in chosen:
        if not 0 <= value < number:
            raise InputError(f"{name}: {value} is not one of the checkpoint's, 0 to {number - 1}")


def read_splits(config: GroundedDataConfig, seed: int) -> Splits:
    """The images that the config names.

    Args:
        config: Which.
        seed: Of the patients set aside.

    Raises:
        InputError: They cannot be read, or a film is missing.
    """
    if config.kind == "phantom":
        train, valid, test = (read_phantoms(config.path, split) for split in ("train", "valid", "test"))
        return Splits(train, valid, test)
    images = read_cxr14(config.path, config.list) if config.kind == "cxr14" else read_rsna(config.path, config.images)
    aside, scored = split_patients(images, config.aside, seed)
    return Splits(aside, aside, scored)


def look(predictor: Predictor, images: GroundedImages, config: GroundConfig) -> list[Case]:
    """Where the model looks for each finding of each image.

    Raises:
        InputError: An image cannot be read, or a class stands for no pathology.
    """
    pathologies = class_pathologies(images.classes, config.data.classes, str(config.data.path))
    column = {name: pathology_index(pathology) for name, pathology in zip(images.classes, pathologies, strict=True)}
    asked = sorted(set(column.values()))
    cases: list[Case] = []
    for index, seen in enumerate(maps(predictor, images.paths, config, asked)):
        path, patient = images.paths[index], images.patients[index] or str(images.paths[index])
        for finding in images.findings[index]:
            k = asked.index(column[finding.label])
            cases.append(
                Case(
                    path,
                    patient,
                    finding,
                    images.frame,
                    seen.grids[k],
                    seen.centre,
                    seen.patches[k],
                    float(seen.probabilities[k]),
                )
            )
    return cases


@dataclass(frozen=True)
class Seen:
    """What the model says of one image, C pathologies asked: see ``Case``.

    Attributes:
        grids: C x Kg x Kg.
        centre: Of their cells.
        patches: C x g x g.
        probabilities: C, "present".
    """

    grids: Grid
    centre: float
    patches: Grid
    probabilities: npt.NDArray[np.float64]


def maps(predictor: Predictor, paths: Sequence[Path], config: GroundConfig, columns: list[int]) -> Iterator[Seen]:
    """Where the model looks, image by image.

    Args:
        predictor: The model.
        paths: Image files.
        config: For layers, heads, shifts and anatomy.
        columns: Indices of C pathologies.

    Yields:
        The maps and probabilities of these pathologies.

    Raises:
        InputError: An image cannot be read.
    """
    for plain, copies in predictor.shifted_outputs(paths, config.shifts):
        grids, centre = interleave([_grids(output, columns, config) for output in copies], predictor.patch_centre)
        patches = _grids(plain, columns, config)
        answers = present_probability(plain.pathology_logits[:, columns])
        for row in range(len(grids)):
            yield Seen(grids[row], centre, patches[row], answers[row])


def _grids(output: MeDSLIPOutput, columns: list[int], config: GroundConfig) -> Grid:
    """B x len(columns) x g x g."""
    assert output.maps.pathology is not None, "requested"
    assert output.maps.anatomy is not None, "requested"
    maps = output.maps.pathology[..., columns, :].double().cpu().numpy()
    grids = attention_grids(maps, config.layers, config.heads)
    if config.anatomy:
        anatomies = attention_grids(output.maps.anatomy.double().cpu().numpy(), config.layers, config.heads)
        grids = grids * anatomy_grids(anatomies, output.icl_logits[..., columns].double().cpu().numpy())
    return np.asarray(grids, np.float64)


def _uniform(splits: Splits, side: int) -> dict[str, MapPair]:
    """A map that is the same everywhere, for every class."""
    level = MapPair(np.ones((1, 1)), np.ones((side, side)))
    return dict.fromkeys((*splits.scored.classes, *splits.tuning.classes), level)


def _prior(splits: Splits, side: int) -> dict[str, MapPair]:
    """Each class's mean box as a map; that of all boxes for a class that has none to learn from."""
    height, width = splits.prior.frame
    boxes: dict[str, list[Rectangle]] = {name: [] for name in (*splits.scored.classes, *splits.tuning.classes)}
    every: list[Rectangle] = []
    for finding in (finding for findings in splits.prior.findings for finding in findings):
        boxes.setdefault(finding.label, []).extend(finding.boxes)
        every.extend(finding.boxes)
    return {
        name: MapPair(
            mean_box_grid(found or every, height, width, PRIOR_SIDE), mean_box_grid(found or every, height, width, side)
        )
        for name, found in boxes.items()
    }


def _answer(case: Case, chance: Mapping[str, Mapping[str, MapPair]], name: str) -> MapPair:
    return MapPair(case.grid, case.patches, case.centre) if name == "model" else chance[name][case.finding.label]


def _thresholds(cases: Sequence[Case], chance: Mapping[str, Mapping[str, MapPair]]) -> dict[str, float]:
    """For each map, the threshold of best mean IoU over these cases."""
    curves: dict[str, list[Grid]] = {name: [] for name in MAPS}
    for case in tqdm(cases, desc="threshold", unit="finding", leave=False, mininterval=1, disable=None):
        region = case.truth().region
        for name in MAPS:
            iou, _ = overlap(_answer(case, chance, name).heat_map(*case.frame), region)
            curves[name].append(iou)
    return {name: choose_threshold(found) for name, found in curves.items()}


def _score(
    cases: Sequence[Case], chance: Mapping[str, Mapping[str, MapPair]], thresholds: Mapping[str, float], box_iou: float
) -> tuple[dict[str, list[CaseScores]], npt.NDArray[np.bool_]]:
    """Every map's scores of every case, and whether its finding is larger than one patch."""
    answers: dict[str, list[CaseScores]] = {name: [] for name in MAPS}
    larger = []
    for case in tqdm(cases, desc="scores", unit="finding", leave=False, mininterval=1, disable=None):
        truth = case.truth()
        larger.append(truth.is_large(len(case.patches)))
        for name in MAPS:
            answers[name].append(score_case(_answer(case, chance, name), truth, thresholds[name], box_iou))
    return answers, np.array(larger)


def _groups(
    cases: Sequence[Case],
    larger: npt.NDArray[np.bool_],
    answers: Mapping[str, Sequence[CaseScores]],
    config: GroundConfig,
) -> dict[str, list[GroupScores]]:
    labels = np.array([case.finding.label for case in cases])
    groups = {}
    for size, of_size in zip(SIZES, (larger, ~larger), strict=True):
        members = {name: np.flatnonzero(of_size & (labels == name)) for name in sorted(set(labels.tolist()))}
        members[ALL] = np.flatnonzero(of_size)
        groups[size] = score_groups(members, answers, [case.patient for case in cases], config.resamples, config.seed)
    return groups


def _image_of(images: GroundedImages) -> npt.NDArray[np.intp]:
    """The image of each finding."""
    return np.repeat(np.arange(len(images)), [len(found) for found in images.findings])


def _subgroups(
    images: GroundedImages, larger: npt.NDArray[np.bool_], answers: Sequence[CaseScores], config: GroundConfig
) -> dict[str, AttributeScores]:
    """The pointing game of larger findings, of the model, by sex, age and view."""
    image_of = _image_of(images)
    pointing = np.array([answer.values[CASE_SCORES.index("pointing")] for answer in answers])
    return subgroup_means(
        {"pointing": pointing[larger]},
        image_of[larger],
        images.patients,
        groups_of(images.attributes),
        config.resamples,
        config.seed,
    )


def _write(
    config: GroundConfig,
    output: Path,
    splits: Splits,
    cases: Sequence[Case],
    larger: npt.NDArray[np.bool_],
    answers: Mapping[str, Sequence[CaseScores]],
    groups: Mapping[str, Sequence[GroupScores]],
    parts: Mapping[str, AttributeScores],
    thresholds: Mapping[str, float],
    predictor: Predictor,
) -> None:
    columns = {
        "image": [str(case.image) for case in cases],
        "patient": [case.patient for case in cases],
        "class": [case.finding.label for case in cases],
        "probability": [case.probability for case in cases],
        "larger_than_a_patch": larger.astype(int).tolist(),
        **attribute_columns(splits.scored.attributes.at(_image_of(splits.scored))),
    }
    write_case_scores(output, columns, answers)
    data = {
        "name": splits.scored.name,
        "kind": config.data.kind,
        "path": str(config.data.path),
        "images": len(splits.scored),
        "patients": len({case.patient for case in cases}),
        "findings": len(cases),
        "prior_boxes": sum(len(finding.boxes) for found in splits.prior.findings for finding in found),
        "tuning_images": len(splits.tuning),
        "frame": splits.scored.frame,
    }
    extra = {
        "subgroups": subgroup_entries(parts),
        "patches": cases[0].patches.shape,
        "shifts": config.shifts,
        "thresholds": thresholds,
        "box_iou": config.box_iou,
        "layers": config.layers,
        "heads": config.heads,
        "anatomy": config.anatomy,
        "checkpoint": str(config.checkpoint),
        "provenance": predictor.checkpoint.card.provenance,
    }
    write_grounding_metrics(output, data, groups, config.resamples, config.seed, str(predictor.device), extra)
    overview(output / "overlays.png", _tiles(cases, answers["model"]), _TILES)
    box_curves(
        output / "box_precision_recall.png",
        {
            f"findings {size} than one patch": _box_curves(groups[size][-1], of_size, answers)
            for size, of_size in zip(SIZES, (larger, ~larger), strict=True)
            if groups[size]
        },
    )


def _box_curves(
    every: GroupScores, chosen: npt.NDArray[np.bool_], answers: Mapping[str, Sequence[CaseScores]]
) -> list[BoxCurve]:
    """Of each map, over all findings of one size."""
    curves = []
    for name in MAPS:
        recall, precision = precision_recall([case for case, there in zip(answers[name], chosen, strict=True) if there])
        average = every.scores[name]["box_precision"].value
        curves.append(BoxCurve(name, recall, precision, 0.0 if average is None else average))
    return curves


def _tiles(cases: Sequence[Case], answers: Sequence[CaseScores]) -> list[Tile]:
    """The best, middling and worst cases by AUROC of pixels, a row each; an image comes once a row."""
    auroc = np.array([answer.values[CASE_SCORES.index("pixel_auroc")] for answer in answers])
    falling = [index for index in np.argsort(-auroc, kind="stable").tolist() if not np.isnan(auroc[index])]
    middle = sorted(falling, key=lambda index: (abs(auroc[index] - np.nanmedian(auroc)), index))
    rows = {"best": falling, "median": middle, "worst": falling[::-1]}
    tiles = []
    for name, order in rows.items():
        first = {cases[index].image: index for index in reversed(order)}
        chosen = [index for index in order if first[cases[index].image] == index][:_TILES]
        tiles += [_tile(name, cases[index], float(auroc[index])) for index in chosen]
    return tiles


def _tile(name: str, case: Case, auroc: float) -> Tile:
    image = read_image(case.image)
    height, width = image.shape
    across, down = width / case.frame[1], height / case.frame[0]
    boxes = [(x * across, y * down, w * across, h * down) for x, y, w, h in case.finding.boxes]
    title = f"{name}: {case.finding.label}\npixel AUROC {auroc:.2f}, probability {case.probability:.2f}"
    return Tile(image, title, heat_map(case.grid, *case.frame, case.centre), boxes)


def _show(
    groups: Mapping[str, Sequence[GroupScores]],
    parts: Mapping[str, AttributeScores],
    thresholds: Mapping[str, float],
    config: GroundConfig,
    output: Path,
) -> None:
    for size in SIZES:
        print(f"findings {size} than one patch\n")
        if not groups[size]:
            print("none\n")
            continue
        print(f"{class_table(groups[size])}\n\n{chance_table(groups[size][-1])}\n")
    for line in subgroup_lines(parts, "pointing", "pointing game of larger findings"):
        print(line)
    chosen = ", ".join(f"{name} {value:.2f}" for name, value in thresholds.items())
    print("pointing: the maximum's pixel is inside a box; any pixel, the published rule: the maximal patch touches one")
    if config.shifts > 1:
        print("pointing is of the map over shifted copies, any pixel of the image as it is")
    print(f"IoU, Dice and boxes at thresholds {chosen}; a box is found at IoU {config.box_iou:g}")
    print(f"scores, metrics and overlays: {output}")


COMMAND = (GroundConfig, run)
