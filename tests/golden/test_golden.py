"""Every task, run on phantoms as a user runs it, gives the numbers that are stored in expected/.

A number that changes here changed for every user: these files are not rewritten to make a change pass.

**To rename** a key of metrics.json, a column of a CSV file, a file, or an option of a command, add one line to a table below:

- ``RENAMES``: the place of a number or text, as stored -> its place today. A place is a path such as
  ``zeroshot_table/metrics.json/classes[Effusion]/scores/auroc/value`` (the element of a list is called by what names it:
  its name, class, group..., else by its number) or ``zeroshot_table/predictions.csv/a.png/Effusion`` (the row, then the
  column). The pattern is a regular expression that is searched for anywhere in the place; all lines apply, in order, so
  ``(r"/null_patch", "/add_zero_attn")`` or ``(r"/interval/(low|high)$", r"/\\1")`` are enough. The replacement None
  drops the places that match: for what is left out on purpose.
- ``ARGUMENTS``: the same for the commands in ``CASES``, with one argument per line.

What is there today and was not stored is not looked at; what was stored and is missing fails. A table whose rows are named by
another column needs that column in ``ROW_NAMES``.

**To store** a new case: add it to ``CASES`` and run ``GOLDEN_WRITE=1 pytest tests/golden/test_golden.py``, which writes
only the files that are not there yet.
"""

from __future__ import annotations

import json
import math
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.figure
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from medslip.cli import run_task
from medslip.labels import LabelStore

RENAMES: list[tuple[str, str | None]] = [
    (r"/start/", "/init/"),
    # metrics.json: tables of rows instead of nested records; low and high of an estimate beside its value.
    (r"/interval/", "/"),
    (r"mean of \d+ class(es)?(, without)?", r"mean\2"),
    (r"mean, without", "mean without"),
    ("dice_marked", "dice_on_positives"),
    ("iou_marked", "iou_on_positives"),
    ("empty_right", "empty_mask_accuracy"),
    # Classification.
    (r"/calibration/(bins|simulations)$|/negatives$|/compared$|/subgroups/\w+/unknown$", None),
    (r"/calibration/classes\[[^]]+\]/positives$", None),
    (r"/(calibration|operating_points)/validation/", "/validation_data/"),
    (r"/operating_points/specificity$", "/specificity"),
    (r"/calibration/classes\[([^]]+)\]/recalibrated/bins\[(\d+)\]/", r"/reliability[\1 recalibrated@\2]/"),
    (r"/calibration/classes\[([^]]+)\]/bins\[(\d+)\]/", r"/reliability[\1 predicted@\2]/"),
    ("@0]", "]"),
    *((f"@{k}]", f"#{k + 1}]") for k in range(1, 10)),
    (r"/calibration/classes\[([^]]+)\]/recalibrated/(scores/)?", r"/calibration[\1 recalibrated]/"),
    (r"/calibration/classes\[([^]]+)\]/(scores/)?", r"/calibration[\1 predicted]/"),
    (r"/operating_points/classes\[([^]]+)\]/at_(\w+?)/(scores|chosen)/", r"/operating_points[\1 \2]/"),
    (r"/subgroups/(\w+)/groups\[([^]]+)\]/classes\[([^]]+)\]/(scores/)?", r"/subgroup_classes[\1 \2 \3]/"),
    (r"/subgroups/(\w+)/groups\[([^]]+)\]/", r"/subgroups[\1 \2]/"),
    (r"/subgroups/(\w+)/comparisons/(\w+)/means/([^/]+)/", r"/subgroups[\1 \3]/\2/"),
    (r"/subgroups/(\w+)/comparisons/(\w+)/gap/", r"/subgroup_gaps[\1 \2]/gap/"),
    (r"/macro/scores/", "/scores[mean]/"),
    (r"/macro_without/([^/]+)/scores/", r"/scores[mean without \1]/"),
    (r"metrics.json/classes\[([^]]+)\]/(scores/)?", r"metrics.json/scores[\1]/"),
    # Grounding: scores.csv is predictions.csv, with every box of each map.
    ("/scores.csv/", "/predictions.csv/"),
    (r"/\w+_boxes(_found)?$", None),
    (r"/(larger|smaller)\[([^]]+)\]/scores/(\w+)/", r"/scores[\1 \2 \3]/"),
    (r"/(larger|smaller)\[([^]]+)\]/above_prior/", r"/scores[\1 \2 model - prior]/"),
    (r"/(larger|smaller)\[([^]]+)\]/findings$", r"/scores[\1 \2 model]/cases"),
    (r"/(larger|smaller)\[([^]]+)\]/patients$", r"/scores[\1 \2 model]/patients"),
    (r"metrics.json/scores\[(larger|smaller) (?!all findings)", r"metrics.json/class_scores[\1 "),
    # Fine-tuning.
    (r"/(seed_\d/metrics.json)/scores/(\w+)/", r"/\1/scores[\2]/estimate/"),
    (r"^(finetune_\w+/metrics.json)/scores/(\w+)/value", r"\1/scores[\2]/mean"),
    (r"^(finetune_seg\w*/seed_\d/metrics.json)/data/marked$", r"\1/scores[dice_on_positives]/images"),
    (r"/spread/(\w+)/by_seed\[(\d)\]", r"/scores[\1]/seed_\2"),
    (r"/spread/(\w+)/", r"/scores[\1]/"),
    # Comparison.
    (r"/differences(\[.*\])/(a|b)/value$", r"/differences\1/\2"),
    (r"/differences.csv/(.*)/(low|high)$", r"/differences.csv/\1/difference_\2"),
    (r"/differences.csv/(.*)/(name|score)$", None),
    # Evaluation of all data sets.
    (r"/results.csv/.*/(name|subset|task)$", None),
    (r"/results(.csv/|\[)(\w+) zero-shot classification +", r"/results\1\2 classification "),
    (r"/results\[(\w+) (classification|grounding) (.*?)( model)?\]/(scores/)?", r"/\2[\1 \3\4]/"),
    (r"/classification\[(.*) model\]/", r"/classification[\1]/"),
    (r"(/classification\[.*\]/)n$", r"\1images"),
    (r"(/grounding\[.*\]/)n$", r"\1cases"),
]
"""Pattern in the place of a number, as stored -> what stands there today, or None."""

ARGUMENTS: list[tuple[str, str]] = [
    (r"^--(data|validation|data[.]\w+)[.]kind\ntable$", r"--\1.kind\ncsv"),
    (r"kind: table", "kind: csv"),
    (r"^prepare_data\npublished$", "prepare_data\nauthors"),
    (r"^--(root|table|folder|reports)$", "--data.path"),
    (r"^--(graphs|images|columns[.]findings)$", r"--data.\1"),
    (r"^--validation[.]list\ntrain_val_list[.]txt$", "--validation.split\ntrain"),
    (
        r"\A(finetune_seg\n[^\0]*)^--data[.]kind\nphantom\n--data[.]path\ncorpus\n--data[.]pathology$",
        r"\1--data.train.kind\ncoco\n--data.train.path\ncorpus/coco\n--data.train.split\nvalid+test\n--finding",
    ),
    (r"\A(finetune_seg\n[^\0]*)^--data[.]kind\n(\w+)\n--data[.]path$", r"\1--data.train.kind\n\2\n--data.train.path"),
    (r"\A(ground\n[^\0]*)^--data[.]kind\nphantom\n--data[.]path\ncorpus$", r"\1@data@validation@prior"),
    *(
        (f"@{key}", f"\n--{key}.kind\ncoco\n--{key}.path\ncorpus/coco\n--{key}.split\n{split}")
        for key, split in (("data", "test"), ("validation", "valid"), ("prior", "train"))
    ),
    (r"\n\n", "\n"),
]
"""Pattern in a command of CASES, one argument per line -> what it is today."""

EXPECTED = Path(__file__).parent / "expected"
TOLERANCE = 1e-6
"""Absolute, or relative to the stored number."""

LOOSER = {r"/recalibrated/": 1e-4}
"""Pattern in the place of a number -> its own tolerance: a slope fitted to few images amplifies rounding."""

ROW_NAMES = ("image", "study", "data_set", "task", "subset", "findings", "group", "name", "class", "map", "score")
"""Columns that name a row together, as far as a table has them; an image by its file's name."""

ELEMENT_NAMES = (
    "data_set", "task", "subset", "attribute", "group", "anatomy", "pathology", "findings", "name", "class", "rule",
    "probabilities", "map", "score",
)  # fmt: skip
"""Keys whose texts name an element of a list in metrics.json."""

NOT_STORED = {"environment", "version", "time", "provenance", "resamples"}
"""Keys that differ between machines or releases; and how many resamples the commands ask for."""

COLUMNS_NOT_STORED = {"path", "row", "mask"}

TINY = (
    "--model.trunk resnet18 --model.width 16 --model.decoder_layers 1 --model.decoder_heads 2 --model.feed_forward 32"
)
FINETUNED = (
    "--checkpoint golden.safetensors --train.epochs 1 --train.batch_size 8 --train.precision float32 --resamples 20"
)
ZEROSHOT = "zeroshot_cls --checkpoint golden.safetensors --workers 0 --device cpu --resamples 20"
TABLE = "--data.kind table --data.path corpus/findings.csv --data.split test"
TABLE_VALIDATION = "--validation.kind table --validation.path corpus/findings.csv --validation.split valid"
GROUND = "ground --checkpoint golden.safetensors --workers 0 --device cpu --resamples 20"
EDEMA = " ".join(
    f"--data.{part}.kind table --data.{part}.path made/edema.csv --data.{part}.images corpus --data.{part}.split {part}"
    for part in ("train", "valid", "test")
)
LAYOUTS = {
    "classification": "{table: {data: {kind: table, path: corpus/findings.csv, split: test, equalise: true}}, "
    "covidx: {data: {kind: covidx, path: corpus/covidx}}}",
    "grounding": "{rsna: {data: {kind: rsna, path: corpus/rsna}, shifts: 1}}",
}

PHANTOM_MASKS = "--data.kind phantom --data.path corpus --data.pathology pneumothorax"

CASES: dict[str, str] = {
    "prepare_mimic": "prepare_data mimic --root corpus/mimic_cxr --graphs corpus/radgraph/MIMIC-CXR_graphs.json",
    "prepare_cxr14": "prepare_data cxr14 --root corpus/cxr14 --valid_fraction 0.3",
    "prepare_csv": "prepare_data csv --table corpus/findings.csv",
    "prepare_csv_split": "prepare_data csv --table made/table.csv --images corpus --columns.findings findings",
    "prepare_openi": "prepare_data openi --reports made/reports --images made/films --test_fraction 0.4",
    "prepare_published": "prepare_data published --folder made/published --images made/published",
    "pretrain": "pretrain --data.train prepare_mimic/train.csv --data.valid prepare_mimic/valid.csv --data.labels "
    f"prepare_mimic/labels --data.side 32 --data.workers 0 {TINY} --text.encoder tiny_bert --text.max_tokens 32 "
    "--train.epochs 1 --train.batch_size 8 --train.precision float32 --train.log_every 1 --optim.warmup_steps 0 --device cpu",
    "zeroshot_table": f"{ZEROSHOT} {TABLE} {TABLE_VALIDATION} --text_encoder tiny_bert",
    "zeroshot_cxr14": f"{ZEROSHOT} --data.kind cxr14 --data.path corpus/cxr14 --validation.kind cxr14 --validation.path "
    "corpus/cxr14 --validation.list train_val_list.txt",
    "zeroshot_rsna": f"{ZEROSHOT} --data.kind rsna --data.path corpus/rsna --data.equalise true",
    "zeroshot_siim_acr": f"{ZEROSHOT} --data.kind siim_acr --data.path corpus/siim_acr",
    "zeroshot_covidx": f"{ZEROSHOT} --data.kind covidx --data.path corpus/covidx --validation.kind covidx --validation.path "
    "corpus/covidx --validation.split valid --text_encoder tiny_bert",
    "zeroshot_folder": f"{ZEROSHOT} --data.kind folder --data.path made/films --text_encoder tiny_bert --prompt "
    "covid-19:ground-glass",
    "ground_phantom": f"{GROUND} --data.kind phantom --data.path corpus",
    "ground_rsna": f"{GROUND} --data.kind rsna --data.path corpus/rsna --data.equalise true --shifts 1",
    "ground_cxr14": f"{GROUND} --data.kind cxr14 --data.path corpus/cxr14 --anatomy true --shifts 1 --threshold 0.4",
    "finetune_cls": f"finetune_cls {FINETUNED} --data.train.kind table --data.train.path corpus/findings.csv "
    "--data.train.split train --data.test.kind table --data.test.path corpus/findings.csv --data.test.split test "
    "--data.valid_fraction 0.4 --data.side 32 --data.workers 0 --device cpu",
    "finetune_probe": f"finetune_cls {FINETUNED} {EDEMA} --data.fraction 0.5 --data.side 32 --data.workers 0 "
    "--linear_probe true --seeds [0,1] --device cpu",
    "finetune_seg": f"finetune_seg {FINETUNED} {PHANTOM_MASKS} --bridge 16 "
    "--data.valid_fraction 0.3 --data.test_fraction 0.4 --data.side 32 --data.workers 0 --seeds [0,1] --device cpu",
    "finetune_seg_wide": f"finetune_seg {FINETUNED} {PHANTOM_MASKS} --bridge 32 "
    "--data.valid_fraction 0.3 --data.test_fraction 0.4 --data.side 32 --data.workers 0 --seeds [0,1] --device cpu",
    "finetune_seg_siim_acr": f"finetune_seg {FINETUNED} --data.kind siim_acr --data.path corpus/siim_acr --bridge 16 "
    "--choose_by dice_balanced --data.valid_fraction 0.3 --data.test_fraction 0.4 --data.side 32 --data.workers 0 --device cpu",
    "evaluate_all": "evaluate_all --checkpoint golden.safetensors --text_encoder tiny_bert --workers 0 --device cpu "
    "--resamples 20 --classification CLASSIFICATION --grounding GROUNDING",
    "compare_cls": "compare zeroshot_table evaluate_all/zeroshot_cls/table --resamples 20",
    "compare_ground": "compare ground_rsna evaluate_all/grounding/rsna --resamples 20",
    "compare_seg": "compare finetune_seg finetune_seg_wide --resamples 20",
}
"""Name, also of the output folder -> command; a command may read what an earlier one wrote."""


# What the commands read --------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory, same_bert: Path, write_recipe) -> Path:
    """The folder that every command runs in: phantoms, a checkpoint, a text encoder, and made inputs."""
    folder = tmp_path_factory.mktemp("golden")
    drawn = "--studies 64 --valid_fraction 0.25 --test_fraction 0.4 --side 64 --seed 3 --workers 1"
    assert run_task("make_phantom", [*_today(drawn.split()), "--output", str(folder / "corpus")]) == 0
    write_recipe("pretrained", folder / "golden.safetensors")
    (folder / "tiny_bert").symlink_to(same_bert)
    _write_table(folder)
    _write_openi(folder / "made")
    _write_published(folder / "made" / "published")
    return folder


def _write_table(folder: Path) -> None:
    """The phantoms once more: a table of findings with a split column, and one of a single class."""
    (folder / "made").mkdir()
    table = pd.read_csv(folder / "corpus" / "findings.csv")
    classes = table.columns[7:]
    findings = ["|".join(classes[row == 1]) or "No Finding" for row in table[classes].to_numpy()]
    about = table[["image", "study", "patient", "split", "sex"]]
    about.assign(findings=findings).to_csv(folder / "made" / "table.csv", index=False)
    about.assign(edema=table["edema"]).to_csv(folder / "made" / "edema.csv", index=False)


def _write_openi(folder: Path) -> None:
    tags = ["normal", "Opacity/lung/base/left/mild", "Pleural Effusion/bilateral/small", "Cardiomegaly/borderline"]
    tags += ["Pneumothorax/apex/left", "No Indexing", "Calcinosis/lung/hilum/lymph nodes/right", "Some New Term/lung"]
    (folder / "reports").mkdir()
    (folder / "films").mkdir()
    random = np.random.default_rng(0)
    for number, tag in enumerate(tags):
        image = f"CXR{number}_IM-1-1001"
        (folder / "reports" / f"{number}.xml").write_text(
            f'<eCitation><uId id="CXR{number}"/><MeSH><major>{tag}</major></MeSH><parentImage id="{image}"/></eCitation>'
        )
        noise = random.integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(noise).resize((48, 48), Image.Resampling.NEAREST).save(folder / "films" / f"{image}.png")


def _write_published(folder: Path) -> None:
    random = np.random.default_rng(1)
    matrix = random.integers(0, 2, (7, 51, 75)).astype(np.float64)
    matrix[random.random(matrix.shape) > 0.003] = -1
    folder.mkdir()
    np.save(folder / "landmark_observation_adj_mtx.npy", matrix)
    for split, rows in {"train": [5, 0, 1], "valid": [2], "test": [6, 6]}.items():
        names = [f"files/p10/p1000000{row}/s5000000{row}/{split}{k}.jpg" for k, row in enumerate(rows)]
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
        entries = {f"/home/mimic/{name}": {"labels_id": row} for name, row in zip(names, rows, strict=True)}
        (folder / f"{split}.json").write_text(json.dumps(entries))


@pytest.fixture
def run(workspace: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs a case, and first those that it reads, unless they have run; gives its output folder."""
    monkeypatch.chdir(workspace)
    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", _draw_nothing)
    torch.set_num_threads(1)

    def go(name: str) -> Path:
        arguments = CASES[name].split()
        for other in {re.split("[/ ]", argument)[0] for argument in arguments[1:]} & CASES.keys() - {name}:
            go(other)
        if not Path(name).exists():
            arguments = [LAYOUTS.get(argument.lower(), argument) for argument in arguments]
            task, *arguments = _today(arguments)
            assert run_task(task, [*arguments, "--output", name]) == 0
        return Path(name)

    return go


def _today(arguments: list[str]) -> list[str]:
    text = "\n".join(arguments)
    for pattern, replacement in ARGUMENTS:
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    return text.split("\n")


def _draw_nothing(figure: Any, file: Any, **options: Any) -> None:
    """Drawing takes longer than everything else here."""
    Image.new("L", (2, 2)).save(file, "png")


# From files to places ----------------------------------------------------------------------------------------------


def collect(folder: Path) -> dict[str, Any]:
    """File -> its content, of all JSON and CSV files and label stores of an output folder."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        if "evaluate_all/" in str(path.parent):
            continue  # the runs of single data sets are cases of their own
        name = path.relative_to(folder).as_posix()
        if path.name in ("metrics.json", "summary.json"):
            found[name] = _numbers(json.loads(path.read_text()))
        elif path.suffix == ".csv":
            found[name] = _table(path)
        elif path.name == "log.jsonl":
            found[name] = [_numbers(json.loads(line)) for line in path.read_text().splitlines()]
    if (folder / "labels").is_dir():
        found["labels"] = _stored_cells(folder)
    return found


def _numbers(entry: Any) -> Any:
    """Without texts, but for those that name an element of a list; and without what differs between machines."""
    if isinstance(entry, dict):
        kept = {
            key: _numbers(value)
            for key, value in entry.items()
            if key not in NOT_STORED and (not isinstance(value, str) or key in ELEMENT_NAMES)
        }
        return {key: value for key, value in kept.items() if value is not None and value != {} and value != []}
    if isinstance(entry, list):
        return [_numbers(value) for value in entry if not isinstance(value, str)]
    return _rounded(entry)


def _rounded(value: Any) -> Any:
    return float(f"{value:.8g}") if isinstance(value, float) else value


def _table(path: Path) -> dict[str, list[Any]]:
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    names = [column for column in ROW_NAMES if column in table]
    rows = [
        " ".join(part.rsplit("/")[-1] for part in row if part)
        for row in table[names].itertuples(index=False, name=None)
    ]
    columns = [column for column in table if column not in {"image", *COLUMNS_NOT_STORED}]
    return {"": rows} | {str(column): [_parsed(value) for value in table[column]] for column in columns}


def _parsed(value: str) -> Any:
    try:
        number = float(value)
    except ValueError:
        return value
    return int(value) if value.lstrip("-").isdigit() else _rounded(number)


def _stored_cells(folder: Path) -> dict[str, int]:
    """Study -> checksum of its cells, as anatomy:pathology:state in order."""
    store, found = LabelStore(folder / "labels"), {}
    for path in folder.glob("*.csv"):
        for _, row in pd.read_csv(path, dtype=str).iterrows():
            cells = sorted(zip(*(part.tolist() for part in store.cells(int(row["row"]))), strict=True))
            found[row["study"]] = zlib.crc32(" ".join(f"{a}:{p}:{s}" for a, p, s in cells).encode())
    return dict(sorted(found.items()))


def flatten(entry: Any, place: str) -> Iterator[tuple[str, Any]]:
    """Place -> number or text."""
    if isinstance(entry, dict) and "" in entry:
        rows = _told_apart(entry[""])
        for column, values in entry.items():
            if column:
                yield from ((f"{place}/{row}/{column}", value) for row, value in zip(rows, values, strict=True))
    elif isinstance(entry, dict):
        for key, inner in entry.items():
            yield from flatten(inner, f"{place}/{key}")
    elif isinstance(entry, list):
        for name, inner in zip(_told_apart([_name(inner, k) for k, inner in enumerate(entry)]), entry, strict=True):
            yield from flatten(inner, f"{place}[{name}]")
    elif entry not in (None, "") and (".csv/" in place or not isinstance(entry, str)):
        yield place, entry


def _name(element: Any, index: int) -> str:
    words = (
        [element[key] for key in ELEMENT_NAMES if isinstance(element.get(key), str)]
        if isinstance(element, dict)
        else []
    )
    return " ".join(words) or str(index)


def _told_apart(names: list[str]) -> list[str]:
    """The second of a name is name#2."""
    seen: dict[str, int] = {}
    for name in names:
        seen[name] = seen.get(name, 0) + 1
    if len(seen) == len(names):
        return names
    counts: dict[str, int] = {}
    told = []
    for name in names:
        counts[name] = counts.get(name, 0) + 1
        told.append(name if counts[name] == 1 else f"{name}#{counts[name]}")
    return told


# The comparison ----------------------------------------------------------------------------------------------------


KERNELS = 38294530
"""_kernels() where the files were written: single ranks, thresholds and training steps depend on the last bit."""


def _kernels() -> int:
    """Checksum of what torch computes here of fixed numbers, apart from our code."""
    random = torch.from_numpy(np.random.default_rng(0).standard_normal((8, 64, 16, 16)).astype(np.float32))
    weight = random.reshape(-1, 64, 1, 1)[:64].expand(64, 64, 3, 3) * torch.linspace(0, 1, 9).reshape(3, 3)
    found = torch.nn.functional.conv2d(random, weight, padding=1)
    found = torch.cat(
        [found.flatten(), (found[0, 0] @ random[0, 0]).softmax(-1).flatten(), found.mean((2, 3)).flatten()]
    )
    return zlib.crc32(found.numpy().tobytes())


def compare(name: str, found: dict[str, Any]) -> None:
    """Every stored number is there and equal; or the file is written, if there is none and GOLDEN_WRITE is set."""
    file = EXPECTED / f"{name}.json"
    if not file.exists() and os.environ.get("GOLDEN_WRITE"):
        EXPECTED.mkdir(exist_ok=True)
        lines = ",\n".join(
            f"{json.dumps(key)}: {json.dumps(value, separators=(',', ':'))}" for key, value in found.items()
        )
        file.write_text(f"{{\n{lines}\n}}\n")
    here = dict(flatten(found, name))
    wrong = []
    for stored, expected in flatten(json.loads(file.read_text()), name):
        place = _place_today(stored)
        if place is None:
            continue
        if place not in here:
            wrong.append(f"{place}: missing")
        elif not _equal(here[place], expected, _tolerance(stored)):
            wrong.append(f"{place}: {here[place]} instead of {expected}")
    assert not wrong, f"{len(wrong)} differ:\n" + "\n".join(wrong[:20])


def _place_today(stored: str) -> str | None:
    place = stored
    for pattern, replacement in RENAMES:
        if replacement is None:
            if re.search(pattern, place):
                return None
        else:
            place = re.sub(pattern, replacement, place)
    return place


def _tolerance(stored: str) -> float:
    return next((looser for pattern, looser in LOOSER.items() if re.search(pattern, stored)), TOLERANCE)


def _equal(value: Any, expected: Any, tolerance: float) -> bool:
    if isinstance(value, str) or isinstance(expected, str):
        return str(value) == str(expected)
    return math.isclose(value, expected, rel_tol=tolerance, abs_tol=tolerance)


def test_phantoms_are_drawn_alike(workspace: Path) -> None:
    """All else here is computed from them; and a corpus is found again by its version and seed."""
    corpus = workspace / "corpus"
    drawn = [*sorted(corpus.glob("cxr14/images_*/images/*.png"))[::8], *sorted(corpus.glob("masks/*.png"))[::16]]
    texts = [corpus / "findings.csv", corpus / "findings.jsonl", *sorted(corpus.glob("mimic_cxr/**/*.txt"))[::8]]
    texts += [corpus / "radgraph" / "MIMIC-CXR_graphs.json", corpus / "rsna" / "stage_2_train_labels.csv"]
    texts += [
        corpus / "cxr14" / "BBox_List_2017.csv",
        corpus / "siim_acr" / "train-rle.csv",
        corpus / "covidx" / "test.txt",
    ]
    found = {p.relative_to(corpus).as_posix(): zlib.crc32(np.asarray(Image.open(p)).tobytes()) for p in drawn}
    found |= {p.relative_to(corpus).as_posix(): zlib.crc32(p.read_bytes()) for p in texts}
    compare("phantoms", found)


@pytest.mark.parametrize("name", CASES)
def test_numbers_are_as_stored(name: str, run) -> None:
    found = collect(run(name))
    if not name.startswith("prepare") and _kernels() != KERNELS:
        pytest.skip(
            "ran, but the numbers of a network are compared only where torch rounds as it did when they were stored"
        )
    compare(name, found)
