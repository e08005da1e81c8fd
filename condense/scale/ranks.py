"""One run on several processes, such as torchrun starts: each takes its share of every iteration.

The processes are ranks 0 .. size - 1. All keep the same state: they draw the same numbers, since these have addresses,
take the sum of what all of them found, by one all-reduce in an iteration, and make the same step. So no state is ever
sent. Rank 0 alone writes; the others wait for it where it has something to do that is not shared.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from hashlib import blake2b
from itertools import count
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from condense.errors import LostRank, RankError, RunError
from condense.methods.base import Alone
from condense.processes import local_rank, started
from condense.runs import StopFlag
from condense.synthetic import State

ITERATION = timedelta(hours=2)
"""The longest that an iteration may last, with what rank 0 does between two: a checkpoint, a validation accuracy."""
ERRAND = timedelta(days=100)
"""The longest that the others wait for rank 0 elsewhere: while it trains experts, or evaluates."""
PATIENCE = 3.0
"""Seconds in which a rank that has lost another one hears who is left."""
LOST, LEFT = "has lost another", "has left, and said why"
_TURNS = count()


class Lone(Alone):
    """The one process of a run that has no others: what `Ranks` are asked for, at once."""

    rank, size = 0, 1

    def tell(self, word: str = "") -> str:
        return word

    def meet(self) -> None:
        """Nobody is late."""

    def agree(self, iteration: int, state: State) -> None:
        """Nobody disagrees."""

    def heed(self, stop: StopFlag) -> StopFlag:
        return stop


class Ranks(Lone):
    """The ranks of a run, as one of them sees them. Whatever waits for the others raises LostRank if one is gone."""

    def __init__(self, store: Store, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self._store = store
        self._errands = dist.new_group(backend="gloo", timeout=ERRAND)
        self._asked = self._agreed = StopFlag()

    def mine(self, count: int) -> range:
        """Neighbours, so that classes stay in order; in each rank as many as in the others, or one more."""
        return range(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def total(self, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """By one all-reduce, which also tells all of them whether one was asked to stop (see `heed`)."""
        tensors = list(parts.values())
        stopping = tensors[0].new_tensor([self._asked.requested is not None])
        joined = torch.cat([*(tensor.flatten() for tensor in tensors), stopping])
        self._together(dist.all_reduce, joined)
        *sums, stopping = joined.split([*(tensor.numel() for tensor in tensors), 1])
        if bool(stopping):
            self._agreed.requested = self._asked.requested or signal.SIGTERM
        found = zip(parts.items(), sums, strict=True)
        return {name: total.view_as(part).to(part.dtype) for (name, part), total in found}

    def tell(self, word: str = "") -> str:
        """What rank 0 says, once it does; the word of the others is not heard."""
        said = torch.tensor(list(word.encode()), dtype=torch.uint8)
        length = torch.tensor([len(said)])
        self._together(dist.broadcast, length, src=0, group=self._errands)
        said = said if self.rank == 0 else said.new_empty(int(length))
        self._together(dist.broadcast, said, src=0, group=self._errands)
        return bytes(said.tolist()).decode()

    def meet(self) -> None:
        """Go on once all have come here."""
        self._together(dist.barrier, group=self._errands)

    def agree(self, iteration: int, state: State) -> None:
        """Raise RankError unless all have the same state after this iteration, to the bit."""
        digest = blake2b(str(iteration).encode(), digest_size=8)
        for name, tensor in sorted(state.items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        ours = torch.frombuffer(bytearray(digest.digest()), dtype=torch.int64)
        found = [torch.empty_like(ours) for _ in range(self.size)]
        self._together(dist.all_gather, found, ours, group=self._errands)
        if others := [rank for rank, theirs in enumerate(found) if not torch.equal(theirs, found[0])]:
            raise RankError(
                f"after {iteration} iterations {_names(others, self.size)} and rank 0 have come to different sets. "
                "Are processors, versions and numbers of threads the same, and do all see the same files? "
                "The last checkpoint stands",
                speaker=0,
            )

    def heed(self, stop: StopFlag) -> StopFlag:
        """A flag that goes up in all of them in the same iteration, once `stop` is up in any."""
        self._asked, self._agreed = stop, StopFlag()
        return self._agreed

    def leave(self, why: str) -> None:
        """Let the others know that this rank goes, if they can still be told."""
        with suppress(RuntimeError):
            self._store.set(str(self.rank), why)

    def _together(self, call: Callable[..., object], *arguments: Any, **named: Any) -> None:
        try:
            call(*arguments, **named)
        except RuntimeError as error:
            raise self._lost() from error

    def _lost(self) -> LostRank:
        """Who is gone: those that say nothing, or else those that said that they go."""
        self.leave(LOST)
        words, deadline = {self.rank: LOST}, time.monotonic() + PATIENCE
        while len(words) < self.size and time.monotonic() < deadline:
            time.sleep(PATIENCE / 30)
            with suppress(RuntimeError):  # the store may be gone with rank 0
                words |= {r: self._store.get(str(r)).decode() for r in range(self.size) if self._store.check([str(r)])}
        silent = [rank for rank in range(self.size) if rank not in words]
        left = [rank for rank, word in words.items() if word == LEFT]
        gone = silent or left or [rank for rank in words if rank != self.rank]
        reported = 0 in left and not silent
        return LostRank(
            f"{_names(gone, self.size)} gone; what the process said, or the system's log, says why. What was done is "
            "kept, and `condense resume RUN`, started in the same way, goes on from it",
            speaker=None if reported else min(rank for rank, word in words.items() if word == LOST),
        )


def _names(ranks: list[int], size: int) -> str:
    if len(ranks) == 1:
        return f"rank {ranks[0]} of {size} is"
    return f"ranks {', '.join(map(str, ranks))} of {size} are"


LONE = Lone()


@contextmanager
def join() -> Iterator[Lone]:
    """The ranks of this run, if torchrun started it (RANK, WORLD_SIZE, ... in the environment); else this process.

    Tensors on CUDA go by NCCL, others by gloo. Raises RunError if the others cannot be reached.
    """
    if started() == 1:
        yield LONE
        return
    gpus = torch.cuda.device_count()
    if local_rank() < gpus:
        torch.cuda.set_device(local_rank())
    os.environ.setdefault("TORCH_NCCL_BLOCKING_WAIT", "1")  # a rank that is gone is an error here, not the end
    try:
        store, rank, size = next(rendezvous("env://"))
        store = PrefixStore(f"condense/{next(_TURNS)}", store)
        backend = "cpu:gloo,cuda:nccl" if gpus else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=ITERATION)
        ranks = Ranks(PrefixStore("words", store), rank, size)
    except RuntimeError as error:
        raise RunError(f"the other processes of this run cannot be reached: {str(error).splitlines()[0]}") from error
    try:
        yield ranks
        ranks.meet()
    except LostRank:
        raise
    except BaseException:
        ranks.leave(LEFT)
        raise
    dist.destroy_process_group()
