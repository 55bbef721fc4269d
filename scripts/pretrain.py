"""See: python scripts/pretrain.py --help."""

from medslip.cli import script

if __name__ == "__main__":
    script("pretrain")
