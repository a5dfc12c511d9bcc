"""`chorus bench`: measures Chorus and three other ways to build it on this machine, in turns.

- `figures`: percentiles, medians, and the formatting of numbers.
- `client`: a minimal HTTP/1.1 client. `load`: a closed loop and an open loop of orders.
- `resources`: processor time and memory of processes. `smtp_sink`: a mail server that discards all e-mails.
- `contestants`, `ceiling`: what is measured. `environment`: its servers and databases. `processes`: its processes.
- `customers`: the users that order. `audited`: the audit after each measurement.
- `settled`, `latency`, `hot`, `mail`, `coldstart`, `recovery`, `down`, `million`, `memory`: the parts.
- `plan`, `targets`, `tables`, `charts`, `machine`, `page`, `run`: what runs, and the report.

`baselines` holds the other ways to build it.
"""
