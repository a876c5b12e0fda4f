"""Helpers that the quick tests of the dataloader package use too."""

import sys
from pathlib import Path

# Test modules are imported by path (importmode importlib), which leaves their folder out.
_TESTS = Path(__file__).resolve().parents[2] / "packages" / "mosaic-dataloader" / "tests"
sys.path.insert(0, str(_TESTS))
