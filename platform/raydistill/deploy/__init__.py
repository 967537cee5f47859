"""Students in production: a model that answers about texts, and its exports to other runtimes."""
