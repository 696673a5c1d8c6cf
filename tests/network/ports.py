"""Ports and rules that tests of the packet filter share."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from amphora.network.filter_rules import FilterRule
from amphora.network.plan import Port, Vip

VIP = Vip(ip_address("203.0.113.2"), ip_network("203.0.113.0/24"), ip_address("203.0.113.1"), 1)
VIP6 = Vip(ip_address("2001:db8::2"), ip_network("2001:db8::/64"), ip_address("2001:db8::1"), 1)

SRIOV = Port("eth1", "02:00:00:00:00:0a", vips=(VIP,), is_sriov=True)
PLAIN = Port("eth2", "02:00:00:00:00:0b")
"""A member network's, which carries both IP versions."""

EVERY_RULE = (
    FilterRule("TCP", None, 80),
    FilterRule("TCP", ip_network("0.0.0.0/0"), 81),
    FilterRule("TCP", ip_network("::/0"), 82),
    FilterRule("UDP", ip_network("192.0.2.0/24"), 53),
    FilterRule("SCTP", ip_network("2001:db8:1::/48"), 65535),
    FilterRule("vrrp", ip_network("203.0.113.9/32"), 112),
    FilterRule("vrrp", ip_network("2001:db8::9/128"), 112),
)
