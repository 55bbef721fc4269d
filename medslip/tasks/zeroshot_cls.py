"""Zero-shot classification: images -> probabilities of "present" -> classes of the data set -> predictions, scores, figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from medslip.data.dataset import DataSet
from medslip.data.datasets.cxr14 import Cxr14
from medslip.data.table import ImageTable, check_classes, check_shared
from medslip.errors import InputError
from medslip.evaluation.bootstrap import count_patients, patient_index
from medslip.evaluation.classifier import Predictions, draw, evaluate, prediction_table
from medslip.evaluation.tables import show_tables, write_predictions
from medslip.predictor import Predictor
from medslip.run_dir import begin, bootstrap_settings, finish, removed_on_error
from medslip.tasks.weights import EvaluationConfig
from medslip.vocabulary import (
    CLASS_PROMPTS,
    FINDINGS,
    class_key,
    class_pathologies,
    load_paraphrases,
    pathology_index,
    pathology_of,
)

TASK = "zero-shot classification"

_SHOWN = 5
"""Images with the highest probability that are printed if there are no labels."""


@dataclass(frozen=True, kw_only=True)
class ZeroshotOptions:
    """What to classify, and how.

    Attributes:
        data: The images to classify.
        validation: Other labelled images of the same classes, without a patient of the scored images, to choose operating
            points and fit a recalibration on; None for neither.
        specificity: Operating points have the highest sensitivity at this specificity, 0..1.
        prompt: Free-text queries: one as "class: text", or several as {class: text}. A class of the data set is then queried by
            its text instead of a pathology; for images without labels, any other name becomes a further class.
        ensemble: Query each pathology by the mean text embedding of several wordings: its prompt and the packaged paraphrases.
            Needs the text encoder. It has no effect on free text.
        fibrosis: How to query ChestX-ray14's Fibrosis, which is not a pathology of the vocabulary: by the "authors"
            catch-all, or by a "prompt" of its own.
    """

    data: DataSet
    validation: DataSet | None = None
    specificity: float = 0.9
    prompt: dict[str, str] | str = field(default_factory=dict)
    ensemble: bool = False
    fibrosis: Literal["authors", "prompt"] = "authors"

    def __post_init__(self) -> None:
        check_specificity(self.specificity)
        if self.validation is not None and self.validation.equalise != self.data.equalise:
            raise InputError("validation.equalise: differs from data.equalise; use the same value for both")


@dataclass(frozen=True, kw_only=True)
class ZeroshotConfig(EvaluationConfig, ZeroshotOptions):
    """Classify chest radiographs zero-shot.

    Attributes:
        text_encoder: The checkpoint's text encoder, for free text, if it is not found under its recorded name.
    """

    text_encoder: str | None = None

    def __post_init__(self) -> None:
        EvaluationConfig.__post_init__(self)
        ZeroshotOptions.__post_init__(self)


def check_specificity(specificity: float) -> None:
    """Check that a specificity is within 0..1, or raise InputError."""
    if not 0 <= specificity <= 1:
        raise InputError(f"specificity: {specificity} is not within 0..1")


@dataclass(frozen=True)
class Queries:
    """The query of each class.

    Attributes:
        classes: C names.
        by_class: For each class its pathology, or the index of its free text.
        free_text: F texts.
    """

    classes: tuple[str, ...]
    by_class: tuple[str | int, ...]
    free_text: tuple[str, ...]

    @property
    def pathologies(self) -> list[str]:
        """The pathologies that are queried, each once."""
        return list(dict.fromkeys(query for query in self.by_class if isinstance(query, str)))

    def described(self) -> dict[str, str]:
        """Class -> its pathology or free text."""
        return {
            name: self.free_text[query] if isinstance(query, int) else query
            for name, query in zip(self.classes, self.by_class, strict=True)
        }


def run(config: ZeroshotConfig, show: bool = True) -> dict[str, pd.DataFrame] | None:
    """Classify images; returns the tables of ``classifier.evaluate``, or None if there are no labels.

    The run directory then holds config.yaml, predictions.csv, metrics.json and run.html; with labels also roc.png,
    precision_recall.png, calibration.png and, where sex, age or view are known, subgroups.png.

    Args:
        config: What to classify with what.
        show: Whether to print the tables.

    Raises:
        InputError: The checkpoint, an image, a class or the text encoder cannot be used.
    """
    config, output = config.resolved("zeroshot_cls")
    weights = config.open()
    images = config.data.read()
    for reason, count in images.left_out.items() if show else ():
        print(f"{images.name}: left out {count:,} {reason}")
    queries = build_queries(images, config)
    others = _read_validation(images, config)
    predictor = config.predictor(weights, config.data.equalise, config.text_encoder)
    probabilities = classify(predictor, images.paths, queries, config.ensemble)
    validation = (
        None if others is None else _predictions(others, classify(predictor, others.paths, queries, config.ensemble))
    )
    begin(output, config)
    with removed_on_error(output):
        labels = None if images.labels is None else images.label_array
        table = prediction_table(images.images, queries.classes, probabilities, labels)
        write_predictions(table, output, config.patients)
        data = {
            "name": images.name,
            "kind": config.data.kind,
            "path": str(config.data.path),
            "images": len(images),
            "patients": count_patients(patient_index(images.patients)),
        }
        settings: dict[str, Any] = {
            "checkpoint": str(config.checkpoint),
            "provenance": weights.card.provenance,
            "queries": queries.described(),
            "ensemble": config.ensemble,
        }
        if images.labels is None:
            page = finish(output, TASK, data, settings=settings, device=str(predictor.device))
            print(_highest(images.paths, queries, probabilities))
            print(
                f"{len(images)} images classified, no labels to score against: {output}/predictions.csv\nrun page: {page}"
            )
            return None
        test = _predictions(images, probabilities)
        tables = evaluate(
            test, validation, config.specificity, config.resamples, config.seed, second_mean_without(config.data)
        )
        draw(output, tables, test)
        settings |= bootstrap_settings(config.resamples, config.seed, images.patients)
        if validation is not None:
            settings |= {"specificity": config.specificity, "validation_data": validation.about()}
        page = finish(output, TASK, data, tables, settings, str(predictor.device))
    if show:
        show_tables(tables)
        if validation is None:
            print(
                "no validation images, so no operating points and no recalibration; give some with --validation.kind ..."
            )
        print(f"\npredictions, metrics and figures: {output}\nrun page: {page}")
    return tables


def classify(
    predictor: Predictor, paths: Sequence[Path], queries: Queries, ensemble: bool = False
) -> npt.NDArray[np.float32]:
    """The probability of each class, n x C.

    Args:
        predictor: What predicts.
        paths: n images.
        queries: Of C classes.
        ensemble: Whether to query a pathology by the mean embedding of its prompt and its packaged paraphrases.

    Raises:
        InputError: The checkpoint lacks the texts of its prompts, or the text encoder cannot be found or is a different one.
    """
    known = queries.pathologies
    wordings: list[list[str]] = []
    if ensemble:
        prompts, paraphrases = predictor.checkpoint.card.prompts, load_paraphrases()
        if prompts is None:
            raise InputError("ensemble: the checkpoint lacks the texts of its prompts")
        wordings = [[prompts.pathology[pathology_index(name)], *paraphrases.get(name, ())] for name in known]
    found = predictor.classify(paths, [] if ensemble else known, [*wordings, *queries.free_text]).to_numpy()
    return found[:, [len(known) + k if isinstance(k, int) else known.index(k) for k in queries.by_class]]


def _predictions(images: ImageTable, probabilities: npt.NDArray[np.float32]) -> Predictions:
    return Predictions(images.name, images.images, images.classes, images.label_array, probabilities)


def _highest(paths: Sequence[Path], queries: Queries, probabilities: npt.NDArray[np.float32]) -> str:
    """The images with the highest probability of each free-text query, or else of the first class."""
    lines = []
    by_text = [column for column, query in enumerate(queries.by_class) if isinstance(query, int)]
    for column in by_text or [0]:
        order = np.argsort(-probabilities[:, column], kind="stable")[:_SHOWN]
        shown = ", ".join(f"{paths[index].name} {probabilities[index, column]:.3f}" for index in order)
        lines.append(f"highest {queries.classes[column]}: {shown}")
    return "\n".join(lines)


def second_mean_without(data: DataSet) -> tuple[str, ...]:
    """Classes that papers leave out of a second mean: ChestX-ray14's Fibrosis, which is not in the vocabulary."""
    return ("Fibrosis",) if isinstance(data, Cxr14) else ()


def _read_validation(images: ImageTable, config: ZeroshotConfig) -> ImageTable | None:
    """The validation images, checked to have the same classes and no patient of the scored images."""
    if config.validation is None:
        return None
    if images.labels is None:
        raise InputError(f"validation: {images.name} has no labels, so nothing is scored; leave validation out")
    validation = config.validation.read()
    check_classes(validation, images.classes, "validation")
    check_shared({"validation": validation, "data": images})
    return validation


def free_text_queries(prompt: dict[str, str] | str) -> dict[str, str]:
    """Class -> its free text, which begins with the class's name as the vocabulary's own prompts do.

    Raises:
        InputError: A single query is not of the form "class: text", or a class or its text is empty.
    """
    if isinstance(prompt, str):
        name, colon, text = prompt.partition(":")
        if not (colon and name.strip() and text.strip()):
            raise InputError(f"prompt: {prompt!r} is not of the form 'class: text'")
        prompt = {name.strip(): text.strip()}
    for name, text in prompt.items():
        if not (name.strip() and text.strip()):
            raise InputError(f"prompt: class {name!r} has the text {text!r}; give a class and a text")
    return {name: text if text.lower().startswith(name.lower()) else f"{name}: {text}" for name, text in prompt.items()}


def build_queries(images: ImageTable, config: ZeroshotConfig) -> Queries:
    """The query of each class of the data set; without labels, of every finding of the vocabulary.

    Raises:
        InputError: A class is neither a pathology, nor mapped to one, nor given a prompt; or a prompt is for a class that the
            labels do not have, or for the name of an option.
    """
    labelled = () if images.labels is None else images.classes
    spelt = {class_key(name): name for name in labelled}
    prompts = {spelt.get(class_key(name), name): text for name, text in free_text_queries(config.prompt).items()}
    packaged = {class_key(name): text for name, text in CLASS_PROMPTS.items()}
    for key, name in spelt.items():
        by_prompt = config.fibrosis == "prompt" if key == "fibrosis" else pathology_of(name) is None
        if by_prompt and key in packaged and name not in config.data.classes:
            prompts.setdefault(name, packaged[key])
    classes = labelled or FINDINGS
    by_pathology = [name for name in classes if name not in prompts]
    found = class_pathologies(by_pathology, config.data.classes, str(config.data.path))
    pathologies = dict(zip(by_pathology, found, strict=True))
    added = tuple(name for name in prompts if name not in classes)
    for name in added:
        if name in ZeroshotConfig.__dataclass_fields__:
            raise InputError(f"prompt.{name}: {name} is an option of its own and not a class; write --{name}")
        if labelled:
            raise InputError(f"prompt: {config.data.path} has no class {name!r}, only {', '.join(classes)}")
    names = (*added, *classes)
    texts = list(prompts)
    by_class = tuple(texts.index(name) if name in prompts else pathologies[name] for name in names)
    return Queries(names, by_class, tuple(prompts.values()))


COMMAND = (ZeroshotConfig, run)
