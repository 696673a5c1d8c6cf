"""
The packet filter and the address translation of the amphora, as scripts for C{nft}; nothing here asks the kernel.

A script replaces a table in one transaction: it makes the table, so that it can be deleted, deletes it, and makes it
anew.  At no moment is there none, and connections that the kernel knows stay known.

*The filter* guards the VIPs of SR-IOV ports, which no security group of Neutron does.  It is Octavia's table, with its
names, but lets pass what comes in by any other interface: members answer there.

*The translation* is what LVS needs for UDP and SCTP: members have to answer the amphora, not the client.  It makes the
kernel track connections, which TCP has no use for, and whose table it would fill: so TCP is not tracked, except on
SR-IOV ports, where the filter knows an answer by its connection.  Nothing else of the amphora asks for connections: the
proxies' own are the kernel's sockets.  It is there for every plugged interface, as in Octavia's own agent, whether or
not a listener needs it: the first one then finds all in place, and nothing changes under the others.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable

from attrs import frozen

from amphora.network.errors import InvalidRules
from amphora.network.filter_rules import FilterRule, read_rules
from amphora.network.plan import Port
from amphora.network.state import normalised_mac

FILTER_TABLE = "inet amphora_table"
"""The family and name of the filter."""

_TRANSLATIONS = {4: "ip octavia-ipv4", 6: "ip6 octavia-ipv6"}

_HEADLINE = "# Written by the amphora agent, which reads these comments back: the rest follows from them."

_ICMP = ("destination-unreachable", "time-exceeded", "parameter-problem")
_ICMPV6 = (
    *("destination-unreachable", "packet-too-big", "time-exceeded", "parameter-problem"),
    *("mld-listener-query", "nd-router-advert", "nd-neighbor-solicit", "nd-neighbor-advert"),
)
"""
What a host has to hear (RFC 4890, 4.4.1), except for echoes; a switch that snoops on MLD loses a silent host's
neighbour discovery.
"""


@frozen
class RuleSet:
    """What one interface lets in, known by its MAC address."""

    mac: str
    rules: tuple[FilterRule, ...]


def is_filtered(port: Port) -> bool:
    """Only its VIPs make a port one that others come to."""
    return port.is_sriov and bool(port.vips)


def filter_script(ports: Iterable[Port], rule_set: RuleSet | None) -> str | None:
    """
    What makes the filter of these ports; None where there is none to filter.

    @param rule_set: A port that it is not for lets in only what no port can do without, and what it asked for itself.
    """
    filtered = sorted((port for port in ports if is_filtered(port)), key=lambda port: port.name)
    if not filtered:
        return None
    goto = []
    vip_chain = []
    for port in filtered:
        if rule_set is not None and port.mac == rule_set.mac:
            goto = [f'iifname "{port.name}" goto amphora_vip_chain']
            vip_chain = _chain("amphora_vip_chain", [_accept(rule) for rule in rule_set.rules])
    return _replaced(
        FILTER_TABLE,
        [
            *_chain(
                "amphora_chain",
                [
                    "type filter hook input priority filter; policy drop;",
                    # The loopback too: the amphora itself is no stranger.
                    f"iifname != {_names(filtered)} accept",
                    "ip saddr 127.0.0.0/8 drop",
                    "ip6 saddr ::1 drop",
                    "ct state vmap { established : accept, related : accept, invalid : drop }",
                    f"icmp type {{ {', '.join(_ICMP)} }} accept",
                    f"icmpv6 type {{ {', '.join(_ICMPV6)} }} accept",
                    "udp sport 67 udp dport 68 accept",
                    "udp sport 547 udp dport 546 accept",
                    *goto,
                ],
            ),
            *vip_chain,
        ],
    )


def translation_script(ports: Iterable[Port]) -> str:
    """
    What makes the translation of these ports, and takes a filter away where there is none to filter.

    A family that none of them carries loses its table.
    """
    ports = sorted(ports, key=lambda port: port.name)
    script = ""
    for family, table in _TRANSLATIONS.items():
        carrying = [port for port in ports if family in port.families]
        untracked = [port for port in carrying if not port.is_sriov]
        chains: list[str] = []
        if carrying:
            chains += _chain(
                "source_nat",
                [
                    "type nat hook postrouting priority srcnat; policy accept;",
                    f"oifname {_names(carrying)} meta l4proto {{ udp, sctp }} masquerade",
                ],
            )
        if untracked:
            for chain, hook, way in (("incoming", "prerouting", "iifname"), ("outgoing", "output", "oifname")):
                chains += _chain(
                    chain,
                    [
                        f"type filter hook {hook} priority raw; policy accept;",
                        f"{way} {_names(untracked)} meta l4proto tcp notrack",
                    ],
                )
        script += _replaced(table, chains)
    return script if any(is_filtered(port) for port in ports) else script + _replaced(FILTER_TABLE, [])


def stored_rules(rule_set: RuleSet, script: str) -> bytes:
    """
    A file that C{nft -f} takes, and L{read_stored_rules} too.

    Each rule has a line: over one long comment nft 1.0.6 takes a minute.
    """
    head = {"mac_address": rule_set.mac, "rules": len(rule_set.rules)}
    known = (f"# {json.dumps(each)}" for each in (head, *(rule.encode() for rule in rule_set.rules)))
    return "\n".join((_HEADLINE, *known, script)).encode()


def read_stored_rules(content: bytes) -> RuleSet:
    """
    Read what L{stored_rules} made: all of its rules, or none.

    @raise ValueError: for all else; the text says what is wrong.
    """
    _, *lines = content.split(b"\n")
    known = (json.loads(line.removeprefix(b"# ")) for line in lines)
    try:
        head = next(known)
        mac, count = normalised_mac(head["mac_address"]), head["rules"]
        # Of a file that was cut the last line is no JSON, or there are too few of them.
        rules = read_rules([next(known) for _ in range(count)])
    except InvalidRules as error:
        raise ValueError(error.reason) from None
    except StopIteration:
        raise ValueError("it ends too early") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"it tells no rules: {error!r}") from None
    if mac is None:
        raise ValueError("it tells no MAC address")
    return RuleSet(mac, rules)


def _accept(rule: FilterRule) -> str:
    """One line; of what a controller sent there are only an address, a number, and words of our own."""
    cidr = rule.cidr
    words = []
    if cidr is not None and cidr.prefixlen == 0:
        words.append(f"meta nfproto ipv{cidr.version}")
    elif cidr is not None:
        words.append(f"{'ip' if cidr.version == 4 else 'ip6'} saddr {cidr}")
    # By `ip protocol` it would be IPv4's alone.
    words.append("meta l4proto 112" if rule.protocol == "vrrp" else f"{rule.protocol.lower()} dport {rule.port}")
    return " ".join((*words, "accept"))


def _names(ports: Collection[Port]) -> str:
    return "{ " + ", ".join(f'"{port.name}"' for port in ports) + " }"


def _chain(name: str, lines: Iterable[str]) -> list[str]:
    return [f"chain {name} {{", *(f"    {line}" for line in lines), "}"]


def _replaced(table: str, lines: Collection[str]) -> str:
    made = "".join(("{\n", *(f"    {line}\n" for line in lines), "}\n"))
    return f"table {table}\ndelete table {table}\n" + (f"table {table} {made}" if lines else "")
