"""Every file format of weights: ours, fine-tuned models, the state of a training run, and the authors' release."""

from medslip.checkpoints.authors import load_authors
from medslip.checkpoints.finetuned import FineTuned, load_finetuned, save_finetuned
from medslip.checkpoints.hub import AUTHORS_SUFFIXES, find_checkpoint
from medslip.checkpoints.pretrained import Card, Checkpoint, load_checkpoint, save_checkpoint
from medslip.checkpoints.state import PREVIOUS, Progress, load_state, save_state

__all__ = [
    "AUTHORS_SUFFIXES",
    "PREVIOUS",
    "Card",
    "Checkpoint",
    "FineTuned",
    "Progress",
    "find_checkpoint",
    "load_authors",
    "load_checkpoint",
    "load_finetuned",
    "load_state",
    "save_checkpoint",
    "save_finetuned",
    "save_state",
]
