"""Checkpoint files as they are written today, made again from a recipe: what the file holds, without its megabytes."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

FORMATS = Path(__file__).parent / "formats"


def _value(name: str, shape: list[int], dtype: str) -> torch.Tensor:
    """A tensor that depends on its name and shape alone, such that a network of them passes on what it sees."""
    if dtype != "float32":
        return torch.zeros(shape, dtype=getattr(torch, dtype))
    noise = torch.from_numpy(np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32))
    if name.endswith(("running_var", "weight")) and len(shape) == 1:
        return 1 + 0.1 * noise.abs()
    if name.startswith("optimizer.") or len(shape) < 2:
        return 0.1 * noise.abs() if name.endswith(("exp_avg_sq", "step")) else 0.1 * noise
    return noise if name.endswith("_prompts") else noise * math.sqrt(2 / math.prod(shape[1:]))


@pytest.fixture(scope="session")
def write_recipe() -> Callable[[str, Path], Path]:
    """Writes formats/NAME.json, metadata and the tensors' shapes, as the safetensors file that it describes."""

    def write(name: str, path: Path) -> Path:
        recipe = json.loads((FORMATS / f"{name}.json").read_text(encoding="utf-8"))
        tensors = {key: _value(key, shape, dtype) for key, (dtype, *shape) in recipe["tensors"].items()}
        save_file(tensors, path, recipe["metadata"])
        return path

    return write
