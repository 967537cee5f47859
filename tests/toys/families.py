"""The toy families that come with the package's contract tests."""

from raydistill.testing.families import *  # noqa: F403
