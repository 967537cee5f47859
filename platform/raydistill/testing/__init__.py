"""The contract tests of methods, for methods of one's own: a test of a plug-in calls each check with its cases."""

from raydistill.testing.contract import METHOD_CHECKS, Case, method_case

__all__ = ["METHOD_CHECKS", "Case", "method_case"]
