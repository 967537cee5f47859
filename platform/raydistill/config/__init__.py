"""The sections of a job file, their validation, and dotted overrides."""
