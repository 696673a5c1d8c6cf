"""The single changes that an interface is brought into shape by, and what undoes each."""

from __future__ import annotations

from attrs import evolve, frozen

from amphora.network.state import IP, Address, Link, Route, Rule


@frozen
class MoveIn:
    """Bring a link from the agent's own namespace into the amphora's, with another name there."""

    link: Link
    name: str

    def __str__(self) -> str:
        return f"moving {self.link.name} into the namespace as {self.name}"


@frozen
class MoveOut:
    """Bring a link back, with the name that it had: what undoes L{MoveIn}."""

    name: str
    link: Link

    def __str__(self) -> str:
        return f"moving {self.name} back as {self.link.name}"


@frozen
class Rename:
    """Give a link another name."""

    link: Link
    name: str

    def __str__(self) -> str:
        return f"renaming {self.link.name} to {self.name}"


@frozen
class SetMtu:
    """Have a link take packets of another size."""

    link: Link
    mtu: int

    def __str__(self) -> str:
        return f"setting the MTU of {self.link.name} to {self.mtu}"


@frozen
class SetUp:
    """Bring a link up."""

    link: Link

    def __str__(self) -> str:
        return f"bringing {self.link.name} up"


@frozen
class SetDown:
    """Take a link down: only ever what undoes L{SetUp}."""

    link: Link

    def __str__(self) -> str:
        return f"taking {self.link.name} down"


@frozen
class Add:
    """Give a link an address, a route, or a rule for one of its addresses."""

    link: Link
    what: Address | Route | Rule

    def __str__(self) -> str:
        return f"adding {self.what} to {self.link.name}"


@frozen
class Remove:
    """Take an address, a route or a rule from a link."""

    link: Link
    what: Address | Route | Rule

    def __str__(self) -> str:
        return f"removing {self.what} from {self.link.name}"


@frozen
class AwaitUsable:
    """Wait until duplicate address detection has found that nobody else has an address: no call, but time."""

    link: Link
    ip: IP

    def __str__(self) -> str:
        return f"waiting for {self.ip} on {self.link.name}"


Change = MoveIn | Rename | SetMtu | SetUp | Add | Remove
Undoing = MoveOut | Rename | SetMtu | SetDown | Add | Remove
Step = Change | AwaitUsable


class StepFailed(Exception):
    """
    The kernel refused a change; the text is what was tried, and its own words.

    `done` is how many changes were made before it.
    """

    def __init__(self, change: Change | Undoing, words: str, done: int) -> None:
        super().__init__(f"{change}: {words}")
        self.change = change
        self.done = done


def undoing(change: Change) -> Undoing:
    """What makes a change as if it had not been."""
    match change:
        case MoveIn(link, name):
            return MoveOut(name, link)
        case Rename(link, name):
            return Rename(evolve(link, name=name), link.name)
        case SetMtu(link, mtu):
            return SetMtu(evolve(link, mtu=mtu), link.mtu)
        case SetUp(link):
            return SetDown(link)
        case Add(link, what):
            return Remove(link, what)
        case Remove(link, what):
            return Add(link, what)
