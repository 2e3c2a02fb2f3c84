"""The command `jaxinit`, also as `python -m jaxinit`."""

import sys


def main() -> None:
    """Run the command line, or say in one sentence what it lacks."""
    try:
        from jaxinit.compare.cli import run
    except (ImportError, MemoryError) as error:
        sys.exit(f"jaxinit: {str(error) or 'out of memory'}")
    sys.exit(run())


if __name__ == "__main__":
    main()
