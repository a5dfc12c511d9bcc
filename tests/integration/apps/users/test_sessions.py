"""Sessions: refresh tokens, signing out, and changes of the password, on a real database."""

import asyncio
from typing import Any

import httpx
import pytest

from apps.users import sessions
from apps.users.passwords import Passwords
from apps.users.use_cases import StartSession, start_sessions
from chassis.database.transaction import transaction
from tests.support.harness import RunningService
from tests.support.registering import PASSWORD, a_registration, a_user_of, id_of, problem

ENDED = (401, "invalid_refresh_token")


async def a_login(http: httpx.AsyncClient, **credentials: str) -> dict[str, Any]:
    """The tokens of a new session."""
    me = (await http.get(f"/user/view/{id_of(http)}")).json()
    body = {"email": me["email"], "password": PASSWORD} | credentials
    answer = await http.post("/user/login", json=body)
    assert answer.status_code == 200, answer.text
    tokens: dict[str, Any] = answer.json()
    return tokens


async def refreshed(http: httpx.AsyncClient, token: str) -> httpx.Response:
    return await http.post("/user/token/refresh", json={"refreshToken": token})


async def follow(http: httpx.AsyncClient, token: str) -> str:
    """The refresh token that replaces another."""
    answer = await refreshed(http, token)
    assert answer.status_code == 200, answer.text
    found: str = answer.json()["refreshToken"]
    return found


async def sign_out(http: httpx.AsyncClient, token: str, **more: Any) -> None:
    answer = await http.post("/user/logout", json={"refreshToken": token} | more)
    assert (answer.status_code, answer.content) == (204, b"")


class TestRefresh:
    async def test_it_gives_the_next_tokens(self, users: RunningService) -> None:
        async with a_user_of(users) as ada:
            first = await a_login(ada)
            answer = await refreshed(ada, first["refreshToken"])
            assert answer.status_code == 200
            assert answer.headers["Cache-Control"] == "no-store"
            second = answer.json()
            assert second.keys() == first.keys()
            assert second["refreshToken"] != first["refreshToken"]
            headers = {"Authorization": f"Bearer {second['accessToken']}"}
            me = await ada.get("/user/me", headers=headers)
            assert me.json()["userId"] == second["userId"] == id_of(ada)
            assert await follow(ada, second["refreshToken"])

    async def test_a_replaced_token_ends_its_session_and_no_other(
        self, users: RunningService, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sessions, "REPEAT_SECONDS", -1.0)
        async with a_user_of(users) as ada:
            stolen, other = (await a_login(ada))["refreshToken"], await a_login(ada)
            newest = await follow(ada, await follow(ada, stolen))
            assert problem(await refreshed(ada, stolen)) == ENDED
            assert problem(await refreshed(ada, newest)) == ENDED
            assert await follow(ada, other["refreshToken"])

    async def test_a_lost_answer_is_asked_for_again(self, users: RunningService) -> None:
        async with a_user_of(users) as ada:
            first = (await a_login(ada))["refreshToken"]
            lost = await follow(ada, first)
            got = await follow(ada, first)
            assert await follow(ada, got)
            assert problem(await refreshed(ada, lost)) == ENDED

    async def test_of_concurrent_uses_the_last_answer_counts(self, users: RunningService) -> None:
        async with a_user_of(users) as ada:
            token = (await a_login(ada))["refreshToken"]
            answers = await asyncio.gather(*(refreshed(ada, token) for _ in range(8)))
            assert {answer.status_code for answer in answers} == {200}
            assert (
                await users.value("SELECT count(*) FROM sessions WHERE user_id = $1", id_of(ada))
                == 2
            )

    async def test_an_expired_session_is_over_and_removed(self, users: RunningService) -> None:
        async with a_user_of(users) as ada:
            token = (await a_login(ada))["refreshToken"]
            await users.rows(
                "UPDATE sessions SET expires_at = now() - interval '1 s' WHERE user_id = $1",
                id_of(ada),
            )
            assert problem(await refreshed(ada, token)) == ENDED
            await a_login(ada)
        assert await users.value("SELECT count(*) FROM sessions WHERE expires_at <= now()") == 0

    async def test_what_is_stored_is_no_token(self, users: RunningService) -> None:
        async with a_user_of(users) as ada:
            token = sessions.RefreshToken.parse((await a_login(ada))["refreshToken"])
        stored = await users.rows("SELECT s::text FROM sessions s WHERE user_id = $1", id_of(ada))
        for secret in token:
            assert secret.hex() not in str(stored)

    @pytest.mark.parametrize("token", ["A" * 64, "", "A" * 63, "A" * 65, "é" * 64, " " * 64])
    async def test_an_unknown_token_is_refused(self, users: RunningService, token: str) -> None:
        async with users.http() as http:
            assert (await refreshed(http, token)).status_code in {401, 422}


class TestLogout:
    async def test_it_ends_one_session(self, users: RunningService) -> None:
        async with a_user_of(users) as ada:
            one, two = await a_login(ada), await a_login(ada)
            await sign_out(ada, one["refreshToken"])
            assert problem(await refreshed(ada, one["refreshToken"])) == ENDED
            assert await follow(ada, two["refreshToken"])
            await sign_out(ada, one["refreshToken"])

    async def test_it_ends_all_sessions_of_the_user(self, users: RunningService) -> None:
        async with a_user_of(users) as ada, a_user_of(users) as eve:
            one, two, hers = await a_login(ada), await a_login(ada), await a_login(eve)
            await sign_out(ada, one["refreshToken"], everywhere=True)
            for tokens in (one, two):
                assert problem(await refreshed(ada, tokens["refreshToken"])) == ENDED
            assert await follow(eve, hers["refreshToken"])

    async def test_a_replaced_token_does_not_end_other_sessions(
        self, users: RunningService, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sessions, "REPEAT_SECONDS", -1.0)
        async with a_user_of(users) as ada:
            one, two = await a_login(ada), await a_login(ada)
            newest = await follow(ada, one["refreshToken"])
            await sign_out(ada, one["refreshToken"], everywhere=True)
            assert problem(await refreshed(ada, newest)) == ENDED
            assert await follow(ada, two["refreshToken"])


class TestChangeOfPassword:
    async def test_it_needs_the_old_one_and_ends_other_sessions(
        self, users: RunningService
    ) -> None:
        new = "battery staple"
        async with a_user_of(users) as ada, users.http() as nobody:
            before = await a_login(ada)
            wrong = {"oldPassword": "wrong horse", "newPassword": new}
            right = {"oldPassword": PASSWORD, "newPassword": new}
            assert problem(await ada.put("/user/password", json=wrong)) == (
                403,
                "wrong_password",
            )
            assert (await nobody.put("/user/password", json=right)).status_code == 401
            assert await follow(ada, before["refreshToken"])
            answer = await ada.put("/user/password", json=right)
            assert answer.status_code == 200, answer.text
            assert problem(await refreshed(ada, before["refreshToken"])) == ENDED
            assert await follow(ada, answer.json()["refreshToken"])
            assert await a_login(ada, password=new)
            me = (await ada.get("/user/me")).json()
            old = {"email": me["email"], "password": PASSWORD}
            assert problem(await ada.post("/user/login", json=old)) == (401, "invalid_credentials")

    async def test_a_login_with_the_old_one_that_commits_later_is_refused(
        self, users: RunningService
    ) -> None:
        async with a_user_of(users) as ada:
            [(id, checked)] = await users.rows(
                "SELECT id, password_hash FROM users WHERE id = $1", id_of(ada)
            )
            body = {"oldPassword": PASSWORD, "newPassword": "battery staple"}
            assert (await ada.put("/user/password", json=body)).status_code == 200
        late = StartSession(id, checked, sessions.RefreshToken.make())
        async with transaction(users.service.database.pool) as tx:
            [result] = await start_sessions(tx, [late])
        assert problem_of(result) == "invalid_credentials"


def problem_of(result: object) -> str | None:
    return getattr(result, "reason", None)


class TestPasswords:
    @pytest.mark.parametrize(
        "password",
        ["password", "PassWord", " " * 8, "\u3000" * 8, "12345678", "hgfedcba", "abcabcabc", "iloveyou1",
         "Ada Lovelace", "e\u0301" * 7, "new\nline 1"],
    )  # fmt: skip
    async def test_what_others_try_first_is_refused(
        self, users: RunningService, password: str
    ) -> None:
        registration = a_registration(password=password)
        async with users.http() as http, a_user_of(users) as ada:
            assert (await http.post("/user/register", json=registration)).status_code == 422
            change = {"oldPassword": PASSWORD, "newPassword": password}
            assert (await ada.put("/user/password", json=change)).status_code == 422

    async def test_one_that_is_typed_in_two_ways_is_the_same(self, users: RunningService) -> None:
        registration = a_registration(password="caf\u00e9 au\u00a0lait")
        async with users.http() as http:
            assert (await http.post("/user/register", json=registration)).status_code == 201
            login = {"email": registration["email"], "password": "cafe\u0301 au lait"}
            assert (await http.post("/user/login", json=login)).status_code == 200

    @pytest.mark.parametrize("password", ["password", " " * 8, "cafe\u0301 au\u00a0lait"])
    async def test_one_that_was_chosen_before_these_rules_signs_in(
        self, users: RunningService, password: str
    ) -> None:
        async with a_user_of(users) as ada:
            old = users.provided(Passwords)._hasher.hash(password)
            await users.rows("UPDATE users SET password_hash = $2 WHERE id = $1", id_of(ada), old)
            assert await a_login(ada, password=password)
