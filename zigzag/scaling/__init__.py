"""Behind ``zigzag scale``: how time and memory grow, beside what the cost model predicts."""
