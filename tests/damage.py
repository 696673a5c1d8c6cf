"""What a disk, a wire or a stranger makes of what was written."""

from __future__ import annotations

import json
from typing import Any, Final

from hypothesis import strategies as st

ODD_VALUES: Final = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.text(max_size=5),
    st.sampled_from(
        (float("inf"), float("nan"), -1, 1e308, 2**64, 10**400, [], {}, [[]], "\ud800", "\0", "a\nb", "..")
    ),
    st.ip_addresses().map(str),
)


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Bytes with holes and other bytes in them, or cut off."""
    for _ in range(draw(st.integers(1, 3))):
        where = draw(st.integers(0, len(content)))
        length = draw(st.integers(0, 40) | st.just(len(content)))
        content = content[:where] + draw(st.binary(max_size=8)) + content[where + length :]
    return content


@st.composite
def with_odd_values(draw: st.DrawFn, document: Any) -> Any:
    """JSON in which some values are others than were written, or are gone."""
    for _ in range(draw(st.integers(1, 3))):
        document = _changed(draw, document)
    return document


def _changed(draw: st.DrawFn, document: Any) -> Any:
    if isinstance(document, dict) and document and draw(st.integers(0, 9)):
        key = draw(st.sampled_from(sorted(document)))
        if not draw(st.integers(0, 4)):
            return {name: value for name, value in document.items() if name != key}
        return {**document, key: _changed(draw, document[key])}
    if isinstance(document, list) and document and draw(st.integers(0, 9)):
        place = draw(st.integers(0, len(document) - 1))
        return [*document[:place], _changed(draw, document[place]), *document[place + 1 :]]
    return draw(ODD_VALUES)


def contents(document: Any) -> st.SearchStrategy[bytes]:
    """What may be found in place of a JSON file: half of it, other things, nothing, and much of nothing."""
    return st.one_of(
        with_odd_values(document).map(lambda value: json.dumps(value).encode()),
        damaged(json.dumps(document).encode()),
        st.binary(max_size=40),
        st.sampled_from(
            (b"", b"\0" * 4096, b"[" * 100_000, b'{"a":' * 100_000, b"9" * 5000, b"null", b"{}", b"[]", b"\xff")
        ),
    )
