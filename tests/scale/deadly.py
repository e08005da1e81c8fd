"""The command line on one of several ranks, of which one gets a signal at the start of its n-th iteration.

Arguments: that rank, the signal, n, and those of the command line.
"""

import os
import sys

from condense.cli import main
from condense.methods.mtt import MTT

RANK, SIGNAL, N = map(int, sys.argv[1:4])
step, calls = MTT.step, 0


def deadly(*arguments):
    global calls
    calls += 1
    if calls == N and os.environ["RANK"] == str(RANK):
        os.kill(os.getpid(), SIGNAL)
    return step(*arguments)


MTT.step = deadly
main(sys.argv[4:])
