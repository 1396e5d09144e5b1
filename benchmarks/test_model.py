"""Times of a whole ``model``; the cases are those of ``zigzag bench``."""

OPERATION = "model"


def test_model(timed, subject, side):
    timed(subject, side)
