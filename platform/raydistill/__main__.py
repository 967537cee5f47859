"""Start of the ``raydistill`` command, also as ``python -m raydistill``.

Where its packages are not installed, it is one line that names what to install.
"""

import sys

from raydistill.environment import missing_package


def main() -> None:
    """Run the command line; the exit status is 0 done, 2 the user can fix it, 130 interrupted, 1 anything else."""
    try:
        # Here, so that Ctrl-C is no traceback while the command's own modules are imported either.
        from raydistill.cli import app

        app()
    except ModuleNotFoundError as error:
        sys.stderr.write(f"{missing_package(error)}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    # A submitted job starts so: the package travels with it, its console script does not.
    main()
