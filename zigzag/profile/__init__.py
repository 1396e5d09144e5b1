"""Behind ``zigzag profile`` and ``zigzag replay``: where time and memory of a neck go, and one call by itself."""
