"""Work of which nobody wants to hear any more ends in silence."""

import asyncio
import gc
import threading

import pytest

from critic_models.http_loop import Loop


class GivenUp(Exception):
    """What a caller who waits is told."""


def test_what_fails_after_it_was_given_up_is_no_complaint_of_asyncio(caplog):
    ended = threading.Event()

    async def fails_when_cancelled():
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise ValueError("too late") from None
        finally:
            ended.set()

    def give_up():
        raise GivenUp

    loop = Loop()
    with pytest.raises(GivenUp):
        loop.run(fails_when_cancelled(), on_step=give_up)
    assert ended.wait(20)
    loop.run(asyncio.sleep(0.05))
    gc.collect()
    assert caplog.records == []


def test_what_fails_while_somebody_waits_is_told():
    async def fails():
        raise ValueError("now")

    with pytest.raises(ValueError, match="now"):
        Loop().run(fails())
    assert Loop().run(asyncio.sleep(0, "done")) == "done"
