"""`chorus bench`: how fast Chorus is, and three other ways to build it, on this machine, measured in turns.

From what is measured with to what is told of it:

- `figures`: percentiles, medians, and numbers as a person reads them.
- `client`: HTTP/1.1 as a load generator needs it. `load`: customers who order, in turn or by the clock.
- `processes`: what processes spend of processor and memory. `sink`: a mail server that throws everything away.
- `contestants`, `ceiling`: who is measured. `stage`: their servers, their databases, their processes.
- `customers`: who orders. `audited`: whether everything that was measured is also right.
- `settled`, `latency`, `hot`, `mail`, `coldstart`, `recovery`, `down`, `million`, `memory`: the parts.
- `plan`, `targets`, `tables`, `charts`, `machine`, `page`, `run`: what is run, and what is said about it.

`baselines` holds the other ways to build it.
"""
