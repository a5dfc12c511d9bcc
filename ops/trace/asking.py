"""Reads the databases, then the broker where a hop is missing, and makes the story."""

import asyncio
from collections.abc import Collection
from datetime import datetime
from typing import Final
from urllib.parse import urlsplit

from aio_pika.exceptions import AMQPError

from chassis.messaging.message import BATCH
from chassis.runtime.settings import Settings
from ops.audit.access import Urls
from ops.audit.auditor import API_AGE_SECONDS
from ops.audit.broker import read_queues
from ops.audit.databases import reading
from ops.dead_letters import DeadLetter, DeadLetters
from ops.management import administrator_address
from ops.trace.facts import DeadLettered
from ops.trace.reading import Reader
from ops.trace.story import Story, compose

DEAD_SECONDS: Final = 30.0
"""How long to read dead-letter queues, which may be long."""


async def story_of(
    urls: Urls, config: Settings, id: str, since: datetime | None, limit: int
) -> Story | None:
    """What became of an order, a user, a flow or an event; None if nothing is known of it.

    What seems to be lost is read again once the broker's figures must be newer. Raises DatabaseUnavailableError.
    """
    story = await _read(urls, config, id, since, limit)
    if story and any(one.place == "lost" for one in story.missing):
        assert story.facts.queues is not None
        await asyncio.sleep(API_AGE_SECONDS if story.facts.queues.delayed else 0)
        story = await _read(urls, config, id, since, limit)
    return story


async def _read(
    urls: Urls, config: Settings, id: str, since: datetime | None, limit: int
) -> Story | None:
    async with reading(urls.databases) as databases:
        now = await databases["billing"].value("SELECT now()")
        reader = Reader(databases, now, urls.retention, limit)
        if not await reader.find(id, since):
            return None
    facts = reader.facts
    story = compose(facts)
    behind = {d.service for node in story.nodes for d in node.deliveries if d.missing}
    if not (behind or any(node.unpublished for node in story.nodes)):
        return story
    facts.dead, facts.queues = await asyncio.gather(dead_letters(config, behind), read_queues(urls))
    return compose(facts)


async def dead_letters(config: Settings, services: Collection[str]) -> list[DeadLettered] | None:
    """What is in the dead-letter queues of services, which each need a login that may read them; None if not readable.

    The messages are held for a moment, and stay.
    """
    found: list[DeadLettered] = []
    try:
        async with asyncio.timeout(DEAD_SECONDS):
            for service in services:
                async with DeadLetters.of(_address(config, service)) as dead:
                    found += [_summary(letter) for letter in await dead.hold([service])]
    except (LookupError, OSError, TimeoutError, AMQPError):
        return None
    return found


def _address(config: Settings, service: str) -> str:
    """The administrator's if the setting names a login, else the service's own."""
    api = config.rabbitmq_api_url
    if api is not None and urlsplit(api.get_secret_value()).username:
        return administrator_address()
    return config.broker_url(service)


def _summary(letter: DeadLetter) -> DeadLettered:
    text = letter.id
    if letter.message.content_type == BATCH:
        text += letter.message.body.decode(errors="replace")
    return DeadLettered(
        letter.service, letter.queue, letter.reason, letter.attempts, letter.since, text
    )
