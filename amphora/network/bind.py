"""An address that haproxy listens on."""

from __future__ import annotations

from attrs import frozen


@frozen
class Bind:
    """
    One TCP address that a configuration listens on, where it says so literally.

    `host` is an IPv4 or IPv6 address, `0.0.0.0` and `::` among them; `interface` is empty for any.
    """

    host: str
    port: int
    interface: str = ""
    v6only: bool = False

    @property
    def address(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_rebound(self) -> bool:
        """Does haproxy bind it anew in a reload, where it takes over all other sockets from the old worker?"""
        return ":" in self.host and self.host != "::" and not self.v6only

    def overlaps(self, other: Bind) -> bool:
        """Would one of two sockets with these addresses be refused?"""
        if self.port != other.port or (self.interface and other.interface and self.interface != other.interface):
            return False
        mine, theirs = self._hosts(), other._hosts()
        return any(
            one == another or ((":" in one) == (":" in another) and {one, another} & {"::", "0.0.0.0"})
            for one in mine
            for another in theirs
        )

    def _hosts(self) -> set[str]:
        # A socket on `::` takes IPv4 as well unless it is told otherwise.
        return {"::", "0.0.0.0"} if self.host == "::" and not self.v6only else {self.host}
