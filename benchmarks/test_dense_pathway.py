"""Times of ``dense_pathway``; the cases are those of ``zigzag bench``."""

OPERATION = "dense_pathway"


def test_dense_pathway(timed, subject, side):
    timed(subject, side)
