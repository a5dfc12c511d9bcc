"""`chorus topology --check` finds every way in which a broker's topology may differ from the declared one."""

import asyncio
from typing import Final

import httpx
import pytest

from apps import SERVICES
from chassis.runtime.settings import settings
from ops.differences import check
from ops.subscriptions import TOPOLOGY
from tests.support.fixtures import Install
from tests.support.installation import Installation, environment
from tests.support.topology_changes import kinds, repaired, revoke

KINDS: Final = kinds(TOPOLOGY) | {"revoked permission": [revoke(service) for service in SERVICES]}


@pytest.fixture(scope="module")
async def chorus(install_chorus: Install) -> Installation:
    return await install_chorus("differences")


def checked(chorus: Installation, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    with environment(chorus.environment):
        status = check(settings())
    return status, capsys.readouterr().out.splitlines()


class TestCheck:
    def test_the_declared_topology_has_no_difference(
        self, chorus: Installation, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert checked(chorus, capsys) == (0, [])

    @pytest.mark.parametrize("kind", KINDS)
    async def test_every_difference_is_named(
        self, chorus: Installation, kind: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def changed() -> tuple[list[str], tuple[int, list[str]]]:
            with repaired(chorus) as broker:
                return [change(broker) for change in KINDS[kind]], checked(chorus, capsys)

        named, (status, lines) = await asyncio.to_thread(changed)
        assert status == 1
        assert [name for name in named if not any(name in line for line in lines)] == []

    def test_a_broker_that_does_not_answer_is_no_difference(self, chorus: Installation) -> None:
        away = chorus.environment | {"CHORUS_RABBITMQ_API_URL": "http://127.0.0.1:9"}
        with environment(away), pytest.raises(httpx.ConnectError):
            check(settings())
        assert issubclass(httpx.ConnectError, httpx.HTTPError)
