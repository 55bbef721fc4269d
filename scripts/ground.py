"""See: python scripts/ground.py --help."""

from medslip.cli import script

if __name__ == "__main__":
    script("ground")
