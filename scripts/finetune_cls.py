"""See: python scripts/finetune_cls.py --help."""

from medslip.cli import script

if __name__ == "__main__":
    script("finetune_cls")
