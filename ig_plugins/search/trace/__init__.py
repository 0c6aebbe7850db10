"""How an answer was found: every block, every lane, and why each lane went on or not."""

from ig_plugins.search.trace.recorder import Recorder
from ig_plugins.search.trace.records import FORMAT, CostLine, LaneRecord, Point, Release, Trace, TryRecord
from ig_plugins.search.trace.seen import figures

__all__ = ["FORMAT", "CostLine", "LaneRecord", "Point", "Recorder", "Release", "Trace", "TryRecord", "figures"]
