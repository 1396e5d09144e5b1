"""The specification in stock PyTorch: the operations and, in `neck`, the paper's equations taken literally."""

from zigzag.reference import neck
from zigzag.reference.dense_pathway import dense_pathway
from zigzag.reference.position_sensitive_pool import position_sensitive_pool
from zigzag.reference.region_codes import region_codes
from zigzag.reference.region_norm import region_norm
from zigzag.reference.region_stats import region_stats

__all__ = ["dense_pathway", "neck", "position_sensitive_pool", "region_codes", "region_norm", "region_stats"]
