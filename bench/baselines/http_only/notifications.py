"""Notifications, over HTTP only: writes the letters that orders asks for.

It has accepted a letter once that is stored, and answers 503 if users, who knows the address, does not answer; then
orders asks again.
"""

from fastapi import APIRouter, Request

from bench.baselines.common import cause_of, create_app, service_of
from bench.baselines.parts import keys, letters
from bench.baselines.parts.callees import CalleeAwayError, callees
from bench.baselines.parts.documents import LetterWish
from bench.baselines.parts.mailer import sending
from chassis.web.problems import Unavailable

internal = APIRouter(prefix="/internal")


@internal.post("/letter", status_code=204)
async def write_letter(request: Request) -> None:
    """Write a letter about what was decided; asked again, it stays as it is."""
    wish = LetterWish.model_validate_json(await request.body())
    pool = service_of(request).database.pool
    try:
        await letters.write(pool, wish.order, wish.decision, cause_of(request))
    except CalleeAwayError as error:
        raise Unavailable(str(error)) from None


app = create_app("notifications", [letters.router, internal], [callees.open, keys.fetched, sending])
