"""The rows of run.py about data: input of training, lists, labels, reports, the bootstrap and the command line.

Lists, reports and images are made up, as large as MIMIC-CXR's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from rows import ROOT, Row, interleaved, peak_memory

from medslip.data.augmentation import AugmentationConfig, LabelAugment, TrainingTransform
from medslip.data.cache import build_cache
from medslip.data.images import Header, read_image
from medslip.data.loading import ImageSource, Shard, StudyLabels, training_loader
from medslip.data.prepared import read_image_list, write_list
from medslip.data.preprocessing import equalise, squash
from medslip.data.reading import check_files
from medslip.evaluation.classification import score
from medslip.files import fingerprint
from medslip.labels import LabelStore, LabelStoreWriter
from medslip.labels.radgraph import iter_graphs, label_cells
from medslip.labels.report_rules import ReportRules
from medslip.phantoms.dicom import uid_of, write_dicom
from medslip.vocabulary import CXR14_CLASSES

IMAGES, STUDIES = 377_000, 220_000
WORDS = ("lungs", "clear", "effusion", "pneumothorax", "opacity", "lobe", "left", "right", "heart", "edema", "pleural")


def training_input() -> list[Row]:
    """Cached images, augmented as published, per process."""
    with tempfile.TemporaryDirectory() as name:
        jpegs = [Path(name, f"{number}.jpg") for number in range(16)]
        for number, path in enumerate(jpegs):
            _radiograph(2500, 3000, number).save(path, quality=95)
        transform = TrainingTransform(224, AugmentationConfig())
        source = ImageSource(build_cache(jpegs, Path(name, "cache"), 256, 0), None, at_least=transform.source_side)
        batches = training_loader(source, np.arange(16).repeat(8), LabelAugment(transform), 0, Shard(64))
        seconds = interleaved(
            {
                "ours": lambda: [None for _ in batches.epoch(0)],
                "pillow": lambda: [np.asarray(Image.open(path).convert("L").resize((224, 224))) for path in jpegs],
            },
            9,
        )
    ours, pillow = seconds["ours"] / 128, seconds["pillow"] / 16
    beside = f"Pillow, grey decode and resize of 2500 x 3000 JPEG: {pillow * 1e3:.1f} ms"
    return [
        Row("training input per image", ours * 1e3, 1.5, "ms", beside),
        Row("training input, over Pillow", pillow / ours, 20, "x", beside, at_least=True),
    ]


def dicom() -> list[Row]:
    """An image as RSNA publishes it, in baseline JPEG, to an equalised tensor."""
    import pydicom
    from skimage.exposure import equalize_hist

    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "a.dcm")
        pixels = np.asarray(_radiograph(1024, 1024, 0))
        write_dicom(path, pixels, Header("p", "F", 50, "PA", 1024, 1024), uid_of("a"))

        def theirs() -> torch.Tensor:
            equalised = (equalize_hist(pydicom.dcmread(path).pixel_array) * 255).astype(np.uint8)
            return torch.from_numpy(np.array(Image.fromarray(equalised).resize((224, 224))))

        seconds = interleaved({"ours": lambda: squash(equalise(read_image(path)), 224), "theirs": theirs}, 15)
    beside = f"pydicom + scikit-image + Pillow {seconds['theirs'] * 1e3:.1f} ms, ours {seconds['ours'] * 1e3:.1f} ms"
    return [Row("DICOM to equalised tensor", seconds["theirs"] / seconds["ours"], 5, "x", beside, at_least=True)]


def lists() -> list[Row]:
    """What pre-training does with a list before it builds the model."""
    rows = []
    for images in (1_000, 10_000, 100_000, IMAGES):
        with tempfile.TemporaryDirectory() as name:
            path = _list(Path(name), images)
            seconds = interleaved({"start": partial(_start, path)}, 3)["start"]
            read = "from pathlib import Path; from medslip.data.prepared import read_image_list as read"
            small = _list(Path(name, "small"), 100)
            memory = peak_memory(f"{read}; read(Path({str(small)!r}))", f"kept = read(Path({str(path)!r}))")
        share = images / IMAGES
        rows += [
            Row(f"start on a list of {images:,}", seconds, max(2 * share, 0.1), "s"),
            Row(f"list of {images:,}, peak per process", memory, max(50 * share, 10), "MB"),
        ]
    return rows


def label_store() -> list[Row]:
    """A store of 220,000 studies with 12 cells each."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "labels")
        _store(STUDIES).write(folder)
        store, rows = LabelStore(folder), np.random.default_rng(0).integers(0, STUDIES, 64).tolist()
        work: dict[str, Callable[[], object]] = {
            "open": lambda: LabelStore(folder),
            "batch": lambda: [store.dense(row) for row in rows],
        }
        seconds = interleaved(work, 15)
        size = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
    return [
        Row("label store on disk", size, 20, "MB"),
        Row("label store, opening", seconds["open"] * 1e3, 50, "ms"),
        Row("label store, batch of 64", seconds["batch"] * 1e3, 1, "ms"),
    ]


def bootstrap() -> list[Row]:
    """1,000 resamples of the official ChestX-ray14 test list, 14 classes."""
    rng = np.random.default_rng(0)
    labels = (rng.random((25_596, 14)) < rng.uniform(0.003, 0.2, 14)).astype(np.int8)
    probabilities = (1 / (1 + np.exp(-rng.normal(labels, 1.5)))).astype(np.float32)
    patients = [str(number) for number in rng.integers(0, 2_797, 25_596)]
    rows = []
    for what, owners in (("patients", patients), ("images", None)):
        start = time.perf_counter()
        score(list(CXR14_CLASSES), labels, probabilities, owners, 1000)
        rows.append(Row(f"bootstrap 25,596 x 14 x 1,000, by {what}", time.perf_counter() - start, 10, "s"))
    return rows


def reports() -> list[Row]:
    """Graphs of 84 words and 36 entities -> label store; the time of 220,000 from that of fewer, and the memory."""
    rows = []
    for count in (1_000, 5_000, 20_000):
        with tempfile.TemporaryDirectory() as name:
            path = Path(name, "graphs.json")
            rng = np.random.default_rng(0)
            path.write_text(json.dumps({f"s{50_000_000 + number}.txt": _graph(rng) for number in range(count)}))
            start = time.perf_counter()
            store_of(path)
            seconds = (time.perf_counter() - start) * STUDIES / count
            memory = peak_memory(
                "import sys; sys.path.insert(0, 'benchmarks'); import data_rows; from pathlib import Path",
                f"data_rows.store_of(Path({str(path)!r}))",
            )
        rows += [
            Row(f"220,000 reports, from {count:,}", seconds, 300, "s"),
            Row(f"{count:,} reports, memory beyond the imports", memory, 160, "MB"),
        ]
    return rows


def store_of(path: Path) -> LabelStoreWriter:
    """The labels of a file of graphs."""
    rules, writer = ReportRules.load(), LabelStoreWriter()
    for study, graph in iter_graphs(path):
        writer.add(study, label_cells(graph, rules))
    return writer


def beside_work() -> list[Row]:
    """A training step's convolutions with OMP_WAIT_POLICY as the command line sets it, alone and beside busy processes."""
    step = (
        "import time, torch, torchvision; m = torchvision.models.resnet18(); x = torch.randn(8, 3, 128, 128)\n"
        "m(x).sum().backward(); t = time.perf_counter()\nfor _ in range(5): m(x).sum().backward()\n"
        "print((time.perf_counter() - t) / 5)"
    )

    def seconds(policy: str) -> float:
        done = subprocess.run(
            [sys.executable, "-c", step],
            env=os.environ | {"OMP_WAIT_POLICY": policy},
            check=True,
            capture_output=True,
            text=True,
        )
        return float(done.stdout)

    def median(policy: str) -> float:
        return sorted(seconds(policy) for _ in range(3))[1]

    alone = {policy: median(policy) for policy in ("PASSIVE", "ACTIVE")}
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"])]
    try:
        loaded = {policy: median(policy) for policy in ("PASSIVE", "ACTIVE")}
    finally:
        for process in busy:
            process.kill()
            process.wait()
    shown = "threads that spin: {:.2f} s alone, {:.2f} s beside a busy process".format(
        alone["ACTIVE"], loaded["ACTIVE"]
    )
    return [
        Row("step alone, waiting over spinning threads", alone["PASSIVE"] / alone["ACTIVE"], 1.05, "x", shown),
        Row("step beside a busy process, over alone", loaded["PASSIVE"] / alone["PASSIVE"], 1.5, "x", shown),
    ]


def command_line() -> list[Row]:
    """``medslip --help``."""
    command = [sys.executable, "-c", "from medslip.cli import main; main(['--help'])"]
    seconds = interleaved({"help": lambda: subprocess.run(command, cwd=ROOT, check=True, capture_output=True)}, 7)
    return [Row("medslip --help", seconds["help"], 0.3, "s")]


def _start(path: Path) -> None:
    table, store = read_image_list(path), LabelStore(path.parent / "labels")
    StudyLabels(table, store)
    check_files(table.images["path"], table.images["line"], table.source)
    fingerprint([path, path.parent / "labels" / "cells.bin"])


def _list(folder: Path, images: int) -> Path:
    """A prepared list whose images, as in a cache, are empty files of names as long as those of MIMIC-CXR's."""
    names = [f"cache/256/{n % 256:02x}/{n:08x}-{n:08x}-{n:08x}-{n:08x}-{n:08x}-{n:022x}.png" for n in range(images)]
    for part in range(256):
        (folder / f"cache/256/{part:02x}").mkdir(parents=True)
    for name in names:
        (folder / name).touch()
    row = np.arange(images) * STUDIES // IMAGES
    table = pd.DataFrame({"image": names, "study": [f"s{50_000_000 + n}" for n in row], "row": row, "view": "PA"})
    write_list(folder / "train.csv", table.assign(patient=[f"p{10_000_000 + n // 3}" for n in row]))
    _store(int(row[-1]) + 1).write(folder / "labels", ["train.csv"])
    return folder / "train.csv"


def _store(studies: int) -> LabelStoreWriter:
    writer, rng = LabelStoreWriter(), np.random.default_rng(0)
    cells = np.stack([rng.integers(0, 51, (studies, 12)), rng.integers(0, 75, (studies, 12))], axis=2).tolist()
    for study, places in enumerate(cells):
        writer.add(f"s{50_000_000 + study}", {(a, p): p % 2 for a, p in places})
    return writer


def _graph(rng: np.random.Generator) -> dict[str, object]:
    words, kinds = rng.choice(WORDS, 84).tolist(), rng.choice(["OBS-DP", "OBS-DA", "OBS-U"], 36).tolist()
    entities = {}
    for number, (place, target) in enumerate(rng.integers(0, (84, 36), (36, 2)).tolist()):
        anatomy = number % 2 == 0
        relations = [["modify" if anatomy else "located_at", str(target)]] if number % 3 else []
        label = "ANAT-DP" if anatomy else kinds[number]
        entities[str(number)] = {"tokens": words[place], "label": label, "start_ix": place, "relations": relations}
    return {"text": " ".join(words), "entities": entities}


def _radiograph(height: int, width: int, seed: int) -> Image.Image:
    """Smooth, with the noise of a detector."""
    rng = np.random.default_rng(seed)
    smooth = Image.fromarray(rng.integers(40, 220, (12, 12), dtype=np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    return Image.fromarray(np.clip(np.asarray(smooth) + rng.normal(0, 3, (height, width)), 0, 255).astype(np.uint8))


ROWS: dict[str, Callable[[], list[Row]]] = {
    "input": training_input,
    "dicom": dicom,
    "lists": lists,
    "labels": label_store,
    "bootstrap": bootstrap,
    "reports": reports,
    "beside": beside_work,
    "help": command_line,
}
