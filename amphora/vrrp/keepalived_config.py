"""
The little that we read from an uploaded keepalived configuration.

keepalived alone judges whether a configuration is good (`keepalived -t`); what is read here serves to describe it.  The
text is never edited.
"""

from __future__ import annotations

import re
from ipaddress import ip_address

from attrs import define, field, frozen

_ADDRESS_BLOCKS = ("virtual_ipaddress", "virtual_ipaddress_excluded")

_LONGEST_LINE = 64 * 1024
"""Characters: no line of a configuration has so many, and a word of megabytes would hold everything else up."""

# keepalived.conf(5): words are parted by blanks; `#` and `!` begin a comment anywhere; quotes and a backslash take a
# blank's meaning away, and stand for themselves where they are not closed; `${NAME}` is a parameter, no block.
_TOKEN = re.compile(
    r"""(?P<comment>[#!])|(?P<brace>[{}])|"""
    r"""(?P<word>(?:[^\s"'\\#!{}$]|\\.|\$\{[^\s{}]*\}|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|["'\\$])+)"""
)
_QUOTED = re.compile(r"""\\(.)|"((?:\\.|[^"\\])*)"|'((?:\\.|[^'\\])*)'|["']""")
_ESCAPED = re.compile(r"\\(.)")
_SECRET = re.compile(r"\bauth_pass[ \t]+(.+)")
_TOLD_SECRET = re.compile(r"\bauth_pass[ \t]+(?!to \d+ characters).+")
_BARE_WORD = re.compile(r"""[^\s"'`{}]+""")
_KEPT_OF_A_SECRET = 8
"""keepalived looks at so many characters of an `auth_pass`, and may speak of those alone."""


@frozen
class VrrpInstance:
    """A `vrrp_instance`: its name, its virtual addresses, normalised and without prefix, and its `auth_pass`."""

    name: str
    addresses: tuple[str, ...] = ()
    auth_pass: str | None = field(default=None, repr=False)
    opaque: bool = False
    """Whether it has addresses that are written by variables: only keepalived knows those."""


@frozen
class KeepalivedConfig:
    """What a configuration says of itself; `secrets` is each word that may be one, well-formed or not."""

    instances: tuple[VrrpInstance, ...] = ()
    secrets: frozenset[str] = field(default=frozenset(), repr=False)

    @property
    def names(self) -> frozenset[str]:
        return frozenset(instance.name for instance in self.instances)

    @property
    def addresses(self) -> frozenset[str]:
        """All virtual addresses."""
        return frozenset(address for instance in self.instances for address in instance.addresses)

    @property
    def auth_pass(self) -> str | None:
        """That of the first instance that has one."""
        return next((instance.auth_pass for instance in self.instances if instance.auth_pass is not None), None)

    def without_secrets(self, text: str) -> str:
        """What keepalived said, as it may be told: it quotes lines that it does not understand."""

        def shown(found: re.Match[str]) -> str:
            word = found[0]
            return "***" if word in self.secrets or word.strip("(),.:;") in self.secrets else word

        # Variables stand in its text by what they mean, which no word here does.
        return _BARE_WORD.sub(shown, _TOLD_SECRET.sub("auth_pass ***", text))


@define
class _Instance:
    name: str
    addresses: list[str] = field(factory=list)
    auth_pass: str | None = None
    opaque: bool = False


def parse_config(content: bytes) -> KeepalivedConfig:
    """Read a configuration that keepalived has accepted; of any other text, what can be made out."""
    instances: list[_Instance] = []
    blocks: list[list[str]] = []
    words: list[str] = []
    text = content.decode("utf-8", "replace")
    for line in text.split("\n"):
        # What stands before a block may stand on the line before its brace.
        title, words = words, []
        for token in _TOKEN.finditer(line[:_LONGEST_LINE]):
            if token["comment"]:
                break
            if token["word"]:
                # `@name` makes a line depend on whose configuration it is.
                if words or not token["word"].startswith("@"):
                    words.append(_QUOTED.sub(_unquoted, token["word"]))
            elif token["brace"] == "{":
                blocks.append(words or title)
                if len(blocks) == 1 and blocks[0][:1] == ["vrrp_instance"]:
                    instances.append(_Instance(blocks[0][1] if len(blocks[0]) > 1 else ""))
                title, words = [], []
            else:
                _take(instances, blocks, words)
                title, words = [], []
                del blocks[-1:]
        _take(instances, blocks, words)
        words = words or title
    return KeepalivedConfig(
        tuple(VrrpInstance(each.name, tuple(each.addresses), each.auth_pass, each.opaque) for each in instances),
        _secrets(text),
    )


def _take(instances: list[_Instance], blocks: list[list[str]], words: list[str]) -> None:
    """Take a line's words into the instance whose block is open, if they are what we read."""
    keywords = [block[0] if block else "" for block in blocks]
    if not words or keywords[:1] != ["vrrp_instance"]:
        return
    if keywords[-1] in _ADDRESS_BLOCKS:
        try:
            instances[-1].addresses.append(str(ip_address(words[0].partition("/")[0])))
        except ValueError:
            instances[-1].opaque |= "$" in words[0]
    elif keywords[1:] == ["authentication"] and words[0] == "auth_pass" and len(words) > 1 and "$" not in words[1]:
        instances[-1].auth_pass = words[1]


def _unquoted(found: re.Match[str]) -> str:
    escaped, double, single = found.groups()
    return escaped or _ESCAPED.sub(r"\1", double or single or "")


def _secrets(text: str) -> frozenset[str]:
    words = {word for found in _SECRET.finditer(text) for word in _BARE_WORD.findall(found[1])}
    return frozenset(words | {word[:_KEPT_OF_A_SECRET] for word in words})
