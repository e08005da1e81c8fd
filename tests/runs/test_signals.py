import os
import signal
import threading

import pytest

from condense.runs import stop_signals


def handlers():
    return signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)


def raise_signal(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_only_raises_the_flag(number):
    before = handlers()
    with stop_signals() as stop:
        assert stop.requested is None
        raise_signal(number)
        assert stop.requested == number
    assert handlers() == before


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupt_after_a_request_interrupts_at_once(first):
    before = handlers()
    with pytest.raises(KeyboardInterrupt), stop_signals():
        raise_signal(first)
        raise_signal(signal.SIGINT)
    assert handlers() == before


def test_the_first_request_counts():
    with stop_signals() as stop:
        raise_signal(signal.SIGINT)
        raise_signal(signal.SIGTERM)
        raise_signal(signal.SIGTERM)
        assert stop.requested == signal.SIGINT


def test_nothing_happens_outside_the_main_thread():
    seen = []

    def work():
        with stop_signals() as stop:
            seen.append((handlers(), stop.requested))

    before = handlers()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(before, None)]
