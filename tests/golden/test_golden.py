"""Every task, run on phantoms as a user runs it, gives the numbers that are stored in expected/.

A number that changes here changed for every user: these files are not rewritten to make a change pass.

Every output file is read as tables: a CSV file is one, and so are a log, and each list of rows in a metrics.json. A stored
table is a JSON object, column -> values, where the column "" holds the names of the rows and null is not compared. What is
there today and was not stored is not looked at; what was stored and is missing fails.

**To rename** a table, row or column, add a line to ``RENAMES``. **To store** a new case, add it to ``CASES`` and run
``GOLDEN_WRITE=1 pytest tests/golden/test_golden.py``, which writes only the files that are not there yet.
"""

from __future__ import annotations

import json
import math
import os
import re
import shlex
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

RENAMES: list[tuple[str, str | None]] = []
"""Pattern in the place of a stored value, such as ``zeroshot_table/metrics.json/scores[Effusion]/auroc/value``, case, table,
row and column -> what stands there today, or None for what is left out on purpose."""

EXPECTED = Path(__file__).parent / "expected"
TOLERANCE = 1e-6
"""Absolute, or relative to the stored number."""

LOOSER = {r" recalibrated(#\d+)?\]/": 1e-4}
"""Pattern in a place -> its own tolerance: a slope fitted to few images amplifies rounding."""

ROW_NAMES = (
    "image", "study", "data_set", "task", "subset", "attribute", "group", "anatomy", "pathology", "findings", "name", "class",
    "rule", "probabilities", "map", "score",
)  # fmt: skip
"""Columns that name a row together, as far as a table has them; an image by its file's name."""

NOT_STORED = {"environment", "version", "time", "provenance", "resamples", "image", "path", "row", "mask"}
"""Columns that differ between machines or releases; and how many resamples the commands ask for."""

TINY = (
    "--model.trunk resnet18 --model.width 16 --model.decoder_layers 1 --model.decoder_heads 2 --model.feed_forward 32"
)
EVALUATE = "--checkpoint golden.safetensors --workers 0 --device cpu --resamples 20 --patients keep"
FINETUNE = (
    "--checkpoint golden.safetensors --train.epochs 1 --train.batch_size 8 --train.precision float32 --resamples 20 "
    "--data.side 32 --data.workers 0 --device cpu --patients keep"
)
MASKS = "--data.valid_fraction 0.3 --data.test_fraction 0.4"
PHANTOM_MASKS = (
    f"{MASKS} --data.train.kind coco --data.train.path corpus/coco --data.train.split valid+test --finding pneumothorax"
)
EDEMA = " ".join(
    f"--data.{part}.kind csv --data.{part}.path made/edema.csv --data.{part}.images corpus --data.{part}.split {part}"
    for part in ("train", "valid", "test")
)

CASES: dict[str, str] = {
    "prepare_mimic": "prepare_data mimic --data.path corpus/mimic_cxr --data.graphs corpus/radgraph/MIMIC-CXR_graphs.json",
    "prepare_cxr14": "prepare_data cxr14 --data.path corpus/cxr14 --valid_fraction 0.3",
    "prepare_csv": "prepare_data csv --data.path corpus/findings.csv",
    "prepare_csv_split": "prepare_data csv --data.path made/table.csv --data.images corpus --data.columns.findings findings",
    "prepare_openi": "prepare_data openi --data.path made/reports --data.images made/films --test_fraction 0.4",
    "prepare_published": "prepare_data authors --data.path made/published --data.images made/published",
    "pretrain": "pretrain --data.train prepare_mimic/train.csv --data.valid prepare_mimic/valid.csv --data.labels "
    f"prepare_mimic/labels --data.side 32 --data.workers 0 {TINY} --text.encoder tiny_bert --text.max_tokens 32 "
    "--train.epochs 1 --train.batch_size 8 --train.precision float32 --train.log_every 1 --optim.warmup_steps 0 --device cpu",
    "zeroshot_table": f"zeroshot_cls {EVALUATE} --data.kind csv --data.path corpus/findings.csv --data.split test "
    "--validation.kind csv --validation.path corpus/findings.csv --validation.split valid --text_encoder tiny_bert",
    "zeroshot_cxr14": f"zeroshot_cls {EVALUATE} --data.kind cxr14 --data.path corpus/cxr14 --validation.kind cxr14 "
    "--validation.path corpus/cxr14 --validation.split train",
    "zeroshot_rsna": f"zeroshot_cls {EVALUATE} --data.kind rsna --data.path corpus/rsna --data.equalise true",
    "zeroshot_siim_acr": f"zeroshot_cls {EVALUATE} --data.kind siim_acr --data.path corpus/siim_acr",
    "zeroshot_covidx": f"zeroshot_cls {EVALUATE} --data.kind covidx --data.path corpus/covidx --validation.kind covidx "
    "--validation.path corpus/covidx --validation.split valid --text_encoder tiny_bert",
    "zeroshot_folder": f"zeroshot_cls {EVALUATE} --data.kind folder --data.path made/films --text_encoder tiny_bert "
    "--prompt covid-19:ground-glass",
    "ground_phantom": f"ground {EVALUATE} --data.kind coco --data.path corpus/coco --data.split test --validation.kind coco "
    "--validation.path corpus/coco --validation.split valid --prior.kind coco --prior.path corpus/coco --prior.split train",
    "ground_rsna": f"ground {EVALUATE} --data.kind rsna --data.path corpus/rsna --data.equalise true --shifts 1",
    "ground_cxr14": f"ground {EVALUATE} --data.kind cxr14 --data.path corpus/cxr14 --anatomy true --shifts 1 --threshold 0.4",
    "finetune_cls": f"finetune_cls {FINETUNE} --data.train.kind csv --data.train.path corpus/findings.csv "
    "--data.train.split train --data.test.kind csv --data.test.path corpus/findings.csv --data.test.split test "
    "--data.valid_fraction 0.4",
    "finetune_probe": f"finetune_cls {FINETUNE} {EDEMA} --data.fraction 0.5 --linear_probe true --seeds [0,1]",
    "finetune_seg": f"finetune_seg {FINETUNE} {PHANTOM_MASKS} --bridge 16 --seeds [0,1]",
    "finetune_seg_wide": f"finetune_seg {FINETUNE} {PHANTOM_MASKS} --bridge 32 --seeds [0,1]",
    "finetune_seg_siim_acr": f"finetune_seg {FINETUNE} {MASKS} --data.train.kind siim_acr "
    "--data.train.path corpus/siim_acr --bridge 16 --choose_by dice_balanced",
    "evaluate_all": f"evaluate_all {EVALUATE} --text_encoder tiny_bert --classification "
    "'{table: {data: {kind: csv, path: corpus/findings.csv, split: test, equalise: true}}, "
    "covidx: {data: {kind: covidx, path: corpus/covidx}}}' "
    "--grounding '{rsna: {data: {kind: rsna, path: corpus/rsna}, shifts: 1}}'",
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
    assert run_task("make_phantom", [*drawn.split(), "--output", str(folder / "corpus")]) == 0
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
        task, *arguments = shlex.split(CASES[name])
        for other in {re.split("[/ ]", argument)[0] for argument in arguments} & CASES.keys() - {name}:
            go(other)
        if not Path(name).exists():
            assert run_task(task, [*arguments, "--output", name]) == 0
        return Path(name)

    return go


def _draw_nothing(figure: Any, file: Any, **options: Any) -> None:
    """Drawing takes longer than everything else here."""
    Image.new("L", (2, 2)).save(file, "png")


# From files to tables ----------------------------------------------------------------------------------------------


def tables_of(folder: Path) -> dict[str, pd.DataFrame]:
    """The tables of all JSON and CSV files and label stores of an output folder, by file; rows have their names."""
    found: dict[str, pd.DataFrame] = {}
    for path in sorted(folder.rglob("*")):
        if "evaluate_all/" in str(path.parent):
            continue  # the runs of single data sets are cases of their own
        name = path.relative_to(folder).as_posix()
        if path.suffix == ".csv":
            found[name] = _named(pd.read_csv(path, dtype=str, keep_default_na=False))
        elif path.name == "log.jsonl":
            found[name] = _rows([json.loads(line) for line in path.read_text().splitlines()])
        elif path.name in ("metrics.json", "summary.json"):
            content = json.loads(path.read_text())
            lists = {
                key
                for key, value in content.items()
                if isinstance(value, list) and value and isinstance(value[0], dict)
            }
            found |= {f"{name}/{key}": _rows(content.pop(key)) for key in sorted(lists)}
            found[name] = _rows([content]).set_axis([""])
    if (folder / "labels").is_dir():
        found["labels"] = _stored_cells(folder)
    return found


def _rows(records: list[dict[str, Any]]) -> pd.DataFrame:
    return _named(pd.DataFrame([dict(_cells(record)) for record in records], dtype=object))


def _cells(entry: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Column and value of everything in a nested record."""
    if isinstance(entry, dict):
        for key, inner in entry.items():
            yield from _cells(inner, f"{place}/{key}" if place else key)
    elif isinstance(entry, list):
        for k, inner in enumerate(entry):
            yield from _cells(inner, f"{place}[{k}]")
    else:
        yield place, entry


def _named(table: pd.DataFrame) -> pd.DataFrame:
    """A table with the words that name each row, or its number, as index; the second of a name is name#2."""
    columns = [column for column in ROW_NAMES if column in table]
    words = table[columns].map(lambda word: word.rsplit("/")[-1] if isinstance(word, str) else "")
    names = words.agg(lambda row: " ".join(filter(None, row)), axis=1) if columns else pd.Series("", range(len(table)))
    names = names.where(names != "", pd.Series(range(len(table))).astype(str))
    number = names.groupby(names).cumcount() + 1
    return table.set_axis((names + ("#" + number.astype(str)).where(number > 1, "")).tolist())


def _stored_cells(folder: Path) -> pd.DataFrame:
    """Study and checksum of its cells, as anatomy:pathology:state in order."""
    store, found = LabelStore(folder / "labels"), {}
    for path in folder.glob("*.csv"):
        for _, row in pd.read_csv(path, dtype=str).iterrows():
            cells = sorted(zip(*(part.tolist() for part in store.cells(int(row["row"]))), strict=True))
            found[row["study"]] = zlib.crc32(" ".join(f"{a}:{p}:{s}" for a, p, s in cells).encode())
    return _named(pd.DataFrame(sorted(found.items()), columns=["study", "cells"]))


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


def compare(name: str, tables: dict[str, pd.DataFrame]) -> None:
    """Check that every stored value is there and equal; or write the file, if there is none and GOLDEN_WRITE is set."""
    file = EXPECTED / f"{name}.json"
    if not file.exists() and os.environ.get("GOLDEN_WRITE"):
        file.write_text(to_text(tables))
    today = dict(places_of(name, tables))
    stored = {key: pd.DataFrame(columns).set_index("") for key, columns in json.loads(file.read_text()).items()}
    wrong = []
    for place, expected in places_of(name, stored):
        for pattern, replacement in RENAMES:
            if re.search(pattern, place) and replacement is None:
                break
            place = re.sub(pattern, replacement or "", place)
        else:
            tolerance = next((looser for pattern, looser in LOOSER.items() if re.search(pattern, place)), TOLERANCE)
            if place not in today:
                wrong.append(f"{place}: missing")
            elif not _equal(today[place], expected, tolerance):
                wrong.append(f"{place}: {today[place]} instead of {expected}")
    assert not wrong, f"{len(wrong)} differ:\n" + "\n".join(wrong[:20])


def places_of(case: str, tables: dict[str, pd.DataFrame]) -> Iterator[tuple[str, Any]]:
    """Place, as in ``RENAMES``, and value."""
    for name, table in tables.items():
        for column in table:
            for row, value in table[column].items():
                if value is not None and value == value:  # nor NaN
                    yield f"{case}/{name}[{row}]/{column}", value


def to_text(tables: dict[str, pd.DataFrame]) -> str:
    """Tables as JSON, without empty columns and those that are not stored."""
    lines = []
    for name, table in tables.items():
        kept = {"": table.index.tolist()}
        for column in table:
            values = [_stored(value) for value in table[column]]
            texts = not name.endswith(".csv") and any(isinstance(value, str) for value in values)
            if not texts and set(values) != {None} and not NOT_STORED & set(column.split("/")):
                kept[column] = values
        lines.append(f"{json.dumps(name)}: {json.dumps(kept, separators=(',', ':'))}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _stored(value: Any) -> Any:
    """A number, also one in a text, with eight digits; None for NaN; other texts as they are."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return value
    if math.isfinite(number):
        return int(number) if number.is_integer() else float(f"{number:.8g}")
    return None


def _equal(value: Any, expected: Any, tolerance: float) -> bool:
    try:
        return math.isclose(float(value), float(expected), rel_tol=tolerance, abs_tol=tolerance)
    except ValueError:
        return str(value) == str(expected)


def test_phantoms_are_drawn_alike(workspace: Path) -> None:
    """All else here is computed from them; and a corpus is found again by its version and seed."""
    corpus = workspace / "corpus"
    drawn = [*sorted(corpus.glob("cxr14/images_*/images/*.png"))[::8], *sorted(corpus.glob("masks/*.png"))[::16]]
    texts = [corpus / "findings.csv", corpus / "findings.jsonl", *sorted(corpus.glob("mimic_cxr/**/*.txt"))[::8]]
    texts += [corpus / "radgraph/MIMIC-CXR_graphs.json", corpus / "rsna/stage_2_train_labels.csv"]
    texts += [corpus / "cxr14/BBox_List_2017.csv", corpus / "siim_acr/train-rle.csv", corpus / "covidx/test.txt"]
    found = {path: zlib.crc32(np.asarray(Image.open(path)).tobytes()) for path in drawn}
    found |= {path: zlib.crc32(path.read_bytes()) for path in texts}
    names = [path.relative_to(corpus).as_posix() for path in found]
    compare("phantoms", {"files": pd.DataFrame({"crc32": found.values()}, index=names)})


@pytest.mark.parametrize("name", CASES)
def test_numbers_are_as_stored(name: str, run) -> None:
    found = tables_of(run(name))
    if not name.startswith("prepare") and _kernels() != KERNELS:
        pytest.skip(
            "ran, but the numbers of a network are compared only where torch rounds as it did when they were stored"
        )
    compare(name, found)
