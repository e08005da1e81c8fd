"""Work on several processes and machines: independent units, by processes or a Ray cluster; one run, by torchrun."""

from condense.scale.cluster import Ray
from condense.scale.finish import finish
from condense.scale.local import Local
from condense.scale.unit import RESULT, Done, Event, Executor, Failed, Progress, Shared, Unit

__all__ = ["RESULT", "Done", "Event", "Executor", "Failed", "Local", "Progress", "Ray", "Shared", "Unit", "finish"]
