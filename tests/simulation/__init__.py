"""A deterministic simulation: the real use cases, bus and SQL, and every step of theirs chosen by a seed.

All services live in one thread, on an event loop whose order of steps and whose clock belong to the test. PostgreSQL is
real; a statement is one step. Broker and mail server are doubles behind the seams that relay, inbox and dispatcher
have anyway. Hypothesis chooses what customers want and what fails; a schedule that ends badly is shrunk, and its steps
are printed. Chaos (`tests/chaos`) is the other half: real servers and processes, where nothing can be replayed.
"""
