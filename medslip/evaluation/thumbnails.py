"""A baseline: logistic regression on thumbnails, which show no more of an image than its blurred layout."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

Labels = npt.NDArray[np.int8]
Pixels = npt.NDArray[np.uint8]

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)
"""Inverse regularisation strengths that are tried on the validation images."""


def thumbnail_regression(
    train: tuple[Pixels, Labels], valid: tuple[Pixels, Labels], test: Pixels
) -> npt.NDArray[np.float64]:
    """Fit each class to thumbnails, and predict the test images.

    Args:
        train: n x h x w grey thumbnails and n x C labels, 1 or 0.
        valid: The same of the images that choose the regularisation of each class.
        test: m x h x w.

    Returns:
        m x C probabilities; 0 for a class without positives or negatives to learn from.
    """
    scaler = StandardScaler()
    x_train, x_valid, x_test = (
        fit(pixels.reshape(len(pixels), -1).astype(np.float64))
        for fit, pixels in ((scaler.fit_transform, train[0]), (scaler.transform, valid[0]), (scaler.transform, test))
    )
    columns = [
        _one_class((x_train, train[1][:, k]), (x_valid, valid[1][:, k]), x_test) for k in range(train[1].shape[1])
    ]
    return np.stack(columns, axis=1)


def _one_class(
    train: tuple[npt.NDArray[np.float64], Labels],
    valid: tuple[npt.NDArray[np.float64], Labels],
    test: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    if len(np.unique(train[1])) < 2:
        return np.zeros(len(test))
    models = [LogisticRegression(C=strength, max_iter=300).fit(*train) for strength in STRENGTHS]
    best = models[int(np.argmax([_auroc(model, *valid) for model in models]))]
    probability: npt.NDArray[np.float64] = best.predict_proba(test)[:, 1]
    return probability


def _auroc(model: LogisticRegression, pixels: npt.NDArray[np.float64], labels: Labels) -> float:
    if len(np.unique(labels)) < 2:
        return 0.5
    return float(roc_auc_score(labels, model.predict_proba(pixels)[:, 1]))
