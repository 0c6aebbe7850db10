"""Turns go round in order; what is loaded is loaded once and goes when nobody holds it."""

import gc
import threading
import time
import weakref

import pytest

from ig_plugins.runtime import shared
from ig_plugins.runtime.fair_lock import FairLock
from tests.kit.observe import fan_out


class Thing:
    pass


def test_turns_are_granted_in_the_order_of_asking():
    turn, order, threads = FairLock(), [], []

    def ask(name):
        with turn:
            order.append(name)

    with turn:
        for name in range(6):
            threads.append(threading.Thread(target=ask, args=(name,)))
            threads[-1].start()
            while turn._drawn < name + 2:
                time.sleep(0.001)
    for thread in threads:
        thread.join(5)
    assert order == list(range(6))


def test_a_turn_can_be_lent_and_comes_back():
    turn, seen = FairLock(), []

    def other():
        with turn:
            seen.append("other")

    with turn:
        thread = threading.Thread(target=other)
        thread.start()
        time.sleep(0.01)
        assert seen == []
        with turn.lent():
            thread.join(5)
        assert seen == ["other"]
        with pytest.raises(KeyError), turn.lent():
            raise KeyError
    with turn:
        pass  # the lock survived the exception


def test_one_object_however_many_ask_at_once():
    made = []

    def load():
        time.sleep(0.01)
        made.append(Thing())
        return made[-1]

    found = fan_out(lambda _: shared("once", load), range(8), threads=8)
    assert len(made) == 1
    assert all(each is made[0] for each in found)


def test_nobody_holds_it_nobody_keeps_it():
    first = shared("gone", Thing)
    assert shared("gone", Thing) is first
    watch = weakref.ref(first)
    del first
    gc.collect()
    assert watch() is None
    assert isinstance(shared("gone", Thing), Thing)


def test_a_failed_load_leaves_nothing_behind():
    def fails():
        raise OSError("no such folder")

    with pytest.raises(OSError, match="no such folder"):
        shared("fails", fails)
    assert isinstance(shared("fails", Thing), Thing)
