"""See: python scripts/make_phantom.py --help."""

from medslip.cli import script

if __name__ == "__main__":
    script("make_phantom")
