"""Triton kernels: one file per operation, each with the functions that `torch.ops.zigzag_triton` calls on a GPU."""
