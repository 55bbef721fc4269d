"""Fine-tuning for classification; see finetune.py."""

from medslip.tasks.finetune import FinetuneClsConfig, run

COMMAND = (FinetuneClsConfig, run)
