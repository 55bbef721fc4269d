"""See: python scripts/app.py --help."""

from medslip.cli import script

if __name__ == "__main__":
    script("app")
