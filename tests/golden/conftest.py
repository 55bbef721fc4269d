"""Checkpoint files as they are written today, made again from a recipe: what the file holds, without its megabytes."""

from __future__ import annotations

import json
import math
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

FORMATS = Path(__file__).parent / "formats"


def _value(name: str, shape: list[int], dtype: str) -> torch.Tensor:
    """A tensor that depends on its name and shape alone.

    The scales keep a network of them well-conditioned: its outputs differ between images, attention is not near a tie, and
    rounding stays below 1e-6, so that the order of operations does not matter.
    """
    if dtype != "float32":
        return torch.zeros(shape, dtype=getattr(torch, dtype))
    noise = torch.from_numpy(np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32))
    if name.endswith(("running_var", "weight")) and len(shape) == 1:
        return (0.3 if name.endswith("bn2.weight") else 1) * (1 + 0.1 * noise.abs())
    if name.startswith("optimizer.") or len(shape) < 2:
        return 0.1 * noise.abs() if name.endswith(("exp_avg_sq", "step")) else 0.1 * noise
    gain = 2.0 if len(shape) == 4 else 0.5
    return noise if name.endswith("_prompts") else noise * math.sqrt(gain / math.prod(shape[1:]))


@pytest.fixture(scope="session")
def write_recipe() -> Callable[[str, Path], Path]:
    """Writes formats/NAME.json, metadata and the tensors' shapes, as the safetensors file that it describes."""

    def write(name: str, path: Path) -> Path:
        recipe = json.loads((FORMATS / f"{name}.json").read_text(encoding="utf-8"))
        tensors = {key: _value(key, shape, dtype) for key, (dtype, *shape) in recipe["tensors"].items()}
        save_file(tensors, path, recipe["metadata"])
        return path

    return write


@pytest.fixture(scope="session")
def same_bert(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tiny_bert with weights that no library's initialisation decides; the checkpoint "pretrained" names its checksum."""
    folder = shutil.copytree(tiny_bert, tmp_path_factory.mktemp("same_bert") / "tiny_bert")
    file = folder / "model.safetensors"
    weights = {name: _value(name, list(weight.shape), "float32") for name, weight in load_file(file).items()}
    save_file(weights, file, {"format": "pt"})
    return folder
