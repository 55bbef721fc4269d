"""See: python scripts/finetune_seg.py --help."""

from medslip.cli import script

if __name__ == "__main__":
    script("finetune_seg")
