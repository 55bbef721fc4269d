"""See: python scripts/compare.py --help."""

from medslip.cli import script

if __name__ == "__main__":
    script("compare")
