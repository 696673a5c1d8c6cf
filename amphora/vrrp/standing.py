"""What the amphora tells of its place among its peers."""

from __future__ import annotations

from typing import Final, Literal

from attrs import frozen

Topology = Literal["SINGLE", "ACTIVE-STANDBY", "ACTIVE-ACTIVE"]
TopologyStatus = Literal["OK", "TOPOLOGY-CHANGE"]
Role = Literal["ACTIVE", "STANDBY"]


@frozen
class Standing:
    """Topology, whether that is being changed, and role, at one moment; where there is no pair the role is ACTIVE."""

    topology: Topology
    status: TopologyStatus
    role: Role

    @property
    def active(self) -> bool:
        """Does it carry the traffic?"""
        return self.role == "ACTIVE"


ALONE: Final = Standing("SINGLE", "OK", "ACTIVE")
"""An amphora that is nobody's peer."""
