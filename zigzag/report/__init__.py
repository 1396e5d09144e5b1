"""The page behind ``zigzag report``, which every measuring command writes at its end."""
