"""What makes a password unfit, by NIST SP 800-63B, 3.1.1.2: common, a sequence, a repetition. No network is used."""

import unicodedata
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Final

SHORTEST: Final = 8
"""Characters, counted after preparation."""

LONGEST_UNIT: Final = 3
"""A password that repeats up to so many characters is refused."""


def prepared(password: str) -> str:
    """The password by RFC 8265's OpaqueString: any space is U+0020, and the text is in normal form C.

    So keyboards that write one character in two ways write the same password. Upper and lower case stay different.
    """
    spaces = "".join(" " if unicodedata.category(c) == "Zs" else c for c in password)
    return unicodedata.normalize("NFC", spaces)


def chosen(password: str) -> str:
    """A password that may be chosen, prepared. Raises ValueError with the reason if it may not."""
    password = prepared(password)
    if len(password) < SHORTEST:
        raise ValueError(f"must have at least {SHORTEST} characters")
    if any(unicodedata.category(c) in {"Cc", "Cs"} for c in password):
        raise ValueError("must not contain control characters")
    if (password * 2).find(password, 1) <= LONGEST_UNIT or _is_sequence(password):
        raise ValueError("must not be a sequence or a repetition")
    if password.casefold() in _common():
        raise ValueError("is one of the most common passwords")
    return password


def is_name(password: str, email: str, name: str) -> bool:
    """Whether a password is the name, the e-mail address, or its local part: what others try first."""
    return password.casefold() in {email, email.partition("@")[0], name.casefold()}


def _is_sequence(password: str) -> bool:
    """Whether each character follows the one before by code point, up or down: "12345678", "hgfedcba"."""
    steps = {ord(b) - ord(a) for a, b in pairwise(password)}
    return steps in ({1}, {-1})


@cache
def _common() -> frozenset[str]:
    """The passwords of the list, case-folded."""
    lines = (Path(__file__).parent / "common_passwords.txt").read_text("utf-8").splitlines()
    return frozenset(lines[1:])
