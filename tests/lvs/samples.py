"""What these tests share: configurations as the controller renders them, and tables as the kernel prints them."""

from __future__ import annotations

from pathlib import Path

from amphora.lvs.config import LvsConfig, parse_config

LISTENER = "bbbbbbbb-0000-4000-8000-000000000001"
POOL = "cccccccc-0000-4000-8000-000000000001"

_HERE = Path(__file__).parent


def member_id(number: int) -> str:
    """The id of the member whose port ends in this number."""
    return f"dddddddd-0000-4000-8000-{number:012d}"


def configuration_names() -> list[str]:
    """All that are here."""
    return sorted(path.stem for path in (_HERE / "configurations").glob("*.conf"))


def configuration(name: str) -> bytes:
    """One of them."""
    return (_HERE / "configurations" / f"{name}.conf").read_bytes()


def config(name: str) -> LvsConfig:
    """What we read from it."""
    return parse_config(configuration(name))


def table(*names: str) -> str:
    """What the kernel says that balances these services."""
    return "".join((_HERE / "tables" / f"{name}.txt").read_text() for name in ("head", *names))
