"""``bridgeout`` and ``python -m bridgeout_lite``: the command line, or one line on what it lacks."""

import sys


def main() -> int:
    """Run the command line. The layers alone need less than it does, so a package may be missing."""
    try:
        from .cli import main as run
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("bridgeout_lite"):
            raise
        install = "pip install 'bridgeout_lite[book]', or in the book's folder: pip install -e '.[book]'"
        print(
            f"bridgeout: error: the command line needs {error.name}, which is not installed: {install}", file=sys.stderr
        )
        return 1
    return run()


if __name__ == "__main__":
    sys.exit(main())
