"""What a run leaves on disk and on the screen: its folder, checkpoints, metrics, trackers, progress, stop signals."""

from condense.runs.folder import FollowedFolder, RunFolder, read_config, run_name
from condense.runs.metrics import MetricsLog
from condense.runs.progress import ProgressDisplay, progress
from condense.runs.signals import StopFlag, Stopped, stop_signals
from condense.runs.trackers import TRACKERS, Tracker, Trackers, create_trackers

__all__ = [
    "TRACKERS",
    "FollowedFolder",
    "MetricsLog",
    "ProgressDisplay",
    "RunFolder",
    "StopFlag",
    "Stopped",
    "Tracker",
    "Trackers",
    "create_trackers",
    "progress",
    "read_config",
    "run_name",
    "stop_signals",
]
