"""Which form of the contrastive losses, and which initialisation, learns fastest on phantoms?

    python benchmarks/loss_forms.py [EPOCHS]

Needs the prepared phantoms of scripts/demo.py. All else is as in the demo's pre-training, but at side 96 and with the settings
that learn fastest: batches of 32, four heads, a residual gamma of 1, crops of at least 0.9. Prints the macro AUROC on the
held-out phantoms for each form. Takes about a minute per epoch and form on two cores.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from medslip.config import phantom_config
from medslip.evaluation.classification import MEAN
from medslip.tasks import pretrain, zeroshot_cls
from medslip.tasks.zeroshot_cls import ZeroshotConfig

FORMS: dict[str, dict[str, Any]] = {
    "cosine, all negatives, alpha 0.2": {},
    "cosine, all negatives, alpha 1": {"alpha": 1.0},
    "cosine, 7 negatives, alpha 0.2": {"negatives": 7},
    "dot, 7 negatives, alpha 1 (paper's code)": {"similarity": "dot", "negatives": 7, "alpha": 1.0},
    "dot, all negatives, alpha 0.2": {"similarity": "dot"},
    "authors' initialisation, else as the first": {"initialisation": "authors"},
}
"""Form -> what it changes in the demo's pre-training, besides what main sets for all forms."""


def main(epochs: int) -> None:
    """Train each form, then print the table."""
    rows = []
    for name, changes in FORMS.items():
        with tempfile.TemporaryDirectory() as folder:
            config = phantom_config(pretrain.PretrainConfig, "pretrain", output=Path(folder) / "pretrain")
            config = replace(
                config,
                data=replace(config.data, side=96),
                train=replace(config.train, epochs=epochs, batch_size=32),
                optim=replace(config.optim, warmup_steps=60),
                augmentation=replace(config.augmentation, scale_min=0.9),
                model=replace(
                    config.model,
                    decoder_heads=4,
                    residual_gamma=1.0,
                    **{k: v for k, v in changes.items() if hasattr(config.model, k)},
                ),
                loss=replace(config.loss, **{k: v for k, v in changes.items() if hasattr(config.loss, k)}),
            )
            checkpoint = pretrain.run(config)
            held_out = phantom_config(ZeroshotConfig, "zeroshot_cls", checkpoint=checkpoint)
            tables = zeroshot_cls.run(replace(held_out, output=Path(folder) / "zeroshot_cls"), show=False)
            assert tables is not None, "phantoms have labels"
            rows.append(f"{name:46} {tables['scores'].set_index('class')['auroc'][MEAN]}")
            print(rows[-1], flush=True)
    print(f"\nmacro AUROC of held-out phantoms after {epochs} epochs, 95 % interval over patients")
    print("\n".join(rows))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
