"""haproxy configurations as Octavia writes them, of any size."""

from __future__ import annotations

import uuid

from attrs import frozen

_SPACE = uuid.UUID("6b1f0c5e-8f5b-4d0e-9a53-0c9a3d1f2b7e")


def identifier(kind: str, number: int) -> str:
    """The id of something, the same in every run; it is as random as Octavia's."""
    return str(uuid.uuid5(_SPACE, f"{kind} {number}"))


@frozen
class Balancer:
    """
    A load balancer: its listeners have a pool each, over which the members are spread.

    Members have health checks, an hour apart: what runs in haproxy is not what is measured, what it tells is.  Those
    beyond the first 10,000 have none, as haproxy wants a descriptor for each check and not all machines give so many.
    """

    listeners: int
    members: int

    @property
    def id(self) -> str:
        return identifier("load balancer", 0)

    def backend(self, number: int) -> str:
        """What haproxy calls the pool of a listener."""
        return f"{identifier('pool', number)}:{identifier('listener', number)}"

    def members_of(self, number: int) -> range:
        """The numbers of a pool's members."""
        share = self.members / self.listeners
        return range(round(number * share), round((number + 1) * share))

    def config(self, remark: str = "") -> bytes:
        """What the controller uploads."""
        lines = [
            f"# Configuration for loadbalancer {self.id} {remark}",
            "global",
            "    daemon",
            "    user nobody",
            "    log /run/rsyslog/octavia/log local0",
            f"    stats socket /var/lib/octavia/{self.id}.sock mode 0666 level admin",
            f"    server-state-file /var/lib/octavia/{self.id}/servers-state",
            "    maxconn 2000",
            "",
            "defaults",
            "    log global",
            "    retries 3",
            "    option redispatch",
            "    option splice-request",
            "    option splice-response",
            "    option http-keep-alive",
            "    load-server-state-from-file global",
            "    timeout connect 5000",
            "    timeout client 50000",
            "    timeout server 50000",
        ]
        for number in range(self.listeners):
            lines += [
                "",
                f"frontend {identifier('listener', number)}",
                "    maxconn 1000",
                f"    bind 127.0.0.1:{10_000 + number}",
                "    mode http",
                f"    default_backend {self.backend(number)}",
                "",
                f"backend {self.backend(number)}",
                "    mode http",
                "    balance roundrobin",
                "    timeout check 10s",
                "    fullconn 1000",
            ]
            lines += [
                f"    server {identifier('member', member)} 198.18.{member // 250}.{1 + member % 250}:80 weight 1"
                + (" check inter 1h fall 3 rise 2" if member < 10_000 else "")
                for member in self.members_of(number)
            ]
        return ("\n".join(lines) + "\n").encode()
