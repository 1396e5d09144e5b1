"""Modules on top of `zigzag.ops`: the encoder of region context and the whole neck."""

from zigzag.nn.neck import ZigZagNeck
from zigzag.nn.region_context import RegionContext

__all__ = ["RegionContext", "ZigZagNeck"]
