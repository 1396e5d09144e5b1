"""Tasks: training, evaluation and prediction on top of models and data. They need the extra ``zigzag[train]``."""
