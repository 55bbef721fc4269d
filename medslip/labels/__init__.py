"""Label matrices: stored sparsely on disk, and derived from radiology reports."""

from medslip.labels.store import (
    ABSENT,
    PRESENT,
    UNKNOWN,
    A,
    Cells,
    LabelStore,
    LabelStoreWriter,
    Matrix,
    P,
    mention,
)

__all__ = ["ABSENT", "PRESENT", "UNKNOWN", "A", "Cells", "LabelStore", "LabelStoreWriter", "Matrix", "P", "mention"]
