"""The command line: `condense VERB`, also as `python -m condense`. Torch is imported inside the verbs alone."""

import logging
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from cyclopts import CycloptsError

from condense.cli.verbs import app
from condense.errors import CondenseError, NumericsError, RankError
from condense.processes import rank, settle_process, started
from condense.text import printable

__all__ = ["main"]

USAGE, INTERRUPTED = 2, 130
UNSHARED = {"buffer", "bench", "eval"}
"""Verbs whose work one process does."""


class _Stderr(logging.Handler):
    """Lines on what sys.stderr is at the moment: a progress bar takes its place, and shows them above itself."""

    def emit(self, record: logging.LogRecord) -> None:
        prefix = "warning: " if record.levelno >= logging.WARNING else ""
        print(f"{prefix}{record.getMessage()}", file=sys.stderr)


_HANDLER = _Stderr()


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line `arguments` (default: this process's) and exit.

    Exit codes: 0; 1 for a diverged run, a process of several that is gone, or an error of the system; 2 usage or
    configuration; 3 data or artifact; 75 stopped by SIGTERM, with what was done on disk; 130 stopped by SIGINT.
    """
    settle_process()
    logger = logging.getLogger("condense")
    logger.addHandler(_HANDLER)
    logger.setLevel(logging.INFO)
    arguments = sys.argv[1:] if arguments is None else arguments
    if started() > 1 and UNSHARED.intersection(arguments[:1]):
        words = f"{arguments[0]} is not shared by processes, as run and resume are. Start it without torchrun"
        _fail("" if rank() else words, USAGE)
    try:
        app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads stdout, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        _fail("interrupted", INTERRUPTED)
    except CycloptsError as error:
        _fail(str(error), USAGE)
    except (CondenseError, NumericsError) as error:
        _fail(str(error) if _reported_here(error) else "", error.exit_code)
    except OSError as error:
        _fail(str(error), 1)
    sys.exit(0)


def _reported_here(error: Exception) -> bool:
    """Whether this process says what is wrong: of several that all fail for one reason, one does."""
    match error:
        case RankError():
            return error.speaker == rank()
        case NumericsError():
            return rank() == 0
    return True


def _fail(message: str, code: int) -> NoReturn:
    for line in message.splitlines():
        print(f"error: {printable(line)}", file=sys.stderr)
    sys.exit(code)
