"""See: python scripts/prepare_data.py --help."""

from medslip.cli import script

if __name__ == "__main__":
    script("prepare_data")
