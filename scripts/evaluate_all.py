"""See: python scripts/evaluate_all.py --help."""

from medslip.cli import script

if __name__ == "__main__":
    script("evaluate_all")
