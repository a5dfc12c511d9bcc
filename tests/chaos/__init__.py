"""Chaos: the whole of Chorus as real processes, two of each service, under a load, while everything fails.

    make chaos ARGS="--seed 7 --minutes 3"

- `schedule`: which faults come when; the same seed gives the same schedule.
- `world`: servers, proxies and services, and a supervisor that restarts processes that died.
- `faults`: how each kind of fault is done, and undone.
- `slips`: an operator's slips at the broker, and how they are mended.
- `shortages`: of writes, connections, file handles and memory; and clocks that are wrong.
- `shoppers`: customers who register, pay in, draw out, order, cancel, ask again and look, whatever happens.
- `malformed`: malformed messages that no consumer can process.
- `verdict`: what came of a run.
"""
