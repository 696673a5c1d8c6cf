"""Faults in a system that serves, each named after its row of the failure modes: see `docs/reliability.md`."""
