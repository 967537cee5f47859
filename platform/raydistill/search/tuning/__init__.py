"""All that knows Ray Tune: what is tried next, what ends early, and where trials run."""
