"""Files through a model: blocks of rows are read, a ``Predictor`` answers, and the answers stand beside the rows."""
