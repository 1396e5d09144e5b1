"""The operations (spec sections 4 and 5), each with every backend behind it: three on maps, one on their sums.

`region_context` is three of them in one call. `position_sensitive_pool` is a detector's, not the neck's.
Forward and backward, float64, float32, bfloat16 and float16, accumulated in float32 or wider, deterministic.
channels_last is the native layout and contiguous NCHW is taken too; maps in other strides are copied.

`valid` (every image's own size) may be on any device. On the CPU its values are checked. On a GPU they are not, as
nothing here waits for a GPU: the kernels take the nearest size from 1 to the map's.
"""

from zigzag.ops.dense_pathway import dense_pathway
from zigzag.ops.position_sensitive_pool import position_sensitive_pool
from zigzag.ops.region_codes import region_codes
from zigzag.ops.region_context import region_context
from zigzag.ops.region_norm import region_norm
from zigzag.ops.region_stats import region_stats

__all__ = ["dense_pathway", "position_sensitive_pool", "region_codes", "region_context", "region_norm", "region_stats"]
