"""Writes docs/performance.md and its charts, for `chorus bench --write`."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from bench import targets
from bench.charts import title_of
from bench.contestants import CONTESTANTS
from bench.plan import CONNECTIONS, CUSTOMERS, Plan
from bench.tables import Outcome, Table
from tools.servers.folders import project_folder

HEAD: Final = """# Performance

`chorus bench --write` generates this page; do not edit it. `make bench` measures on your machine and prints the
same tables; `make bench ARGS=--quick` prints the first of them within three minutes.

Chorus is compared with three other ways to build the same system ([bench/baselines](../bench/baselines/__init__.py)),
each of them optimised, and with a ceiling. They run in turns, on the same machine, with the same API, under the same
load, and an audit checks the result of each measurement.
"""

HOW_TO_READ: Final = """\
Compare the ratios. The servers, the services and the load share one machine, which is slower or faster than yours and
may have run other programs: absolute figures hold for it and for that hour only. Ratios are computed round by round. A
figure is the median of all rounds, with the minimum and the maximum in brackets."""

HOW: Final = f"""\
- **In turns.** In each round one contestant runs after the other, on one private PostgreSQL and one RabbitMQ, with
  databases and a vhost of its own. After it, VACUUM and CHECKPOINT complete its work, so that it does not slow down the
  next one. Each is warmed up first.
- **The load** is {CUSTOMERS} customers on {CONNECTIONS} persistent connections, each of which sends the next
  order after the response ([load.py](../bench/load.py)). Each contestant receives as many orders as it needs the same
  time for.
- **Settled**: an order is settled when the transaction that stored its outcome was committed; likewise its notification
  is written. PostgreSQL records both times (`track_commit_timestamp`), on the clock of the load. The rate is the number
  of orders, divided by the time from the first one sent to the last one settled, with its notification.
- **With mail** all e-mails go by SMTP to a server that discards them ([smtp_sink.py](../bench/smtp_sink.py)). Then the
  rate counts until the last e-mail is recorded as sent. Without mail there is no mail server, and notifications stay
  unsent.
- **At a fixed rate** orders are sent at random times (a Poisson process with the seed), independent of the responses.
  All latencies count from when an order was due, so that late responses hide nothing. The load may send an order a
  millisecond late, which counts too.
- **Processor time** is that of a process and its descendants, measured by the kernel, divided by the number of orders.
- **Memory** is proportional set size: a page that several processes share is divided among them.
- **The audit** ([audited.py](../bench/audited.py)) follows every measurement. It is that of `chorus audit`: an accepted
  order is stored, decided once, debited once with its total if it is paid, and has one notification; every balance is
  the sum of its ledger, and follows from the one before. A measurement that fails it has no figures."""


def write(
    plan: Plan, machine: Mapping[str, str], outcomes: Mapping[str, Outcome], findings: Sequence[str]
) -> None:
    """Write the page and the charts."""
    docs = project_folder() / "docs"
    (docs / "performance.md").write_text(text(plan, machine, outcomes, findings))
    images = docs / "images"
    images.mkdir(exist_ok=True)
    for outcome in outcomes.values():
        for name, picture in outcome.charts.items():
            (images / name).write_text(picture)


def text(
    plan: Plan, machine: Mapping[str, str], outcomes: Mapping[str, Outcome], findings: Sequence[str]
) -> str:
    """The Markdown of the page."""
    measured = {key: value for o in outcomes.values() for key, value in o.measured.items()}
    sections = [HEAD]
    if findings:
        sections += [
            "## Findings\n",
            "\n".join(f"- {finding}" for finding in findings) + "\n",
        ]
    sections += ["## Targets\n", targets.table(measured).markdown()]
    if short := list(targets.shortfalls(measured)):
        sections += ["### What limits the targets that do not hold\n"]
        sections += [f"- {line}" for line in short] + [""]
    sections += ["## How to read it\n", f"{HOW_TO_READ}\n", _contestants().markdown()]
    for outcome in outcomes.values():
        sections += _section(outcome)
    sections += ["## How it is measured\n", f"{HOW}\n"]
    sections += ["## What it was measured on\n", _machine(plan, machine).markdown()]
    return "\n".join(sections)


def _section(outcome: Outcome) -> Iterator[str]:
    yield f"## {outcome.title}\n"
    for name, picture in outcome.charts.items():
        yield f"![{title_of(picture)}](images/{name})\n"
    for table in outcome.tables:
        if table.title != outcome.title:
            yield f"### {table.title}\n"
        yield table.markdown()


def _contestants() -> Table:
    return Table(
        "Contestants",
        ("name", "what it is"),
        [(one.label, one.what) for one in CONTESTANTS],
        figures=False,
    )


def _machine(plan: Plan, machine: Mapping[str, str]) -> Table:
    options = f"rounds: {plan.rounds}, seconds each: {plan.seconds:g}, seed: {plan.seed}"
    return Table("Machine", ("", ""), [*machine.items(), ("measured", options)], figures=False)
