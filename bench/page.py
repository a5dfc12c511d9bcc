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

Chorus is compared with three other builds of the same system ([bench/baselines](../bench/baselines/__init__.py)),
each as good as it can be made, and with a ceiling. They run in turns, on the same machine, behind the same HTTP
layer, under the same load, and their results are audited.
"""

HOW_TO_READ: Final = """\
Compare the ratios. Servers, services and load share one machine, which may have had other load: absolute figures
hold for that machine and that hour. Ratios are of one run, round by round. A figure is the median of all rounds,
with the minimum and the maximum in brackets."""

HOW: Final = f"""\
- **In turns.** In each round the contestants run one after the other, on one private PostgreSQL and one RabbitMQ,
  each with its own databases and vhost. Before the next one its tables are vacuumed and a checkpoint is made. Each
  has a warm-up.
- **The load** is {CUSTOMERS} customers on {CONNECTIONS} kept connections, each of whom orders again as soon as they
  are answered ([load.py](../bench/load.py)). Each contestant gets orders for the same time.
- **Settled** is an order when the transaction that stored its outcome was committed, and its notification is
  written when that transaction was: PostgreSQL records both (`track_commit_timestamp`), on the clock of the load.
  The rate is the number of orders by the time from the first one sent to the last one settled, with its
  notification.
- **With mail** every e-mail goes by SMTP to a sink, which accepts and discards it ([sink.py](../bench/sink.py)).
  The rate is up to the last e-mail that is recorded as sent. Without mail there is no mail server, and
  notifications wait.
- **By the clock** (open loop) orders are due at random moments, chosen by the seed, independent of earlier answers.
  All latencies count from when an order was due, so late answers hide nothing. The load may be a millisecond late,
  which counts too.
- **Processor time** is what the kernel counts for a process and its children, by the number of orders.
- **Memory** is proportional set size: a shared page is divided among its processes.
- **The audit** ([audited.py](../bench/audited.py)) follows every measurement, with the invariants of `chorus
  audit`: an accepted order is stored, decided once, debited once with its total if it is paid, and has one
  notification; every balance is the sum of its ledger, and follows from the one before. A contestant that fails it
  has no figures."""


def write(
    plan: Plan, machine: Mapping[str, str], outcomes: Mapping[str, Outcome], findings: Sequence[str]
) -> None:
    """Write the page and the pictures."""
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
    """The page."""
    measured = {key: value for o in outcomes.values() for key, value in o.measured.items()}
    sections = [HEAD]
    if findings:
        sections += [
            "## Findings\n",
            "\n".join(f"- {finding}" for finding in findings) + "\n",
        ]
    sections += ["## Targets\n", targets.table(measured).markdown()]
    if short := list(targets.shortfalls(measured)):
        sections += ["### What bounds those that do not hold\n"]
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
        "Who", ("who", "what"), [(one.label, one.what) for one in CONTESTANTS], figures=False
    )


def _machine(plan: Plan, machine: Mapping[str, str]) -> Table:
    asked = f"rounds: {plan.rounds}, seconds each: {plan.seconds:g}, seed: {plan.seed}"
    return Table("Machine", ("", ""), [*machine.items(), ("measured", asked)], figures=False)
