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
"""

HOW_TO_READ: Final = """\
Compare the ratios: servers, services and load share one machine, which may have run other programs. A figure is the
median of the rounds, in brackets minimum and maximum; ratios are computed round by round. The [other
builds](../bench/baselines/__init__.py) are optimised."""

HOW: Final = f"""\
- **Rounds**: contestants run one after the other, warmed up, on one private PostgreSQL and RabbitMQ, each with its own
  databases and vhost. VACUUM and CHECKPOINT follow.
- **Load** ([load.py](../bench/load.py)): {CUSTOMERS} customers on {CONNECTIONS} persistent connections, each of which
  sends the next order after the response. Each contestant receives as many orders as take it the same time.
- **Settled**: the outcome is committed and the notification written, by `track_commit_timestamp`. The rate is the
  number of orders, divided by the time from the first one sent to the last one settled.
- **With mail**: e-mails go by SMTP to a [server that discards them](../bench/smtp_sink.py), until the last is recorded
  as sent. Without mail they stay unsent.
- **Fixed rate**: orders are due at random times (a seeded Poisson process), whatever the responses. Latencies
  include up to a millisecond by which the load is late.
- **Processor time**: of all processes and their descendants, by the kernel.
- **Memory**: proportional set size; shared pages are divided.
- **Cold start**: servers are created and started, then four services.
- **Audit** ([audited.py](../bench/audited.py)): `chorus audit` follows every measurement; one that fails has no
  figures."""


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
    """Its charts and tables. One without has figures among the targets only."""
    if outcome.charts or outcome.tables:
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
