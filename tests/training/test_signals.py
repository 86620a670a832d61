"""Signals set a flag and nothing else."""

from __future__ import annotations

import os
import signal

import pytest

from extes_train.training.signals import GO_ON, INTERRUPT, REQUEUE, REQUEUE_SIGNALS, catching_signals


@pytest.mark.parametrize("number", REQUEUE_SIGNALS)
def test_requeue_signals_ask_for_a_requeue(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with catching_signals() as request:
        assert request.value == GO_ON
        os.kill(os.getpid(), number)
        assert (request.value, request.signal_name) == (REQUEUE, number.name)
    assert signal.getsignal(number) == before


def test_an_interruption_outlasts_the_sigterm_that_torchrun_sends_after_it() -> None:
    with catching_signals() as request:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        assert request.value == INTERRUPT
        with pytest.raises(KeyboardInterrupt):  # the second Ctrl-C does not wait
            os.kill(os.getpid(), signal.SIGINT)
