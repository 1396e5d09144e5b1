"""Times of ``region_stats``; the cases are those of ``zigzag bench``."""

OPERATION = "region_stats"


def test_region_stats(timed, subject, side):
    timed(subject, side)
