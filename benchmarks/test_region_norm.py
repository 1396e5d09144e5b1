"""Times of ``region_norm``; the cases are those of ``zigzag bench``."""

OPERATION = "region_norm"


def test_region_norm(timed, subject, side):
    timed(subject, side)
