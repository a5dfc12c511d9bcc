"""The base of all events: a frozen fact with a name, a version and a subject, and the envelope around it.

An `Event` is the body alone. An `Envelope` adds its identity (`id`), its time and its `Causation`: the flow that it
belongs to (`correlation_id`) and the message that caused it (`causation_id`).
"""

import operator
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, ClassVar, Final, Generic, NamedTuple, TypeVar
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

E_co = TypeVar("E_co", bound="Event", covariant=True)

SPECVERSION: Final = "1.0"
"""CloudEvents 1.0, https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md."""


def least_id(moment: datetime) -> UUID:
    """The least UUIDv7 of a moment: every id made since then is greater."""
    return UUID(int=int(moment.timestamp() * 1000) << 80)


def rfc3339(moment: datetime) -> str:
    """Format an aware time in UTC with microseconds: 2026-11-22T13:05:12.000000Z."""
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


Moment = AwareDatetime
"""An aware point in time; RFC 3339 in JSON, always in UTC."""


class State(BaseModel):
    """A part of an event: frozen, camelCase in JSON. Readers ignore unknown fields.

    So a state is made of a row as `OrderState(**vars(order))`: further columns are ignored.
    """

    model_config = ConfigDict(
        frozen=True, alias_generator=to_camel, validate_by_name=True, serialize_by_alias=True
    )


class ByOperator(State):
    """The operator who has done something for a user, and why, if they have written it."""

    operator_id: UUID
    reason: str | None = Field(default=None, max_length=200)


class Event(State):
    """A fact that a service publishes, named in the past tense.

    A subclass names its exchange (the publisher), its routing key with the version, and the path to the id of its
    aggregate:

        class OrderPlaced(Event, exchange="orders", key="order-placed.v1", subject="order.id"): ...

    A published event may get optional fields; any other change is a new version beside it.
    """

    exchange: ClassVar[str]
    key: ClassVar[str]
    version: ClassVar[int]
    by_key: ClassVar[dict[str, type["Event"]]] = {}
    """Every event type that has been imported, by routing key."""
    dataschema: ClassVar[str]
    """A URI for the schema of the body and its version."""
    subject_path: ClassVar[str]
    """The path to the aggregate's id in the body: "order.id"."""
    subscribed: ClassVar[bool]
    """Whether a service subscribes to it: then it is an error if no queue takes it."""
    _subject: ClassVar[Callable[[Any], Any]]

    def __init_subclass__(
        cls, *, exchange: str, key: str, subject: str, subscribed: bool = True
    ) -> None:
        super().__init_subclass__()
        cls.exchange, cls.key, cls.subject_path = exchange, key, subject
        cls.subscribed = subscribed
        cls.version = int(key.rpartition(".v")[2])
        cls.dataschema = f"urn:chorus:{exchange}:{key.replace('.', ':')}"
        cls._subject = operator.attrgetter(subject)
        if cls.by_key.setdefault(key, cls) is not cls:
            raise TypeError(f"{key} is already the key of {cls.by_key[key].__name__}")

    @property
    def subject(self) -> str:
        """The id of the aggregate that the event is about."""
        return str(type(self)._subject(self))  # noqa: SLF001

    @classmethod
    def queue_key(cls) -> str:
        """The routing key without the version, as in queue names: "order-placed"."""
        return cls.key.rpartition(".v")[0]


class Causation(NamedTuple):
    """Why something happens: the flow that it belongs to, and the message that caused it.

    `correlation_id` is the same for a whole flow, end to end, at most 128 characters. `causation_id` is the id of the
    event that caused it, None if a request did. `traceparent` follows W3C Trace Context.
    """

    correlation_id: str
    causation_id: UUID | None = None
    traceparent: str | None = None


class Envelope(NamedTuple, Generic[E_co]):
    """An event as a service receives it: the fact, its identity, its time and its causation."""

    id: UUID
    event: E_co
    time: datetime
    cause: Causation

    def causation(self) -> Causation:
        """The causation of everything that this event causes."""
        return Causation(self.cause.correlation_id, self.id, self.cause.traceparent)


Version = Annotated[int, Field(ge=1, description="Grows by one with every change of the state.")]
