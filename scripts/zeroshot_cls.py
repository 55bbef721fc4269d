"""See: python scripts/zeroshot_cls.py --help."""

from medslip.cli import script

if __name__ == "__main__":
    script("zeroshot_cls")
