"""Run the benchmarks.

python -m benchmarks                       all that this machine can run
python -m benchmarks NAME [OPTION ...]     one file of this folder; --help tells its options
"""

import importlib
import sys
from pathlib import Path

NAMES = sorted(file.stem for file in Path(__file__).parent.glob("*.py") if not file.stem.startswith("_"))


def main() -> None:
    """Run the named benchmark, or all."""
    name, options = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("", [])
    if name and name not in NAMES:
        raise SystemExit(f"no benchmark is called {name!r}; there are {', '.join(NAMES)}.")
    for chosen in [name] if name else NAMES:
        module = importlib.import_module(f"benchmarks.{chosen}")
        if not name and (why := getattr(module, "refusal", lambda: None)()):
            print(f"left out: {why}")
            continue
        module.main(options)


if __name__ == "__main__":
    main()
