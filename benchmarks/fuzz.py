"""Does every reader read a damaged file, or end in its one-line error?

    python benchmarks/fuzz.py [--seed 0] [--cases 2400] [--reader NAME [--case N]]

Small valid inputs of every format are made in code. A case changes one file of a reader: its bytes, its structure (a cell, a
key, a tensor, a header's element; some by values that Hypothesis draws), its encoding, or the whole file. A case fails on any
exception other than InputError, after 10 s, or with 1 GB of memory; case 0 of a reader changes nothing and must be read. Cases
are functions of seed, reader and number: --reader NAME --case N repeats one with its traceback. Needs Linux, for its limits.
"""

from __future__ import annotations

import argparse
import ast
import csv
import faulthandler
import gzip
import importlib
import io
import json
import os
import re
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from itertools import product
from multiprocessing import connection, get_context
from pathlib import Path
from random import Random
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pydicom
import torch
import torchvision
import yaml
from PIL import Image
from safetensors.torch import load, save
from torch import Tensor
from transformers import BertConfig, BertModel, BertTokenizerFast  # type: ignore[attr-defined]

from medslip import checkpoints, config, run_dir, vocabulary
from medslip.checkpoints.authors import AUTHORS_NAMES
from medslip.data import cache, images, prepared
from medslip.data.datasets import authors, chexpert
from medslip.data.datasets.csv_table import Columns
from medslip.data.masks import decode_mask
from medslip.data.preprocessing import Preprocessing
from medslip.data.registry import data_set
from medslip.errors import InputError, one_line
from medslip.evaluation import paired, run_page
from medslip.labels import LabelStore
from medslip.labels.radgraph import iter_graphs, label_cells
from medslip.labels.report_rules import ReportRules
from medslip.model.classifier import LinearProbe
from medslip.model.medslip import MeDSLIP, ModelConfig
from medslip.model.segmenter import Segmenter
from medslip.model.text_encoder import TextConfig, TextEncoder
from medslip.model.trunk import Trunk
from medslip.predictor import Predictor
from medslip.tasks import make_phantom, prepare_data, pretrain
from medslip.training import engine

SECONDS, MEMORY = 10, 1 << 30
TINY = ModelConfig("resnet18", width=32, decoder_layers=1, feed_forward=32)
EMBEDDINGS = torch.ones(75, 32), torch.ones(51, 32)
# fmt: off
VALUES: list[Any] = [
    None, True, -1, 0, 0.5, 1e400, -1e400, float("nan"), 10**6, 2**31, 2**63, 10**30, 10**400, [], {}, [[]], [None], {"": None},
    "", " ", "nan", "1e999", "\0", "é\u202e", "../..", "/", "a" * 300, "a" * 200_000, "[" * 50_000, "1" * 5000, "%s{}", "=1+1",
    "~", "2020-01-01", [1] * 1000, ["a", 1, None], {"a": {"b": [1]}}, "- &a [*a]", "-0", "\u0661", [[0, 0]], ["a"],
    "a;b;c;d", '"',
]
TABLES = {
    "padchest/list.csv": "ImageID,Labels,PatientID,Projection\na.png,\"['mass', 'edema']\",7,PA\nb.png,['normal'],8,AP\n",
    "nih/list.csv": f",image,{','.join(vocabulary.CXR14_CLASSES)}\n0,a.png{',0,1' * 7}\n1,b.png{',1,0' * 7}\n",
    "rsna_list/list.csv": "ID,img_path,boxes,classes\na,a.png,1;2;30;40|5;6;7;8,1\nb,b.png,nan,0\n",
    "siim_list/list.csv": "image_path,patient\na.png,p\nb.png,q\n",
    "chexpert/valid.csv": f"Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,{','.join(chexpert.CLASSES)}\nX/valid/patient1/"
    f"study1/a.png,Male,50,Frontal,AP{',1' * 13},0\nX/valid/patient2/study1/b.png,Female,6,Frontal,PA,{',-1' * 13}\n",
    "openi/1.xml": '<eCitation><uId id="CXR1"/><MeSH><major>Opacity/lung/base/left</major><major>Cardiomegaly'
    '</major></MeSH><parentImage id="a"/><parentImage id="b"/></eCitation>',
    "openi/views.csv": "image,view\na,PA\nb,Frontal\n",
    "reports/list.csv": "image,report,patient,view\na.png,\"FINDINGS: Effusion, no edema.\",7,PA\nb.png,Clear lungs.,8,AP\n",
    "reports/a.txt": "FINDINGS:\nSmall effusion in the left base; edema cannot be excluded.\n\nIMPRESSION: 1. Effusion.\n",
    "reports/b.txt": "No pneumothorax or effusion. The heart is enlarged.\n",
    "authors/train.json": '{"a.png": {"labels_id": 0}, "b.png": {"labels_id": 1}}',
    "radgraph/xl.jsonl": '{"doc_key": "s50000001", "sentences": [["lungs", "are", "clear"]], "ner": [[[0, 0, "Anatomy::'
    'definitely present"], [2, 2, "Observation::definitely present"]]], "relations": [[[2, 2, 0, 0, "located_at"]]]}\n',
    "config/options.txt": "--data.train=x.csv\n--data.valid=y.csv\n--data.labels=z\n--train.epochs\n3\n"
    "--optim.clip-norm=null\n--model.width=64\n--output=y",
    "prompts/pathology.json": json.dumps(dict.fromkeys(vocabulary.PATHOLOGIES, "a text")),
    "prompts/anatomy.json": json.dumps(["a place"] * 51),
    "run/log.jsonl": '{"kind": "train", "step": 1, "time": 1.5, "total": 0.25}\n'
    '{"kind": "validation", "step": 5, "time": 2, "auroc": 1}\n',
    "run/metrics.json": '{"format": "medslip-metrics", "version": 1, "task": "pre-training", "data": {"name": "x"}, "seed": 1, '
    '"scores": [{"class": "mass", "auroc": {"value": 0.5, "low": 0.4, "high": null, "resamples": 9, "left_out": 0}}]}',
    "compare/class/metrics.json": '{"format": "medslip-metrics", "task": "zero-shot classification", "scores": '
    '[{"class": "mass"}]}',
    "compare/class/predictions.csv": "image,patient,age,mass,label_mass,edema,label_edema\n"
    "a,p,40,0.5,1,0.5,1\nb,q,,0.25,0,0.5,0\n",
    "compare/ground/metrics.json": '{"format": "medslip-metrics", "task": "grounding", "seed": 1}',
    "compare/ground/predictions.csv": "image,patient,class,larger_than_a_patch,model_pointing,model_pointing_patch,"
    "model_pixel_auroc,model_contrast_to_noise,model_iou,model_dice\na,p,mass,1,1,1,0.5,,0.5,0.5\nb,q,edema,0,1,0,0.5,2,0.5,0.5\n",
    "compare/seg/metrics.json": '{"format": "medslip-metrics", "task": "segmentation", "seeds": [0], '
    '"data": {"finding": "mass"}}',
    "compare/seg/seed_0/predictions.csv": "image,patient,marked_pixels,dice,iou\na,p,9,0.5,0.5\nb,q,0,1,1\n",
    "bert/vocab.txt": "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefg", *(f"##{c}" for c in "abcdefg")]),
}
# fmt: on
"""Valid inputs that are text; images are a.png and b.png."""


def training() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """What the training state belongs to."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    return model, torch.optim.AdamW(model.parameters())


def make_inputs(root: Path) -> None:
    """Write a valid input for every reader."""
    make_phantom.run(make_phantom.MakePhantomConfig(root, 6, valid_fraction=0.3, test_fraction=0.4, side=64, workers=1))
    mimic = data_set("mimic")(root / "mimic_cxr", graphs=root / "radgraph/MIMIC-CXR_graphs.json")  # type: ignore[call-arg]
    prepare_data.run(prepare_data.PrepareConfig(mimic, root / "prepared"))
    meta = json.loads((root / "prepared/labels/meta.json").read_text())
    # Without checksums, as earlier versions wrote it, so that damage is not found by them alone.
    (root / "prepared/labels/meta.json").write_text(json.dumps({key: meta[key] for key in meta if "." not in key}))
    for name, text in TABLES.items():
        for copy in {name, name.replace("compare/", "other/")}:
            (root / copy).parent.mkdir(parents=True, exist_ok=True)
            (root / copy).write_text(text)
    for task in config.PHANTOM_CONFIGS.glob("*.yaml"):
        shutil.copy(task, root / "config")
    start = config.config_to_dict(config.phantom_config(pretrain.PretrainConfig, "pretrain"))
    (root / "run/config.yaml").write_text(yaml.safe_dump(start))

    grey = np.arange(64 * 48, dtype=np.uint16).reshape(64, 48)
    picture, orientation = Image.fromarray((grey >> 4).astype(np.uint8)), Image.Exif()
    orientation[0x0112] = 6
    studies = "chexpert/valid/patient1/study1 chexpert/valid/patient2/study1"
    folders = f"padchest nih rsna_list siim_list siim_list/masks openi reports authors run pictures {studies}"
    for place in folders.split():
        (root / place).mkdir(parents=True, exist_ok=True)
        for name in ("a.png", "b.png"):
            picture.save(root / place / name)
    pictures = root / "pictures"
    Image.fromarray(grey << 3).save(pictures / "grey16.png")
    picture.convert("RGBA").save(pictures / "turned.png", exif=orientation)
    picture.convert("RGB").save(pictures / "turned.jpg", exif=orientation)
    picture.save(pictures / "grey.tif")
    deep = zlib.compress(b"".join(b"\0" + grey[:4].tobytes()[: 4 * 6] for _ in range(4)))
    (pictures / "deep.png").write_bytes(_to_png([["IHDR", [4, 4, 16, 2, 0, 0, 0]], ["IDAT", deep], ["IEND", b""]]))
    dicom = pydicom.dcmread(next(root.rglob("*.dcm")))
    dicom.WindowCenter, dicom.WindowWidth, dicom.RescaleSlope, dicom.RescaleIntercept = [100, 50], [90, 80], 1, -5
    dicom.decompress()
    for name in ("ExplicitVRLittleEndian", "DeflatedExplicitVRLittleEndian"):
        dicom.file_meta.TransferSyntaxUID = getattr(pydicom.uid, name)
        dicom.save_as(pictures / f"{name}.dcm")

    letters = BertTokenizerFast(str(root / "bert/vocab.txt"))
    letters.save_pretrained(root / "bert")
    torch.manual_seed(0)
    tiny = BertConfig(
        vocab_size=len(letters), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    BertModel(tiny).save_pretrained(root / "bert")
    np.save(root / "authors" / authors.MATRIX_FILE, np.full((2, 51, 75), -1.0))
    weights, whole, trunk = root / "weights", MeDSLIP(TINY, *EMBEDDINGS), Trunk("resnet18")
    checkpoints.save_checkpoint(weights / "ours.safetensors", whole, checkpoints.Card(TINY, Preprocessing(32)))
    about = {"init": {"trunk": "resnet18"}, "transform": Preprocessing(32).to_dict()}
    seg = {"task": "segmentation", "finding": "mass", "bridge": 16, "validation": {"validation_threshold": 0.5}}
    cls = {"task": "fine-tuned classification", "classes": ["mass", "edema"], "linear_probe": True}
    checkpoints.save_finetuned(weights / "segmenter.safetensors", Segmenter(trunk, 16), about | seg)
    checkpoints.save_finetuned(weights / "probe.safetensors", LinearProbe(trunk, 2), about | cls)
    model, optimizer = training()
    model(torch.ones(4, 3)).sum().backward()
    optimizer.step()
    checkpoints.save_state(weights / "state.safetensors", model, optimizer, checkpoints.Progress(1, 0.5, 1))
    plain = MeDSLIP(ModelConfig("resnet18", width=32, decoder_layers=1, feed_forward=32, similarity="dot"), *EMBEDDINGS)
    published = {_published_name(name): tensor for name, tensor in plain.state_dict().items() if "prompts" not in name}
    torch.save({"model": published}, weights / "authors.pth")
    torch.save(torchvision.models.resnet18().state_dict(), weights / "trunk.pth")


def _published_name(name: str) -> str:
    for (pattern, ours), stream in product(AUTHORS_NAMES, ("pathology", "anatomy")):
        start = ours.replace(r"\1", stream)
        if name.startswith(start):
            return pattern.replace("(pathology|anatomy)", stream).replace("\\.", ".") + name.removeprefix(start)
    return name


def _read_set(kind: str, path: str, **options: Any) -> Callable[[Path, Path], Any]:
    """Reads a data set with its findings, masks and triplets."""

    def read(root: Path, file: Path) -> None:
        given = {key: root / value if "/" in str(value) else value for key, value in options.items()}
        data = data_set(kind)(root / path, **given)
        table = data.read()
        for row in range(min(len(table), 4)):
            [decode_mask(mask, *table.frame(row)) for found in table.findings_of(row) for mask in found.masks]
        if kind not in ("folder", "prepared", "chest_imagenome", "ms_cxr"):  # which have nothing to make triplets from
            list(data.triplets(table, Counter()))

    return read


def _read_graphs(root: Path, file: Path) -> None:
    rules = ReportRules.load("medslip")
    for _, graph in iter_graphs(file):
        label_cells(graph, rules)


def _read_image(root: Path, file: Path) -> None:
    images.read_header(file)
    images.read_image(file, at_least=16)


def _read_config(root: Path, file: Path) -> None:
    task = importlib.import_module(f"medslip.tasks.{'pretrain' if file.suffix == '.txt' else file.stem}")
    typed = file.suffix == ".txt" and file.is_file()
    options = file.read_text(errors="replace").splitlines() if typed else [f"--config={file}"]
    config.parse(task.COMMAND[0], options)


def _read_store(root: Path, file: Path) -> None:
    store = LabelStore(root / "prepared/labels")
    prepared.summarise(store, "", {}, {})
    [store.dense(row) for row in range(len(store))]


def _read_run(root: Path, file: Path) -> None:
    run_page.write_page(root / "out", runs=[root / "run"])
    run_dir.changed_keys(root / "run", config.phantom_config(pretrain.PretrainConfig, "pretrain"))
    [line["step"] <= 5 for line in engine.read_log(root / "run/log.jsonl")]


def _compare(root: Path, file: Path) -> None:
    task = file.relative_to(root / "compare").parts[0]
    a, b = (
        paired.open_run(root / runs / task, run_dir.read_metrics(root / runs / task)) for runs in ("compare", "other")
    )
    if a.task != b.task:
        raise InputError("two tasks")
    paired.compare_runs(a, b, paired.match_runs(a, b), 5)


def _encode(root: Path, file: Path) -> None:
    TextEncoder(TextConfig(str(root / "bert"), max_tokens=32)).encode(["a cab", "bad"])


# fmt: off
READERS: dict[str, tuple[int, str, Callable[[Path, Path], Any]]] = {
    "table of labels": (120, "findings.csv", _read_set("csv", "findings.csv")),
    "PadChest's table": (100, "padchest/list.csv", _read_set(
        "csv", "padchest/list.csv", columns=Columns("ImageID", "PatientID", view="Projection", findings="Labels"))),
    "ChestX-ray14": (100, "cxr14/*.*", _read_set("cxr14", "cxr14", split=None)),
    "authors' list of ChestX-ray14": (80, "nih/*.csv", _read_set("cxr14", "nih/list.csv")),
    "CheXpert": (80, "chexpert/*.csv", _read_set("chexpert", "chexpert")),
    "Chest ImaGenome": (100, "chest_imagenome/**/*.*", _read_set(
        "chest_imagenome", "chest_imagenome", images="mimic_cxr/files/..", boxes="silver")),
    "MS-CXR": (60, "ms_cxr/*", _read_set("ms_cxr", "ms_cxr", images="mimic_cxr/files/..")),
    "COVIDx": (60, "covidx/*.txt", _read_set(
        "covidx", "covidx", split="train+test", classes={"COVID-19": "pneumonia"})),
    "MIMIC-CXR": (80, "mimic_cxr/*.gz", _read_set("mimic", "mimic_cxr", graphs="radgraph/MIMIC-CXR_graphs.json")),
    "RadGraph": (160, "radgraph/*", _read_graphs),
    "RSNA": (80, "rsna/**/*.*", _read_set("rsna", "rsna")),
    "authors' list of RSNA": (60, "rsna_list/*", _read_set("rsna", "rsna_list/list.csv")),
    "SIIM-ACR": (80, "siim_acr/**/*.*", _read_set("siim_acr", "siim_acr")),
    "SIIM-ACR, PNG form": (60, "siim_list/**/*.*", _read_set("siim_acr", "siim_list/list.csv")),
    "OpenI": (80, "openi/*", _read_set("openi", "openi", views="openi/views.csv")),
    "table of reports": (80, "reports/*.csv", _read_set("reports", "reports/list.csv")),
    "folder of reports": (80, "reports/*.txt", _read_set("reports", "reports", patients="unknown")),
    "COCO": (160, "coco/*.json", _read_set("coco", "coco", images="coco/..")),
    "folder of images": (40, "cxr14/**/*.*", _read_set("folder", "cxr14")),
    "authors' matrix": (100, "authors/*", _read_set("authors", "authors")),
    "prepared list": (80, "prepared/*.csv", _read_set("prepared", "prepared/train.csv")),
    "label store": (120, "prepared/labels/*", _read_store),
    "image cache": (40, "pictures/*.[pd]*", lambda root, file: cache.build_cache([file], root / "out", 16, 0)),
    "PNG, JPEG, TIFF": (160, "pictures/*.[pjt]*", _read_image),
    "DICOM": (160, "pictures/*.dcm", _read_image),
    "YAML config": (120, "config/*.yaml", _read_config),
    "options": (60, "config/*.txt", _read_config),
    "prompts": (60, "prompts/*", lambda root, file: vocabulary.load_prompts(*sorted(file.parent.iterdir())[::-1])),
    "run directory": (100, "run/*", _read_run),
    "runs to compare": (160, "compare/**/*.*", _compare),
    "checkpoint": (80, "weights/ours.*s", lambda root, file: Predictor.from_pretrained(
        str(file), device="cpu").classify([root / "pictures/a.png"])),
    "authors' checkpoint": (60, "weights/authors.pth", lambda root, file: checkpoints.load_authors(file, *EMBEDDINGS)),
    "torchvision's weights": (20, "weights/trunk.pth", lambda root, file: Trunk("resnet18", str(file))),
    "fine-tuned model": (60, "weights/[sp][er]*.safetensors", lambda root, file: checkpoints.load_finetuned(
        file).probabilities(torch.zeros(1, 1, 32, 32, dtype=torch.uint8))),
    "training state": (80, "weights/state.*", lambda root, file: checkpoints.load_state(file, *training())),
    "text encoder": (40, "bert/*", _encode),
}
# fmt: on
"""Name -> cases, the files that are changed, and what reads them, given the folder of all inputs and the changed file."""


def _from_dicom(data: bytes) -> Any:
    dataset = pydicom.dcmread(io.BytesIO(data))
    return [dataset.file_meta.to_json_dict(), dataset.to_json_dict()]


def _to_dicom(tree: Any) -> bytes:
    meta, dataset = map(pydicom.Dataset.from_json, tree)
    dataset.file_meta = pydicom.dataset.FileMetaDataset(meta)
    dataset.save_as(file := io.BytesIO(), enforce_file_format=False)
    return file.getvalue()


def _from_png(data: bytes) -> Any:
    chunks, at = [], 8
    while at < len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        content = data[at + 8 : at + 8 + length]
        chunks.append([kind.decode(), list(struct.unpack(">IIBBBBB", content)) if kind == b"IHDR" else content])
        at += length + 12
    return chunks


def _to_png(chunks: Any) -> bytes:
    data = b"\x89PNG\r\n\x1a\n"
    for kind, content in chunks:
        body = kind.encode() + (struct.pack(">IIBBBBB", *content) if isinstance(content, list) else content)
        data += struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return data


def _from_jpeg(data: bytes) -> Any:
    image = Image.open(io.BytesIO(data))
    return [dict(image.getexif()), data]


def _to_jpeg(tree: Any) -> bytes:
    exif = Image.Exif()
    exif.update(tree[0])
    Image.open(io.BytesIO(tree[1])).save(file := io.BytesIO(), "JPEG", exif=exif)
    return file.getvalue()


def _from_tensors(data: bytes) -> Any:
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__", {})
    # Without the checksum, as earlier versions wrote it, so that damage is not found by it alone.
    return [{key: json.loads(text) for key, text in header.items() if key != "crc32"}, load(data)]


def _to_tensors(tree: Any) -> bytes:
    return save(tree[1], {key: json.dumps(value) for key, value in tree[0].items()})


def _to_torch(tree: Any) -> bytes:
    torch.save(tree, file := io.BytesIO())
    return file.getvalue()


def _from_npy(data: bytes) -> Any:
    end = 10 + int.from_bytes(data[8:10], "little")
    return [ast.literal_eval(data[10:end].decode()), data[end:]]


def _to_npy(tree: Any) -> bytes:
    head = repr(tree[0]).encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\0" + len(head).to_bytes(2, "little") + head + tree[1]


def _to_csv(rows: Any) -> bytes:
    csv.writer(file := io.StringIO()).writerows(rows)
    return file.getvalue().encode()


# fmt: off
FORMS: dict[str, tuple[Callable[[bytes], Any], Callable[[Any], bytes]]] = {
    ".csv": (lambda data: list(csv.reader(data.decode().splitlines())), _to_csv),
    ".json": (json.loads, lambda tree: json.dumps(tree).encode()),
    ".jsonl": (lambda data: list(map(json.loads, data.splitlines())), lambda tree: "\n".join(map(json.dumps, tree)).encode()),
    ".yaml": (yaml.safe_load, lambda tree: yaml.safe_dump(tree).encode()),
    ".xml": (lambda data: re.split("(<[^>]*>)", data.decode()), lambda tree: "".join(map(str, tree)).encode()),
    ".txt": (lambda data: [line.split(" ") for line in data.decode().splitlines()],
             lambda tree: "\n".join(" ".join(map(str, line)) for line in tree).encode()),
    ".dcm": (_from_dicom, _to_dicom), ".png": (_from_png, _to_png), ".jpg": (_from_jpeg, _to_jpeg),
    ".npy": (_from_npy, _to_npy), ".safetensors": (_from_tensors, _to_tensors),
    ".pth": (lambda data: torch.load(io.BytesIO(data)), _to_torch),
}
# fmt: on
"""Suffix -> what makes a tree of lists and dictionaries of a file's content, and the inverse."""


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Every container and key in a tree."""
    keys = list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else []
    return [place for key in keys for place in ((tree, key), *_places(tree[key]))]


def _damage(data: bytes, random: Random) -> bytes:
    """Change some bytes."""
    for _ in range(random.choice((1, 1, 2, 5))):
        start = int(len(data) * random.random() ** random.choice((1, 4)))
        end = start + random.choice((1, 1, 4, 100))
        new = random.choice((random.randbytes(end - start), b"\0", b"", b"\xff" * 4, data[start:end] * 3, b'"', b"\n"))
        data = data[:start] + new + (data[end:] if random.random() < 0.9 else b"")
    return data


def _other(value: Any, values: list[Any], random: Random) -> Any:
    """Something in place of a value of a tree."""
    near: list[Any] = []
    if isinstance(value, Tensor):
        near = [
            value[:0],
            value[None],
            value.flatten(),
            value.expand(2, *value.shape),
            value * torch.nan,
            value.tolist(),
        ]
        near += [
            value.to(kind) for kind in (torch.float64, torch.float16, torch.int32, torch.bool, torch.complex64, "meta")
        ]
        near += [value.to_sparse(), torch.nn.Parameter(value)]
    elif isinstance(value, bytes):
        near = [_damage(value, random)]
    elif isinstance(value, str):
        near = [_damage(value.encode(), random).decode(errors="replace"), value * 2, value.upper(), f" {value}"]
    elif isinstance(value, int | float):
        near = [-value, value + 1, value * 10**6, value + 0.5, str(value), [value]]
    return random.choice(near if near and random.random() < 0.5 else values)


def _restructure(tree: Any, values: list[Any], random: Random) -> None:
    """Change something in a tree."""
    # A header is as likely to change as the tensors below it, which are many more.
    places = (_places(random.choice(tree)) if isinstance(tree, list) and tree else []) or _places(tree)
    container, key = random.choice(places)
    change = random.choice(("other", "other", "other", "delete", "repeat", "swap", "rename"))
    if change == "delete":
        del container[key]
    elif change == "swap":
        elsewhere, place = random.choice(places)
        container[key] = elsewhere[place]
    elif change == "repeat" and isinstance(container, list):
        container[key:key] = [container[key]] * random.choice((1, 1, 1000))
    elif change == "rename" and isinstance(container, dict):
        container[random.choice([f"{key}x", key.upper() if isinstance(key, str) else 1, "", 7])] = container.pop(key)
    else:
        container[key] = _other(container[key], values, random)


def change(file: Path, root: Path, values: list[Any], random: Random) -> None:
    """Rewrite a file; if it is a link, replace the link, so that the original stays unchanged."""
    data, kind = file.read_bytes(), random.random()
    file.unlink()
    if kind < 0.02:
        return
    if kind < 0.04:
        file.mkdir()
        return
    if kind < 0.08:
        others = sorted(path for path in root.glob("*/*.*") if path.is_file() and path.stat().st_size < 1 << 20)
        data = random.choice([b"", random.choice(others).read_bytes()])
    elif kind < 0.4 or file.suffixes[-1:] not in ([form] for form in (*FORMS, ".gz")):
        data = _damage(data, random)
    else:
        zipped = file.suffix == ".gz"
        read, write = FORMS[Path(file.stem).suffix if zipped else file.suffix]
        try:
            tree = read(gzip.decompress(data) if zipped else data)
            for _ in range(random.choice((1, 1, 1, 3))):
                _restructure(tree, values, random)
            data = write(tree)
        except Exception:  # not every structure can be written
            data = _damage(data, random)
        if random.random() < 0.1:
            text = data.decode(errors="replace")
            data = text.encode(random.choice(("utf-16", "latin-1", "utf-8-sig", "cp1252", "utf-32")), errors="replace")
        data = gzip.compress(data) if zipped or (file.suffix == ".csv" and random.random() < 0.02) else data
    file.write_bytes(data)


class TooSlow(BaseException):
    """The time is up; not an Exception, so that no reader takes it for bad input."""


def _stop(*_: Any) -> None:
    raise TooSlow(f"not done after {SECONDS} s")


def _memory(entry: str) -> int:
    """Bytes of an entry of this process's status."""
    return int(re.findall(rf"{entry}:\s+(\d+) kB", Path("/proc/self/status").read_text())[0]) << 10


Outcome = tuple[str, str, float, int]
"""What came of a case ("read", "one line" or "failure"), its message, seconds, and bytes of memory."""


def run_case(name: str, case: int, root: Path, values: list[Any], seed: int, show: bool = False) -> Outcome:
    """Run a case in a folder of all inputs, and restore it."""
    random = Random(f"{seed} {name} {case}")
    _, pattern, read = READERS[name]
    files = sorted(path for path in root.glob(pattern) if path.is_file())
    file = random.choice(files if case else files[:1])
    shutil.copy(file, root / "original")
    if case:
        change(file, root, values, random)
    (root / "out").mkdir()
    Path("/proc/self/clear_refs").write_text("5")  # the greatest size so far is forgotten
    before, start, outcome, message = _memory("VmRSS"), time.monotonic(), "read", ""
    faulthandler.dump_traceback_later(3 * SECONDS, exit=True)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        read(root, file)
    except InputError as error:
        message = str(error)
        outcome = "one line" if case and "allocate" not in message else "failure"
    except BaseException as error:
        frames = traceback.extract_tb(error.__traceback__)[::-1]
        place = next((frame for frame in frames if "/medslip/" in frame.filename), frames[0])
        outcome, message = "failure", f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno}: {error}"
        if show:
            traceback.print_exc()
    signal.setitimer(signal.ITIMER_REAL, 0)
    faulthandler.cancel_dump_traceback_later()
    seconds, memory = time.monotonic() - start, _memory("VmHWM") - before
    if seconds > SECONDS or memory > MEMORY:
        outcome, message = "failure", message or f"{seconds:.0f} s, {memory >> 20} MB"
    if show:
        print(f"{file.relative_to(root)}: {outcome} {message}\n{file.read_bytes()[:2000] if file.is_file() else ''!r}")
    shutil.rmtree(root / "out")
    shutil.rmtree(file) if file.is_dir() else file.unlink(missing_ok=True)
    (root / "original").rename(file)
    return outcome, f"{file.relative_to(root)}: {message}", seconds, memory


def _work(pipe: connection.Connection, name: str, cases: range, *arguments: Any) -> None:
    """Run some cases of a reader in a process of its own."""
    resource.setrlimit(resource.RLIMIT_AS, (_memory("VmSize") + 4 * MEMORY,) * 2)
    signal.signal(signal.SIGALRM, _stop)
    for descriptor in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
    with tempfile.TemporaryDirectory() as folder:
        root = shutil.copytree(arguments[0], Path(folder) / "inputs", copy_function=os.link)
        for case in cases:
            pipe.send((case, run_case(name, case, root, *arguments[1:])))
    pipe.close()


def run_all(wanted: dict[str, int], *arguments: Any) -> dict[str, dict[int, Outcome]]:
    """Run the cases of some readers on all cores; a process that dies is a failure of the case that it died of."""
    context, active = get_context("fork"), dict[Any, tuple[str, range, Any]]()
    found: dict[str, dict[int, Outcome]] = {name: {} for name in wanted}
    waiting = [
        (name, range(cases)[start : start + 40]) for name, cases in wanted.items() for start in range(0, cases, 40)
    ]
    while waiting or active:
        while waiting and len(active) < (os.cpu_count() or 1):
            name, cases = waiting.pop(0)
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, name, cases, *arguments))
            process.start()
            theirs.close()
            active[ours] = name, cases, process
        ready: list[Any] = connection.wait(list(active))
        for pipe in ready:
            name, cases, process = active[pipe]
            try:
                case, found[name][case] = pipe.recv()
            except EOFError:
                del active[pipe]
                process.join()
                left = [case for case in cases if case not in found[name]]
                if left:
                    found[name][left[0]] = "failure", f"the process died with status {process.exitcode}", 0.0, 0
                    waiting.append((name, range(left[0] + 1, cases.stop)))
    return found


def drawn(number: int, seed: int) -> list[Any]:
    """Values that Hypothesis draws."""
    values: list[Any] = []
    plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
    strategy = st.recursive(plain, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5)
    options = hypothesis.settings(max_examples=number, database=None, phases=[hypothesis.Phase.generate])
    hypothesis.seed(seed)(options(hypothesis.given(strategy)(lambda value: values.append(value))))()
    return values


def main() -> int:
    """Run the cases that the command line asks for, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("seed", 0), ("cases", 0), ("case", None)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--reader", choices=READERS)
    options = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    values = VALUES + drawn(300, options.seed)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "inputs"
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            make_inputs(root)
        if options.case is not None:
            signal.signal(signal.SIGALRM, _stop)
            return run_case(options.reader, options.case, root, values, options.seed, show=True)[0] == "failure"
        share = options.cases / sum(cases for cases, *_ in READERS.values()) or 1
        chosen = [options.reader] if options.reader else READERS
        wanted = {name: max(2, round(READERS[name][0] * share)) for name in chosen}
        found = run_all(wanted, root, values, options.seed)
    rows = []
    for name, outcomes in found.items():
        kinds = Counter(kind for kind, *_ in outcomes.values())
        slowest, most = (max(column) for column in list(zip(*outcomes.values(), strict=True))[2:])
        rows.append([name, len(outcomes), kinds["read"], kinds["one line"], kinds["failure"], slowest, most >> 20])
        for case, (kind, message, *_) in sorted(outcomes.items()):
            if kind == "failure":
                print(f"--reader {name!r} --case {case}: {one_line(message, 300)}")
    names = "reader", "cases", "read", "one-line errors", "failures", "slowest (s)", "peak (MB)"
    table = pd.DataFrame(rows, columns=list(names))
    table.loc[len(table)] = ["all", *table.iloc[:, 1:5].sum(), *table.iloc[:, 5:].max()]
    print(table.to_string(index=False, float_format="%.1f"))
    return int(table["failures"].iloc[-1] > 0)


if __name__ == "__main__":
    sys.exit(main())
