"""See: python scripts/demo.py --help."""

from medslip.cli import script

if __name__ == "__main__":
    script("demo")
