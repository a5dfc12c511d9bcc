"""The relay while the broker or the database is unavailable: rows stay, and are published later."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest

from chassis.messaging.publisher import Publication, Publisher
from chassis.messaging.relay import BrokerAwayError, Relay
from tests.support.eventually import eventually
from tests.support.proxy import Proxy
from tests.support.relay_harness import RelayHarness, placed

Outage = Callable[[Proxy], Awaitable[None]]


async def cut_off(proxy: Proxy) -> None:
    await proxy.refuse()


async def frozen(proxy: Proxy) -> None:
    proxy.freeze()


async def gives_up(relay: Relay) -> None:
    """Wait until the relay has closed its connection to retry later."""

    async def given_up() -> bool:
        return relay._publisher._connection is None

    await eventually(given_up)


class TestRelayDuringOutages:
    """What is not confirmed stays in the outbox."""

    async def test_unanswered_rows_stay_in_the_outbox_without_delay(
        self, harness: RelayHarness, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def silent(_: Publisher, publications: Sequence[Publication]) -> list[BaseException]:
            return [TimeoutError() for _ in publications]

        await harness.commits(*placed(2))
        with monkeypatch.context() as patched:
            patched.setattr(Publisher, "publish", silent)
            with pytest.raises(BrokerAwayError):
                await harness.relays_once()
        [row] = await harness.pool.fetch("SELECT DISTINCT retry_at FROM outbox")
        assert row["retry_at"] is None
        assert await harness.relays_once() == 2

    @pytest.mark.parametrize("away", [cut_off, frozen])
    async def test_a_relay_resumes_by_itself_when_the_broker_is_back(
        self, harness: RelayHarness, away: Outage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("chassis.messaging.publisher.CONFIRM_SECONDS", 0.3)
        url = harness.installation.amqp_url("orders")
        async with Proxy.before(url) as proxy, harness.relaying(proxy.url(url)) as relay:
            await harness.commits(*placed(1))
            relay.wake()
            await harness.is_empty()
            await away(proxy)
            await harness.commits(*placed(5))
            relay.wake()
            await gives_up(relay)
            assert await harness.waiting() == 5
            if away is cut_off:
                await proxy.accept()
            proxy.thaw()
            await harness.is_empty()
        assert len({event.id for event in harness.tap.received}) == 6

    async def test_a_last_move_waits_for_the_one_in_progress(self, harness: RelayHarness) -> None:
        """A service that stops calls `move` once more, then ends the relay: no publish may be in progress by then."""
        url = harness.installation.amqp_url("orders")
        async with Proxy.before(url) as proxy, harness.relaying(proxy.url(url)) as relay:
            await harness.commits(*placed(1))
            relay.wake()
            await harness.is_empty()
            proxy.freeze()
            await harness.commits(*placed(1))
            relay.wake()
            await eventually(harness.everything_is_taken)
            last = asyncio.create_task(relay.move())
            done, _ = await asyncio.wait([last], timeout=0.3)
            assert not done, "the publish in progress is neither confirmed nor given up"
            proxy.thaw()
            await last
            assert await harness.waiting() == 0

    async def test_a_relay_survives_terminated_database_connections(
        self, harness: RelayHarness
    ) -> None:
        async with harness.relaying() as relay:
            for _ in range(5):
                await harness.commits(*placed(20))
                relay.wake()
                await harness.pool.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1",
                    harness.installation.login("orders"),
                )
                relay.wake()
            await harness.is_empty()
        assert len({event.id for event in harness.tap.received}) == 100
