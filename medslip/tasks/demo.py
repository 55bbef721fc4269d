"""The whole job on phantom chests: draw, prepare, pre-train; classify, ground and segment phantoms held out; one run page."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from medslip.config import PHANTOM, PHANTOM_PREPARED, phantom_config
from medslip.data.datasets.csv_table import CsvTable
from medslip.data.images import read_image
from medslip.data.loading import preload
from medslip.data.phantom_truth import PhantomFinding, read_findings
from medslip.errors import InputError
from medslip.evaluation.classification import SCORES, mean_auroc, score
from medslip.evaluation.figures import Tile, overview
from medslip.evaluation.grounding import heat_map
from medslip.evaluation.report_page import METRICS_VERSION, write_page
from medslip.evaluation.tables import to_text
from medslip.evaluation.thumbnails import thumbnail_regression
from medslip.predictor import Predictor
from medslip.run_dir import RUNS, changed_keys, read_metrics
from medslip.tasks import finetune_seg, ground, make_phantom, prepare_data, pretrain, zeroshot_cls
from medslip.tasks.finetune_seg import FinetuneSegConfig
from medslip.tasks.ground import GroundConfig
from medslip.tasks.zeroshot_cls import ZeroshotConfig
from medslip.vocabulary import PATHOLOGIES

THUMBNAIL = 16
ENOUGH_TO_SEGMENT = 1000
"""Of fewer studies, chance can leave a split without any mask."""


@dataclass(frozen=True)
class DemoConfig:
    """Draw phantoms, prepare them, pre-train, classify and ground held-out ones zero-shot, fine-tune. What is there stays.

    Attributes:
        corpus: Where the phantoms are drawn.
        prepared: Where they are prepared.
        output: Folder of the runs, pretrain/, zeroshot_cls/, ground/ and finetune_seg/, and of their common run.html.
        studies: Phantoms to draw, of which about a quarter is held out; of some hundreds too few may have masks to fine-tune.
        epochs: Of pre-training; None takes the demo's own.
        seed: Of the phantoms and of pre-training.
    """

    corpus: Path = PHANTOM
    prepared: Path = PHANTOM_PREPARED
    output: Path = RUNS / "phantom"
    studies: int = 2800
    epochs: int | None = None
    seed: int = 0


def run(config: DemoConfig) -> None:
    """Run the demo.

    Raises:
        InputError: A folder holds something else.
    """
    print(f"1/6  phantom chests -> {config.corpus}")
    make_phantom.run(make_phantom.MakePhantomConfig(config.corpus, config.studies, seed=config.seed))
    print(f"2/6  reports and graphs -> triplets -> {config.prepared}")
    _prepare(config)
    print(f"3/6  pre-training -> {config.output / 'pretrain'}")
    checkpoint = _pretrain(config)
    print(f"4/6  zero-shot classification of held-out phantoms -> {config.output / 'zeroshot_cls'}")
    classified = _classify(config, checkpoint)
    print(f"5/6  grounding of held-out phantoms -> {config.output / 'ground'}")
    grounded = _ground(config, checkpoint)
    print(f"6/6  fine-tuning for segmentation, on other phantoms -> {config.output / 'finetune_seg'}")
    runs = [checkpoint.parent, classified, grounded]
    try:
        runs.append(_segment(config, checkpoint))
    except InputError as error:
        if config.studies >= ENOUGH_TO_SEGMENT:
            raise
        print(f"left out: {error}")
    page = write_page(config.output, "MeDSLIP on phantom chests", runs)
    print(f"\nphantoms  {config.corpus}/contact_sheet.png\nmodel     {checkpoint}\nrun page  {page}")
    print("next      python scripts/zeroshot_cls.py --help")


def _prepare(config: DemoConfig) -> None:
    made, drawn = config.prepared / "summary.json", config.corpus / make_phantom.DESCRIPTION
    if made.is_file() and made.stat().st_mtime >= drawn.stat().st_mtime:
        print(f"{config.prepared}: already prepared")
        return
    prepare_data.run(phantom_config(prepare_data.PrepareConfig, "prepare_data", config.corpus, config.prepared))


def _pretrain(config: DemoConfig) -> Path:
    output = config.output / "pretrain"
    wanted = phantom_config(pretrain.PretrainConfig, "pretrain", prepared=config.prepared, output=output)
    train = replace(wanted.train, seed=config.seed, epochs=config.epochs or wanted.train.epochs)
    wanted = replace(wanted, train=train)
    folder, done = wanted.output, wanted.output / "losses.png"
    if not (folder / "last.safetensors").is_file():
        return pretrain.run(wanted)
    learnt = read_metrics(folder)["data"].get("fingerprint") if (folder / "metrics.json").is_file() else None
    if learnt not in (None, pretrain.fingerprint_of(wanted.data)) or changed_keys(folder, wanted):
        raise InputError(
            f"{folder}: holds a run on other phantoms or with another config; remove it, or name another --output"
        )
    if done.is_file():
        print(f"{folder}: already trained")
        return folder / "best.safetensors"
    print(f"{folder}: going on where it stopped")
    return pretrain.run(replace(wanted, resume=True))


def _classify(config: DemoConfig, checkpoint: Path) -> Path:
    folder = config.output / "zeroshot_cls"
    _discard(folder)  # an earlier demo's, made anew in seconds
    held_out = phantom_config(ZeroshotConfig, "zeroshot_cls", config.corpus, checkpoint=checkpoint, output=folder)
    tables = zeroshot_cls.run(held_out, show=False)
    assert tables is not None, "phantoms have labels"
    baseline = _thumbnail_scores(config)
    draw_answers(folder / "answers.png", config.corpus, checkpoint)
    scores = tables["scores"].drop(columns="threshold")
    scores[list(SCORES[1:])] = scores[list(SCORES[1:])].map(float)
    print(to_text(scores.assign(thumbnails=baseline["auroc"].map(float))))
    print(
        f"thumbnails: AUROC of a logistic regression on {THUMBNAIL} x {THUMBNAIL} thumbnails, supervised by the same "
        f"training images; mean {mean_auroc(baseline):.3f}"
    )
    write_page(folder)  # again, now with answers.png
    return folder


def _ground(config: DemoConfig, checkpoint: Path) -> Path:
    folder = config.output / "ground"
    wanted = phantom_config(GroundConfig, "ground", config.corpus, checkpoint=checkpoint, output=folder)
    if not _is_done(folder, wanted, checkpoint):
        tables = ground.run(wanted, show=False)
        print(f"findings larger than one patch\n{to_text(ground.map_table(tables['scores'], 'larger'))}")
    return folder


def _segment(config: DemoConfig, checkpoint: Path) -> Path:
    folder = config.output / "finetune_seg"
    wanted = phantom_config(FinetuneSegConfig, "finetune_seg", config.corpus, checkpoint=checkpoint, output=folder)
    if not _is_done(folder, wanted, checkpoint):
        finetune_seg.run(wanted)
    return folder


def _is_done(folder: Path, wanted: object, checkpoint: Path) -> bool:
    """Whether an earlier demo left this run whole, with these weights; what it left of another, or unfinished, is removed."""
    done = folder / "metrics.json"
    if (
        done.is_file()
        and done.stat().st_mtime >= checkpoint.stat().st_mtime
        and read_metrics(folder)["version"] == METRICS_VERSION
        and not changed_keys(folder, wanted)
    ):
        print(f"{folder}: already there")
        return True
    _discard(folder)
    return False


def _discard(folder: Path) -> None:
    """Remove a run; leave anything else."""
    if (folder / "config.yaml").is_file():
        shutil.rmtree(folder)


def _thumbnail_scores(config: DemoConfig) -> pd.DataFrame:
    splits = {
        split: CsvTable(config.corpus / "findings.csv", split=split).read() for split in ("train", "valid", "test")
    }
    pixels = {name: preload(images.paths, THUMBNAIL, workers=0)[:, 0].numpy() for name, images in splits.items()}
    probabilities = thumbnail_regression(
        (pixels["train"], splits["train"].label_array), (pixels["valid"], splits["valid"].label_array), pixels["test"]
    )
    test = splits["test"]
    return score(test.classes, test.label_array, probabilities, test.patients, resamples=0)


def draw_answers(path: Path, corpus: Path, checkpoint: Path, columns: int = 4, rows: int = 2) -> None:
    """Draw held-out phantoms with the map of a finding that each has: attention in colour, the true box, the probability."""
    chosen: dict[str, PhantomFinding] = {}
    for finding in read_findings(corpus, "test"):
        if finding.pathology not in chosen and all(finding.image != other.image for other in chosen.values()):
            chosen[finding.pathology] = finding
    findings = list(chosen.values())[: columns * rows]
    predictor = Predictor.load(checkpoint)
    asked = [PATHOLOGIES.index(finding.pathology) for finding in findings]
    config = phantom_config(GroundConfig, "ground", corpus, checkpoint=checkpoint)
    tiles = []
    for k, seen in enumerate(ground.maps(predictor, [finding.image for finding in findings], config, asked)):
        finding, image = findings[k], read_image(findings[k].image)
        heat = heat_map(seen.grids[k], image.shape[0], image.shape[1], seen.centre)
        tiles.append(Tile(image, f"{finding.pathology}: {seen.probabilities[k]:.2f}", heat, [finding.box]))
    overview(path, tiles, columns)


COMMAND = (DemoConfig, run)
