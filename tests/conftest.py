"""What many tests need: a tiny BERT in a folder, a tiny prepared data set, the folder of shared real data."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from medslip.checkpoints import Card, save_checkpoint
from medslip.data.prepared import write_list
from medslip.data.preprocessing import Preprocessing
from medslip.labels import LabelStoreWriter
from medslip.model.medslip import MeDSLIP, ModelConfig
from medslip.model.text_encoder import TextConfig, TextEncoder
from medslip.vocabulary import ANATOMIES, PATHOLOGIES, load_prompts

os.environ["HF_HUB_OFFLINE"] = "1"  # for subprocesses; this process has read it already
huggingface_hub.constants.HF_HUB_OFFLINE = True
os.environ["MEDSLIP_PATIENT_KEY"] = "tests"  # the user's own stays unread
torch.set_num_threads(1)

SHARED = Path(__file__).resolve().parents[1] / ".." / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real radiographs and figures that are not part of the repository."""
    if not SHARED.is_dir():
        pytest.skip("needs ../shared")
    return SHARED.resolve()


def _estimates(entry: Any, place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Place and entry of each estimate in a metrics.json, each of which has the one form that docs/metrics.md gives.

    A place names the rows of a table by their texts, such as /scores/Effusion/auroc.
    """
    if isinstance(entry, list):
        for k, inner in enumerate(entry):
            keys = (
                "data_set",
                "attribute",
                "group",
                "findings",
                "name",
                "class",
                "rule",
                "probabilities",
                "map",
                "score",
            )
            named = [str(inner[key]) for key in keys if inner.get(key)] if isinstance(inner, dict) else []
            yield from _estimates(inner, f"{place}/{' '.join(named) or k}")
    if not isinstance(entry, dict):
        return
    if not entry.keys() & {"low", "high", "left_out"}:
        for key, inner in entry.items():
            yield from _estimates(inner, f"{place}/{key}")
        return
    assert entry.keys() == {"value", "low", "high", "resamples", "left_out"}, place
    value, low, high = entry["value"], entry["low"], entry["high"]
    assert value is None or isinstance(value, int | float), place
    assert (low is None) == (high is None), place
    if low is not None:
        assert value is not None, f"{place}: an interval without a value"
        assert low <= high, place
    assert all(isinstance(entry[key], int) for key in ("resamples", "left_out")), place
    yield place, entry


@pytest.fixture(scope="session")
def estimates_of() -> Callable[[Path], dict[str, dict[str, Any]]]:
    """Reads the metrics.json of a run: place -> estimate, each checked for its form."""
    return lambda folder: dict(_estimates(json.loads((folder / "metrics.json").read_text(encoding="utf-8"))))


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of random weights, T = 32, in a folder that AutoModel and AutoTokenizer load."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("tiny_bert")
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Path:
    """A checkpoint of random weights, ResNet-18, D = 32, side 32, whose text encoder is tiny_bert."""
    encoder = TextEncoder(TextConfig(str(tiny_bert), max_tokens=32))
    prompts = load_prompts()
    config = ModelConfig("resnet18", width=32, decoder_layers=1, feed_forward=32)
    torch.manual_seed(0)
    model = MeDSLIP(config, encoder.encode(prompts.pathology), encoder.encode(prompts.anatomy))
    card = Card(config, Preprocessing(32), encoder.identity, prompts, {"made": "for tests"})
    path = tmp_path_factory.mktemp("tiny_checkpoint") / "tiny.safetensors"
    save_checkpoint(path, model, card)
    return path


@pytest.fixture(scope="session")
def tiny_prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared data set of 24 + 12 noise images, 40 px, where a bright half means a left or right effusion."""
    folder = tmp_path_factory.mktemp("tiny_prepared")
    random = np.random.default_rng(0)
    effusion, normal = PATHOLOGIES.index("effusion"), PATHOLOGIES.index("normal")
    sides = (ANATOMIES.index("right_pleural"), ANATOMIES.index("left_pleural"))
    store = LabelStoreWriter()
    for split, number in (("train", 24), ("valid", 12)):
        rows = []
        for index in range(number):
            name, study = f"{split}_{index}.png", f"s{split}{index}"
            image = random.integers(0, 100, (40, 40), dtype=np.uint8)
            side, present = index % 2, index % 4 < 2
            if present:
                image[:, 20 * side : 20 * side + 20] += 120
            Image.fromarray(image).save(folder / name)
            cells = {(sides[side], effusion): int(present), (ANATOMIES.index("unspecified"), normal): 1}
            row = store.add(study, cells)
            rows.append({"image": name, "study": study, "patient": f"p{index}", "row": row})
        write_list(folder / f"{split}.csv", pd.DataFrame(rows))
    store.write(folder / "labels")
    return folder
