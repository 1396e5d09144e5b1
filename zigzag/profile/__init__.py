"""Behind ``zigzag profile`` and ``zigzag replay``: where the time and the memory of a neck go, and one call by itself."""
