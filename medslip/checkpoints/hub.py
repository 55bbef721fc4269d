"""Finds a checkpoint: a file, a run directory, a folder as on the Hugging Face Hub, or a repository there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HFValidationError

from medslip.errors import InputError, one_line

HUB_WEIGHTS = "model.safetensors"
"""The checkpoint in a Hub repository; config.json beside it repeats its card."""

AUTHORS_SUFFIXES = (".pth", ".pt")
"""Of the authors' release; everything else is a checkpoint of ours."""

_IN_FOLDER = ("best.safetensors", HUB_WEIGHTS)


def find_checkpoint(name: Path | str, **download: Any) -> Path:
    """The file of a checkpoint.

    Args:
        name: A file; a folder with best.safetensors (a run of pre-training) or model.safetensors (a copy of a Hub
            repository); or a Hub repository, as in "owner/name".
        download: What ``hf_hub_download`` takes: ``revision``, ``cache_dir``, ``token``, ``local_files_only``, ...

    Raises:
        InputError: A folder holds no checkpoint, or the repository is neither in the cache nor can be downloaded.
    """
    path = Path(name)
    if path.is_dir():
        found = next((path / file for file in _IN_FOLDER if (path / file).is_file()), None)
        if found is None:
            raise InputError(
                f"{path}: the folder holds no {' or '.join(_IN_FOLDER)}; give a run of pre-training, or a file"
            )
        return found
    if (
        path.exists()
        or path.suffix in (".safetensors", *AUTHORS_SUFFIXES)
        or not re.fullmatch(r"[\w.-]+/[\w.-]+", str(name))
    ):
        return path
    try:
        return Path(hf_hub_download(str(name), HUB_WEIGHTS, **download))
    except (OSError, HFValidationError, ValueError) as error:
        raise InputError(
            f"{name}: no such file, folder, or model in the Hugging Face cache or on the Hub "
            f"({type(error).__name__}: {one_line(error, 160)})"
        ) from None
