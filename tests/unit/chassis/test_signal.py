"""A signal wakes the task that waits, and is not lost while nobody waits."""

import asyncio

from chassis.signal import Signal

A_DAY = 86_400.0


class TestSignal:
    async def test_a_wait_ends_when_the_signal_is_set(self) -> None:
        signal = Signal()
        waiting = asyncio.create_task(signal.wait(A_DAY))
        await asyncio.sleep(0)
        assert not waiting.done()
        signal.set()
        await waiting

    async def test_a_signal_that_is_set_before_ends_one_wait_at_once(self) -> None:
        signal = Signal()
        signal.set()
        await signal.wait(A_DAY)
        waiting = asyncio.create_task(signal.wait(A_DAY))
        await asyncio.sleep(0)
        assert not waiting.done()
        waiting.cancel()

    async def test_a_wait_ends_after_its_time(self) -> None:
        await Signal().wait(0.0)
