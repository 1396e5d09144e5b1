"""Times of ``position_sensitive_pool``; the cases are those of ``zigzag bench``."""

OPERATION = "position_sensitive_pool"


def test_position_sensitive_pool(timed, subject, side):
    timed(subject, side)
