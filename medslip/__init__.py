"""MeDSLIP: dual-stream vision-language pre-training for chest radiographs (Fan et al., arXiv 2403.10635)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medslip.version import __version__

if TYPE_CHECKING:
    from medslip.model.medslip import MeDSLIP
    from medslip.predictor import Predictor

__all__ = ["MeDSLIP", "Predictor", "__version__"]


def __getattr__(name: str) -> Any:
    """The public names, imported when they are first used: ``medslip --help`` need not wait for torch."""
    if name == "MeDSLIP":
        from medslip.model.medslip import MeDSLIP

        return MeDSLIP
    if name == "Predictor":
        from medslip.predictor import Predictor

        return Predictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
