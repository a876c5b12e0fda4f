"""An installed package works where it is alone; run by the Python it is installed for.

PYTHON -I tools/check_installed.py mosaic-dataloader --absent torchtitan
"""

import argparse
import importlib
import importlib.metadata
import importlib.util
import subprocess
import sys
from pathlib import Path


def main() -> int:
    """Import every public name and run every command; 1 and a line if that fails."""
    parser = argparse.ArgumentParser()
    parser.add_argument("distribution")
    parser.add_argument("--absent", nargs="*", default=[], help="modules that must not be there")
    options = parser.parse_args()
    for name in options.absent:
        if importlib.util.find_spec(name) is not None:
            print(f"error: {options.distribution} brings {name} along", file=sys.stderr)
            return 1
    module = importlib.import_module(options.distribution.replace("-", "_"))
    for name in module.__all__:
        getattr(module, name)
    distribution = importlib.metadata.distribution(options.distribution)
    commands = [e.name for e in distribution.entry_points if e.group == "console_scripts"]
    for command in commands:
        subprocess.run(
            [Path(sys.executable).with_name(command), "--help"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
    print(f"{options.distribution} {distribution.version} works alone:", *module.__all__, *commands)
    return 0


if __name__ == "__main__":
    sys.exit(main())
