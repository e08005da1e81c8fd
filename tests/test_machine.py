"""The words for the machine."""

import os
import socket

from condense.machine import cores, describe


def test_it_names_what_decides_the_bits_and_nobody():
    words = describe()
    assert {"processor", "cores", "memory", "accelerator", "python", "torch", "condense"} <= words.keys()
    assert all(words.values()) and int(words["cores"]) == cores() >= 1
    assert describe() == words
    private = [socket.gethostname(), os.environ.get("USER", "")]
    assert not any(name and len(name) > 3 and name in " ".join(words.values()) for name in private)
