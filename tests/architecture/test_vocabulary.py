"""Code and docs use the field's terms: the words below are not used, each has its replacement.

Checked are names, strings, docstrings and comments of *.py, the text of *.md, and the paths of both. Not checked are
quotations in a page (links, paths, names of tests, and output of programs: blocks without a language) and the section
"Renamed" of the changelog.
"""

import io
import re
import subprocess
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Final

import pytest

from tests.architecture.code import ROOT

ITSELF: Final = "tests/architecture/test_vocabulary.py"


@dataclass(frozen=True)
class Word:
    """A word that is not used, as a regular expression on words separated by single spaces."""

    pattern: str
    instead: str
    example: str
    names_only: bool = False
    """Whether it is fine in prose, as `because` is."""


WORDS: Final = (
    Word(r"(un)?hear(s|d|ing)?", "receive, consume, subscribe", "HEARD_BY"),
    Word(r"listeners?(?!\.)", "consumer", "InboxListener"),
    Word(r"wish(es|ed)?", "command, request", "a wish to order"),
    Word(r"packs?", "message batch", "PACK_LIMIT"),
    Word(r"park(s|ed|ing)?", "dead-letter", "the event is parked"),
    Word(r"poison(?! messages?\b)\w*", "malformed event", "PoisonError"),
    Word(r"(set|sets|setting|put|puts) (\w+ )?aside", "dead-letter", "it sets events aside"),
    Word(r"bells?", "signal", "ring_bell"),
    Word(r"upkeep", "key rotation, operator bootstrap", "apps/users/upkeep.py"),
    Word(r"conversations?", "SMTP session", "class Conversation"),
    Word(r"suspects?", "candidates", "suspects"),
    Word(r"keep(s|ing)? looking", "poll", "keep_looking"),
    Word(r"let (\w+ )?look", "create a monitoring user", "let_look"),
    Word(r"looked at", "read, checked", "the table is looked at"),
    Word(r"(take|takes|taking|took) leave", "quit", "the server takes leave"),
    Word(r"told", "published, returned, recorded, reported", "the client is told so"),
    Word(r"said by|(has|have) spoken", "published by; has decided", "an event said by orders"),
    Word(r"(front )?doors?", "HTTP API; consumers", "Door 1: HTTP routes"),
    Word(r"whoever", "a subject: the client, the caller", "whoever waits"),
    Word(r"in the same breath", "in the same transaction", "deleted in the same\nbreath"),
    Word(r"nobody[' ]s way", "without blocking others", "it is in nobody's way"),
    Word(r"as good as none", "a figure", "a limit as good as none"),
    Word(r"he|his|him|himself", "they", "the user changes his name"),
    Word(r"remember\w*", "mark processed, retain, store", "the inbox remembers"),
    Word(r"travel\w*", "delivery", "how an event travels"),
    Word(r"because", "cause", "because", names_only=True),
    Word(r"forg[eo]t\w*", "purge", "forget_rows", names_only=True),
)

TEXTS: Final = {"STRING", "COMMENT", "FSTRING_MIDDLE"}


def words(text: str) -> str:
    """A text as words separated by single spaces: names are split, line ends and comment signs removed."""
    split = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[_#\s]", " ", text)
    return re.sub(r" +", " ", split)


def python(source: str) -> tuple[str, str]:
    """The names, and the strings and comments, of Python code. A name of the standard library is not ours."""
    names, texts = [], []
    source = source.replace("struct.pack(", "struct(")
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NAME:
            names.append(token.string)
        elif tokenize.tok_name[token.type] in TEXTS:
            texts.append(token.string)
    return " ; ".join(names), " ".join(texts)


def markdown(page: str) -> str:
    """The text of a page, without what it quotes."""
    page = re.sub(r"^### Renamed\n.*?(?=^##|\Z)", "", page, flags=re.MULTILINE | re.DOTALL)
    page = re.sub(
        r"^ *(`{3,})(\w*)\n(.*?)^ *\1$",
        lambda block: block[3] if block[2] else "",
        page,
        flags=re.MULTILINE | re.DOTALL,
    )
    page = re.sub(r"\]\([^)]*\)", "]", page)
    return re.sub(r"`test_\w+`|[\w./-]+\.(py|md|yml)\b|\b[\w-]+/[\w/.-]*", "", page)


def offences(path: str, content: str) -> Iterator[str]:
    """What offends in a file, with some text around it."""
    names, text = python(content) if path.endswith(".py") else ("", markdown(content))
    for word in WORDS:
        for where in (path, names) if word.names_only else (path, names, text):
            plain = words(where)
            for match in re.finditer(rf"\b({word.pattern})\b", plain, flags=re.IGNORECASE):
                around = plain[max(match.start() - 40, 0) : match.end() + 40]
                yield f"{path}: {match[0]!r} in {around!r}; use: {word.instead}"


def files() -> list[str]:
    """The paths of all sources and pages that git knows or would add."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py", "*.md"]
    found = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return sorted({path for path in found.splitlines() if (ROOT / path).is_file()})


def group_of(path: str) -> str:
    """The folder of a file, two levels deep at most."""
    return "/".join(PurePosixPath(path).parent.parts[:2]) or "."


def groups(paths: Iterable[str]) -> dict[str, list[str]]:
    """Files by group, without this one."""
    checked = [path for path in paths if path != ITSELF]
    return {name: list(found) for name, found in groupby(sorted(checked, key=group_of), group_of)}


GROUPS: Final = groups(files())


@pytest.mark.parametrize("group", GROUPS)
def test_code_and_docs_use_the_terms_of_the_field(group: str) -> None:
    found = [line for path in GROUPS[group] for line in offences(path, read(path))]
    assert not found, "\n".join(found)


def read(path: str) -> str:
    return Path(ROOT, path).read_text()


class TestOffences:
    every_word = pytest.mark.parametrize("word", WORDS, ids=lambda word: word.pattern)

    @every_word
    def test_a_word_is_found_in_names_or_prose(self, word: Word) -> None:
        if word.names_only:
            assert list(offences("a.py", f"{word.example} = 1\n"))
            assert not list(offences("a.py", f'"""It is {word.example} so."""\n'))
        else:
            assert list(offences("a.py", f'"""{word.example}"""\n'))
            assert list(
                offences("a.py", "".join(f"# {line}\n" for line in word.example.split("\n")))
            )
            assert list(offences("a.md", f"# A page\n\n{word.example}\n")) or "/" in word.example

    @pytest.mark.parametrize(
        "name", ["heard", "test_a_poisoned_event_waits", "HEARD_BY", "Conversation", "_parked"]
    )
    def test_a_word_is_found_inside_a_name(self, name: str) -> None:
        assert list(offences("a.py", f"{name} = 1\n"))

    def test_a_word_is_found_in_a_path(self) -> None:
        assert list(offences("apps/notifications/bell.py", ""))

    def test_a_phrase_is_found_across_lines(self) -> None:
        assert list(offences("a.md", "It is deleted in the same\nbreath.\n"))
        assert list(offences("a.py", "# It is deleted in the same\n# breath.\n"))

    @pytest.mark.parametrize(
        "text",
        [
            "A dead letter is replayed because a person decides.",
            "The package is unpacked; the shell is there; the sparks are cheap.",
            "A poison message kills its consumer.",
            "The header heads this theme: hello.",
            "listeners.tcp.1 = 5672",
        ],
    )
    def test_plain_english_is_no_offence(self, text: str) -> None:
        assert not list(offences("a.md", text))
        assert not list(offences("a.py", f'"""{text}"""\n'))

    def test_what_a_page_quotes_is_no_offence(self) -> None:
        quoted = (
            "See `test_what_is_heard`, [keys](apps/users/upkeep.py), apps/notifications/bell.py.\n"
        )
        assert not list(offences("a.md", quoted + "\n```\nwhat was told was heard\n```\n"))

    def test_code_in_a_page_is_checked(self) -> None:
        assert list(offences("a.md", "```python\nheard = 1\n```\n"))

    def test_text_between_blocks_is_checked(self) -> None:
        block = "```python\nx = 1\n```\n"
        assert list(offences("a.md", f"{block}The event was heard.\n{block}```\noutput\n```\n"))

    def test_renamed_words_in_the_changelog_are_no_offence(self) -> None:
        page = "# Changelog\n\n### Renamed\n\n- `parked_error` is `dead_letter_error`\n\n### Added\n\n- A dog\n"
        assert not list(offences("CHANGELOG.md", page))
        assert list(offences("CHANGELOG.md", page.replace("A dog", "A bell")))
