"""The ``raydistill`` command where its packages are installed; elsewhere one line that names what to install."""

import sys

from raydistill.environment import missing_package


def main() -> None:
    """Run the command line; the exit status is 2 where packages are missing."""
    try:
        from raydistill.cli import main as run

        run()
    except ModuleNotFoundError as error:
        sys.stderr.write(f"{missing_package(error)}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
