"""docs/performance.md and its pictures, as `chorus bench --write` writes them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from bench import targets
from bench.charts import title_of
from bench.contestants import CONTESTANTS
from bench.plan import CONNECTIONS, CUSTOMERS, Plan
from bench.tables import Outcome, Table
from tools.servers.folders import project_folder

HEAD: Final = """# Performance

This page is written by `chorus bench --write`, never by hand. `make bench` measures on your machine, and shows the same
tables in the terminal; `make bench ARGS=--quick` gives the first of them within three minutes.

Chorus is compared with three other ways to build the same system ([bench/baselines](../bench/baselines/__init__.py)),
each as well as it can be built, and with a ceiling. They run in turns, on the same machine, behind the same doors,
under the same load, and everything that they say they have done is checked.
"""

HOW_TO_READ: Final = """\
Take the ratios. Everything that is measured, the servers, the services and the load, shares one machine, which is
slower or faster than yours, and may have had other things to do: absolute figures hold for it and for that hour.
Ratios are of one run, round by round. A figure is the median of all rounds, with the least and the most of them in
brackets."""

HOW: Final = f"""\
- **In turns.** In each round one contestant runs after the other, on one private PostgreSQL and one RabbitMQ, with
  databases and a vhost of its own. Before the next one its tables are vacuumed and a checkpoint is made, so that
  nobody pays for who came before. Each runs warm first.
- **The load** is {CUSTOMERS} customers on {CONNECTIONS} kept connections, each of whom orders again as soon as he is
  answered ([load.py](../bench/load.py)). Everybody gets as many orders as keep him busy for the same time.
- **Settled** is an order when the transaction that stored its outcome was committed, and its letter is written when
  that transaction was: PostgreSQL remembers both (`track_commit_timestamp`), on the clock that the load goes by. The
  rate is the number of orders by the time from the first one sent to the last one settled, with its letter.
- **With mail** every letter goes by SMTP to a server that takes it and throws it away ([sink.py](../bench/sink.py)).
  Then the rate is up to the last letter that is recorded as sent. Without mail there is no mail server, and letters
  wait.
- **By the clock** orders come at random moments, decided by the seed, whatever became of those before. All waits
  count from when an order was due: late answers hide nothing. The clock of the load may be a millisecond late, which
  counts too.
- **Processor time** is what the kernel says that a process and all below it have spent, by the number of orders.
- **Memory** is proportional set size: a page that several processes share is shared among them.
- **The audit** ([audited.py](../bench/audited.py)) follows every measurement, and is that of `chorus audit`: what was
  accepted is stored, decided once, debited once with its total if it is paid, and has one letter; every balance is the
  sum of its ledger, and follows from the one before. What fails it has no figures."""


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
            "## What was not right\n",
            "\n".join(f"- {finding}" for finding in findings) + "\n",
        ]
    sections += ["## Targets\n", targets.table(measured).markdown()]
    if short := list(targets.shortfalls(measured)):
        sections += ["### What bounds what does not hold\n"]
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
