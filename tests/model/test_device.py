"""Where to compute."""

import pytest
import torch

from medslip.errors import InputError
from medslip.model.device import choose_device


def test_auto_is_always_there():
    """A machine without a GPU could not run anything."""
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert choose_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize(("name", "words"), [("cuda", "no GPU"), ("cuda:1", "no GPU"), ("toaster", "torch has no")])
def test_a_device_that_is_not_there_is_one_line(monkeypatch, name, words):
    """The user would meet a traceback."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=words):
        choose_device(name)
