"""The toy classifiers that come with the package's contract tests."""

from raydistill.testing.classifiers import *  # noqa: F403
