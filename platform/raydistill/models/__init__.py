"""Loading models, running parts of them, and making students from teachers."""
