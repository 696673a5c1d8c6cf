"""The virtual addresses that the namespace's links have: they tell a role where keepalived itself cannot be heard."""

from __future__ import annotations

from amphora.network.netlink import carry_out, look
from amphora.network.steps import Remove, StepFailed


def held_addresses(namespace: str) -> frozenset[str]:
    """
    All addresses that there are in the namespace (empty: our own), normalised.  Blocks.

    @raise OSError: if the namespace cannot be entered or asked.
    """
    return frozenset(str(found.address.ip) for found in look(namespace).addresses)


def withdraw(addresses: frozenset[str], namespace: str) -> frozenset[str]:
    """
    Take these addresses away from the links that have them: a keepalived that was killed leaves them.  Blocks.

    @return: those that were there.
    @raise OSError: if the namespace cannot be entered or asked, or one of them stays.
    """
    snapshot = look(namespace)
    links = {link.index: link for link in snapshot.links}
    there = [found for found in snapshot.addresses if str(found.address.ip) in addresses and found.index in links]
    try:
        carry_out(namespace, [Remove(links[found.index], found.address) for found in there])
    except StepFailed as error:
        raise OSError(str(error)) from error
    return frozenset(str(found.address.ip) for found in there)
