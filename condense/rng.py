"""Randomness by address.

Every random draw of the package comes from `generator(seed, stream, index)`. Nothing depends on how many numbers were
drawn before, so a checkpoint holds no random state, and logging, evaluating or resuming cannot change a result.
Draws are made on the CPU, which gives the same numbers whatever device the work runs on.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def address(seed: int, stream: str, index: int = 0) -> int:
    """A 63-bit seed from (seed, stream, index), by BLAKE2b: neighbouring indices give unrelated seeds."""
    digest = hashlib.blake2b(f"{seed}\0{stream}\0{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(seed: int, stream: str, index: int = 0) -> torch.Generator:
    """A fresh CPU generator for the draw with this address."""
    return torch.Generator().manual_seed(address(seed, stream, index))


@contextmanager
def isolated(seed: int, stream: str, index: int = 0) -> Iterator[None]:
    """Seed torch's global generator inside the block and put its old state back afterwards.

    For code that draws from the global generator and takes no other: module constructors, dropout.
    """
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(address(seed, stream, index))
        yield
