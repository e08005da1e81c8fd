"""The errors a user can cause, each with the exit code that the command line gives it.

A message says what is wrong, where, what is allowed, and how to mend it. Broken invariants of our own are asserts.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class CondenseError(ValueError):
    """Base of every error that a user's input or machine can cause."""

    exit_code = 2


class ConfigError(CondenseError):
    """A wrong flag, key or value."""


class DataError(CondenseError):
    """A data set, trajectory store or feature that is missing, damaged or does not fit."""

    exit_code = 3


class ArtifactError(CondenseError):
    """A distilled set on disk that is missing, damaged or of an unknown format."""

    exit_code = 3


class RunError(CondenseError):
    """A run folder that is missing, in use, not empty, or not resumable."""


class RankError(RunError):
    """Of several processes of a run: each raises it, and the one of rank `speaker` reports it; none if that is done."""

    exit_code = 1

    def __init__(self, message: str, speaker: int | None) -> None:
        super().__init__(message)
        self.speaker = speaker


class LostRank(RankError):  # noqa: N818 (a finding)
    """Another process of the run is gone, or cannot be reached."""


class UnitError(CondenseError):
    """Units of work that failed in processes of their own, each for its own reason."""

    exit_code = 1


class DiskError(CondenseError):
    """A file that the system does not let be written: no room, no right, a failing disk."""

    exit_code = 1


class NumericsError(ArithmeticError):
    """A loss or gradient that is not finite; the run stops before it can reach the images."""

    exit_code = 1


def unknown(what: str, given: str, allowed: Iterable[str]) -> str:
    """Message for a name that does not exist: the closest names first, then every allowed one."""
    names = sorted(allowed)
    close = get_close_matches(given, names, n=3)
    hint = f" Did you mean {' or '.join(repr(name) for name in close)}?" if close else ""
    return f"unknown {what} {given!r}.{hint} Allowed: {', '.join(names)}."
