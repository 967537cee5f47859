"""The toy models that come with the package's contract tests."""

from raydistill.testing.models import *  # noqa: F403
