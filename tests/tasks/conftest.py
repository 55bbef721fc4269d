"""What the tests of several tasks need."""

from __future__ import annotations

from pathlib import Path

import pytest

from medslip.tasks.make_phantom import MakePhantomConfig
from medslip.tasks.make_phantom import run as make_phantom


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty phantoms in every publisher's layout, for reading only."""
    folder = tmp_path_factory.mktemp("phantom") / "corpus"
    return make_phantom(
        MakePhantomConfig(folder, studies=30, valid_fraction=0.2, test_fraction=0.5, side=64, workers=1)
    )
