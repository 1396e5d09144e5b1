"""Times of ``neck``; the cases are those of ``zigzag bench``."""

OPERATION = "neck"


def test_neck(timed, subject, side):
    timed(subject, side)
