"""The benchmark behind ``zigzag bench``: cases, timing, checks against float64, rooflines and the report."""
