"""Key rotation: a valid signing key always exists, and every service knows it before its first use."""

import asyncio
import contextlib
from datetime import timedelta
from typing import Final

import structlog
from uuid_utils.compat import uuid7

from apps.users import use_cases
from apps.users.models import KeyPair
from apps.users.tokens import KeyRing
from apps.users.use_cases import RotateKeys
from chassis.database.errors import is_transient
from chassis.database.group_commit import GroupCommitter, OnCommit
from chassis.database.transaction import Pool
from chassis.web.auth import POLL_SECONDS
from events.base import Causation

log = structlog.get_logger(__name__)

CHECK_SECONDS: Final = 3600.0

PUBLISH_AFTER: Final = timedelta(days=1)
"""The interval at which a key is published again, so that the event log always contains every valid key."""

KEY_IDS: Final = "SELECT key_id FROM key_pairs"

AT_ONCE: Final = timedelta(0)


class KeyRotation:
    """Renews the keys in time, and reads those of other replicas."""

    def __init__(self, pool: Pool, key_ring: KeyRing, on_commit: OnCommit) -> None:
        self._pool = pool
        self._key_ring = key_ring
        self._committer: GroupCommitter[RotateKeys, list[KeyPair]] = GroupCommitter(
            pool, use_cases.rotate_keys, name="users.rotate_keys", on_commit=on_commit
        )

    async def start(self) -> None:
        """Make a key if there is none, and publish all for services that do not know them yet."""
        await self._rotate(AT_ONCE)

    async def run(self) -> None:
        """Rotate for as long as the process runs: hourly, and soon after a key was withdrawn or made by others."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CHECK_SECONDS):
                    await self._changed()
            await self._rotate(PUBLISH_AFTER)

    async def _changed(self) -> None:
        """Wait until other keys are stored than those that this process signs with."""
        held = self._key_ring.ids
        while held == self._key_ring.ids:
            await asyncio.sleep(POLL_SECONDS)
            try:
                held = {record["key_id"] for record in await self._pool.fetch(KEY_IDS)}
            except Exception as error:
                if not is_transient(error):
                    raise

    async def _rotate(self, publish_after: timedelta) -> None:
        pairs = await self._committer.submit(RotateKeys(publish_after, Causation(str(uuid7()))))
        self._key_ring.hold(pairs)
        newest = max(pairs, key=lambda pair: pair.valid_until)
        log.info("users.keys_rotated", keys=len(pairs), valid_until=newest.valid_until.isoformat())
