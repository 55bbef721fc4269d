"""The whole method on phantom chests: draw, prepare and pre-train; then classify, ground and segment held-out phantoms."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from medslip.config import PHANTOM, PHANTOM_PREPARED, phantom_config
from medslip.data.datasets.coco import Coco
from medslip.data.datasets.csv_table import CsvTable
from medslip.data.loading import ImageSource, preload
from medslip.data.prepared import check_output
from medslip.data.table import Finding
from medslip.errors import InputError
from medslip.evaluation.classification import SCORES, mean_auroc, score
from medslip.evaluation.figures import Tile, overview
from medslip.evaluation.run_page import METRICS_VERSION, PAGE, write_page
from medslip.evaluation.tables import to_text
from medslip.evaluation.thumbnails import thumbnail_regression
from medslip.predictor import Predictor
from medslip.run_dir import RUNS, changed_keys, lock, read_metrics
from medslip.tasks import finetune_seg, ground, make_phantom, prepare_data, pretrain, zeroshot_cls
from medslip.tasks.finetune_seg import FinetuneSegConfig
from medslip.tasks.ground import GroundConfig
from medslip.tasks.zeroshot_cls import ZeroshotConfig

THUMBNAIL = 16  # pixels along each side
ENOUGH_TO_SEGMENT = 1000  # with fewer studies, a split may by chance have no mask


@dataclass(frozen=True)
class DemoConfig:
    """Draw phantoms, prepare them and pre-train; then classify, ground and segment held-out ones.

    Finished steps are kept, and pre-training is resumed: after an interruption, run the same command again.

    Attributes:
        corpus: Where to draw the phantoms.
        prepared: Where to prepare them for pre-training.
        output: Folder of the runs (pretrain/, zeroshot_cls/, ground/, finetune_seg/) and of their common run.html.
        studies: Phantom studies to draw; about a quarter are held out. A few hundred may contain too few masks for
            fine-tuning.
        epochs: Epochs of pre-training; None takes the packaged config's.
        seed: Random seed of the phantoms and of pre-training.
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
    print(f"1/6  Draw phantom chests: {config.corpus}")
    make_phantom.run(make_phantom.MakePhantomConfig(config.corpus, config.studies, seed=config.seed))
    print(f"2/6  Turn their reports into triplets: {config.prepared}")
    _prepare(config)
    print(f"3/6  Pre-train: {config.output / 'pretrain'}")
    checkpoint = _pretrain(config)
    print(f"4/6  Classify held-out phantoms zero-shot: {config.output / 'zeroshot_cls'}")
    runs = [checkpoint.parent, _classify(config, checkpoint)]
    print(f"5/6  Ground the findings of held-out phantoms: {config.output / 'ground'}")
    runs.append(_ground(config, checkpoint))
    print(f"6/6  Fine-tune for segmentation on phantoms unseen in pre-training: {config.output / 'finetune_seg'}")
    try:
        runs.append(_segment(config, checkpoint))
    except InputError as error:
        if config.studies >= ENOUGH_TO_SEGMENT:
            raise
        print(f"skipped: {error}")
    page = write_page(config.output, "MeDSLIP on phantom chests", runs)
    print(f"\nphantoms  {config.corpus}/contact_sheet.png\nmodel     {checkpoint}\nrun page  {page}")
    print("next      python scripts/zeroshot_cls.py --help")


def _prepare(config: DemoConfig) -> None:
    check_output(config.prepared)
    made, drawn = config.prepared / "summary.json", config.corpus / make_phantom.DESCRIPTION
    if made.is_file() and made.stat().st_mtime >= drawn.stat().st_mtime:
        print(f"{config.prepared}: already prepared")
        return
    prepare_data.run(phantom_config(prepare_data.PrepareConfig, "prepare_data", config.corpus, config.prepared))


def _pretrain(config: DemoConfig) -> Path:
    output = config.output / "pretrain"
    wanted = phantom_config(pretrain.PretrainConfig, "pretrain", prepared=config.prepared, output=output)
    train = replace(wanted.train, seed=config.seed, epochs=config.epochs or wanted.train.epochs)
    wanted = replace(wanted, train=train, resume="auto")
    if not (output / "last.safetensors").is_file():
        return pretrain.run(wanted)
    learned = read_metrics(output)["data"].get("fingerprint") if (output / "metrics.json").is_file() else None
    if learned not in (None, pretrain.fingerprint_of(wanted.data)) or changed_keys(output, wanted):
        raise InputError(
            f"{output}: contains a run on other phantoms or with another config; remove it, or choose another --output"
        )
    if (output / PAGE).is_file():
        print(f"{output}: already trained")
        return output / "best.safetensors"
    print(f"{output}: resuming")
    return pretrain.run(wanted)


def _classify(config: DemoConfig, checkpoint: Path) -> Path:
    folder = config.output / "zeroshot_cls"
    _discard(folder)  # takes seconds to repeat
    held_out = phantom_config(ZeroshotConfig, "zeroshot_cls", config.corpus, checkpoint=checkpoint, output=folder)
    tables = zeroshot_cls.run(held_out, show=False)
    assert tables is not None, "phantoms have labels"
    baseline = _thumbnail_scores(config)
    draw_predictions(folder / "predictions.png", config.corpus, checkpoint)
    scores = tables["scores"].drop(columns="threshold")
    scores[list(SCORES[1:])] = scores[list(SCORES[1:])].map(float)
    print(to_text(scores.assign(thumbnails=baseline["auroc"].map(float))))
    print(
        f"thumbnails: AUROC of a logistic regression on {THUMBNAIL} x {THUMBNAIL} thumbnails, supervised by the labels of "
        f"the same training images; mean {mean_auroc(baseline):.3f}"
    )
    write_page(folder)  # again, now with predictions.png
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
    """Whether an earlier demo finished this run with these weights; if not, what it left of a run is removed."""
    done = [folder / "metrics.json", folder / PAGE]
    newer = all(path.is_file() and path.stat().st_mtime >= checkpoint.stat().st_mtime for path in done)
    if newer and read_metrics(folder)["version"] == METRICS_VERSION and not changed_keys(folder, wanted):
        print(f"{folder}: already done")
        return True
    _discard(folder)
    return False


def _discard(folder: Path) -> None:
    """Remove a run, but nothing else; if killed, go on the next time."""
    discarded = folder.with_name(f"{folder.name}.discarded")
    shutil.rmtree(discarded, ignore_errors=True)
    if (folder / "config.yaml").is_file():
        lock(folder)
        folder.replace(discarded)
        shutil.rmtree(discarded)


def _thumbnail_scores(config: DemoConfig) -> pd.DataFrame:
    """The scores of the baseline on the test phantoms."""
    tables = [CsvTable(config.corpus / "findings.csv", split=split).read() for split in ("train", "valid", "test")]
    train, valid, (pixels, labels) = (
        (preload(ImageSource(table, THUMBNAIL), len(table), 0).images[:, 0].numpy(), table.label_array)
        for table in tables
    )
    probabilities = thumbnail_regression(train, valid, pixels)
    return score(tables[-1].classes, labels, probabilities, tables[-1].patients, resamples=0)


def draw_predictions(path: Path, corpus: Path, checkpoint: Path, columns: int = 4, rows: int = 2) -> None:
    """Draw held-out phantoms, each with the attention map, the box and the predicted probability of one of its findings."""
    table = Coco(corpus / "coco", split="test").read()
    shown: dict[str, tuple[Path, Finding]] = {}
    for index, image in enumerate(table.paths):
        new = [finding for finding in table.findings_of(index) if finding.label not in shown]
        shown |= {finding.label: (image, finding) for finding in new[:1]}
    chosen = list(shown.values())[: columns * rows]
    predictor = Predictor.from_pretrained(checkpoint)
    tiles = []
    for image, finding in chosen:
        found = predictor.ground(image, finding.label)
        title = f"{finding.label}: {found.probability:.2f}"
        tiles.append(Tile(found.image, title, found.heat_map, list(finding.boxes)))
    overview(path, tiles, columns)


COMMAND = (DemoConfig, run)
