"""See: python scripts/convert_authors_release.py --help."""

from medslip.cli import script

if __name__ == "__main__":
    script("convert_authors_release")
