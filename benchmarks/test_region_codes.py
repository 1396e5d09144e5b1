"""Times of ``region_codes``; the cases are those of ``zigzag bench``."""

OPERATION = "region_codes"


def test_region_codes(timed, subject, side):
    timed(subject, side)
