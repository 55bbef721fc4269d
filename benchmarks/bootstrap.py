"""Time 1,000 bootstrap resamples of 25,596 images x 14 classes, the official ChestX-ray14 test list.

Run: python benchmarks/bootstrap.py
"""

from __future__ import annotations

import time

import numpy as np

from medslip.evaluation.classification import MEAN, score
from medslip.vocabulary import CXR14_CLASSES

IMAGES, PATIENTS, RESAMPLES = 25_596, 2_797, 1000


def main() -> None:
    """Print the seconds for all four scores, resampling patients and resampling images."""
    rng = np.random.default_rng(0)
    prevalence = rng.uniform(0.003, 0.2, len(CXR14_CLASSES))
    labels = (rng.random((IMAGES, len(CXR14_CLASSES))) < prevalence).astype(np.int8)
    probabilities = (1 / (1 + np.exp(-rng.normal(labels, 1.5)))).astype(np.float32)
    known = [str(number) for number in rng.integers(0, PATIENTS, IMAGES)]
    for what, patients in ((f"{PATIENTS:,} patients", known), ("every image by itself", None)):
        start = time.perf_counter()
        scores = score(list(CXR14_CLASSES), labels, probabilities, patients, RESAMPLES)
        seconds = time.perf_counter() - start
        mean = scores.set_index("class")["auroc"][MEAN]
        print(
            f"{RESAMPLES:,} resamples x {IMAGES:,} images x {len(CXR14_CLASSES)} classes, {what}: {seconds:.1f} s "
            f"(mean AUROC {mean})"
        )


if __name__ == "__main__":
    main()
