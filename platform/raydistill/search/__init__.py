"""Search campaigns over a job's keys: spaces, trials, reports."""
