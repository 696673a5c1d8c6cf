"""What is known of a UDP or SCTP listener's keepalived at one moment."""

from __future__ import annotations

from attrs import frozen

from amphora.lvs.config import LvsConfig
from amphora.process import ProcessIdentity


@frozen
class LvsRun:
    """One listener that should run."""

    listener_id: str
    config: LvsConfig
    """What its keepalived loaded last."""
    process: ProcessIdentity | None
    """None where it does not run."""
    settled: bool
    """False from a start or reload until keepalived has applied it: until then a member that the kernel does not list
    is not down."""
