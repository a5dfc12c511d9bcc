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

`chorus bench --write` generates this page; do not edit it. `make bench` prints the same tables for your machine,
`make bench ARGS=--quick` the first of them within three minutes.

Chorus is compared with three other ways to build the same system ([bench/baselines](../bench/baselines/__init__.py)),
each of them optimised, and with a ceiling.
"""

HOW_TO_READ: Final = """\
Compare the ratios: servers, services and load share one machine, which may have run other programs, and absolute
figures hold for it and for that hour only. A figure is the median of all rounds."""

HOW: Final = f"""\
- **In turns.** In each round one contestant runs after the other, warmed up first, with the same API, on one private
  PostgreSQL and one RabbitMQ, with databases and a vhost of its own. After it, VACUUM and CHECKPOINT complete its work.
- **The load** is {CUSTOMERS} customers on {CONNECTIONS} persistent connections, each of which sends the next
  order after the response ([load.py](../bench/load.py)). Each contestant receives as many orders as it needs the same
  time for.
- **Settled**: the transaction that stored the order's outcome was committed; likewise its notification is written.
  PostgreSQL records both times (`track_commit_timestamp`), on the clock of the load. The rate is the number of orders,
  divided by the time from the first one sent to the last one settled, with its notification.
- **With mail** all e-mails go by SMTP to a server that discards them ([smtp_sink.py](../bench/smtp_sink.py)), and the
  rate counts until the last is recorded as sent. Without mail notifications stay unsent.
- **At a fixed rate** orders are sent at random times (a Poisson process with the seed), independent of the responses.
  Latencies count from when an order was due, and include up to a millisecond by which the load is late.
- **Processor time** is that of a process and its descendants, measured by the kernel, divided by the number of orders.
- **Memory** is proportional set size: a page that several processes share is divided among them.
- **The audit** ([audited.py](../bench/audited.py)), that of `chorus audit`, follows every measurement. One that fails
  it has no figures."""


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
