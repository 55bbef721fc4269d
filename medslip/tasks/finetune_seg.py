"""Fine-tuning for segmentation; see finetune.py."""

from medslip.tasks.finetune import FinetuneSegConfig, run

COMMAND = (FinetuneSegConfig, run)
