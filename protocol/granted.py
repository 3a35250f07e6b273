"""What a node tells a peer of that peer's rights, signed (docs/protocol.md section 9).

The statement is canonical JSON. It holds the rules that allow, and of those that deny or have a
person asked only such as tell nothing about a patient, a ward or a time of treatment. No rule has
its number, and rules that look the same after that are one: so it does not show that anything was
left out. An objection of a patient is never in it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from keys.canonical import canonical_json, parse_canonical_untrusted
from keys.conditions import KINDS, shown
from keys.errors import KeysError
from keys.grants import has_ended
from keys.identity import KeyPair
from keys.rules import ALLOW, ASK, DENY, EXAM, Rule
from protocol import limits
from protocol.errors import RemoteProtocolError
from protocol.fields import binary, octets
from protocol.messages import Message
from protocol.signatures import check_signature_untrusted

DOMAIN = b"radmesh-grants-v1"

HARMLESS = frozenset({"modality", "only-modality", "max-age", "deidentified"})
"""Conditions on a study that a peer may know of a rule that denies or asks: they fit so many
studies that they point at none. Conditions on the request are its own doing, and told as well."""

_STATED = frozenset({"action", "conditions", "effect", "limits", "listed", "shows", "until"})


@dataclass(frozen=True, kw_only=True)
class Grants(Message):
    """What the sender lets the recipient do; `body` is the statement as canonical JSON."""

    TYPE: ClassVar[str] = "grants"
    body: bytes = binary(limits.GRANTS_BYTES)
    signature: bytes = octets(64)


KNOWN: Mapping[str, type[Message]] = {Grants.TYPE: Grants}
"""The messages of a grants stream."""


@dataclass(frozen=True)
class Told:
    """One rule as a peer was told it.

    Attributes:
        action: the action.
        effect: `allow`, `ask` or `deny`; any other word counts as deny.
        conditions: kind to values.
        listed: kinds of conditions whose values are not told, and what this release cannot read.
        limits: name of a limit to the most that is allowed.
        until: the rule counts before this time, seconds since the epoch, UTC; None always.
        shows: what a rule to see shows.
    """

    action: str
    effect: str
    conditions: Mapping[str, tuple[str, ...]]
    listed: tuple[str, ...]
    limits: Mapping[str, int]
    until: int | None
    shows: str

    def __str__(self) -> str:
        """The rule in words, without its end."""
        words = [self.effect, self.action]
        words += [f"{kind}={shown(kind, values)}" for kind, values in self.conditions.items()]
        words += [
            f"{kind}=(some)" if kind in KINDS else "(under a condition of a later release)"
            for kind in self.listed
        ]
        words += [f"{name}={most}" for name, most in self.limits.items()]
        if self.action == "see" and self.effect == ALLOW:
            words.append(f"shows={self.shows}")
        return " ".join(words)


@dataclass(frozen=True, kw_only=True)
class Statement:
    """A statement that was read.

    Attributes:
        facility: facility key of the one that grants, 32 bytes.
        node: the node key that signed, 32 bytes.
        recipient: facility key of the one that may, 32 bytes.
        serial: grows with each statement to this recipient.
        time: when it was made, seconds since the epoch, UTC.
        since: since when the recipient is trusted, likewise.
        until: when that ends, likewise; None at no date.
        rules: the rules.
    """

    facility: bytes
    node: bytes
    recipient: bytes
    serial: int
    time: int
    since: int
    until: int | None
    rules: tuple[Told, ...]


def is_told(rule: Rule) -> bool:
    """Whether a peer may know a rule of its own.

    A rule that this release cannot read allows nothing, and might name anything, so it is not told.
    """
    if any(kind not in KINDS for kind in rule.conditions):
        return False
    if rule.effect == ALLOW:
        return True
    return rule.effect in (ASK, DENY) and all(
        kind in HARMLESS or not KINDS[kind].of_study for kind in rule.conditions
    )


def stated(rules: Iterable[Rule], now: int) -> list[dict[str, Any]]:
    """The rules as a peer is told them, in an order that says nothing.

    Args:
        rules: all rules of the peer, see `keys.grants.rules_of`.
        now: seconds since the epoch, UTC.
    """
    told = [rule for rule in rules if is_told(rule) and not has_ended(rule, now)]
    fields = _ordered(_fields(rule, with_values=True) for rule in told)
    # The rest of a statement is smaller than a kilobyte.
    if len(canonical_json(fields)) > limits.GRANTS_BYTES - 1024:
        fields = _ordered(_fields(rule, with_values=False) for rule in told)
    return fields


def _ordered(fields: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    different = {canonical_json(one): one for one in fields}
    return [different[encoded] for encoded in sorted(different)]


def _fields(rule: Rule, *, with_values: bool) -> dict[str, Any]:
    fields: dict[str, Any] = {"action": rule.action, "effect": rule.effect}
    conditions = {
        kind: list(values)
        for kind, values in rule.conditions.items()
        if with_values and not KINDS[kind].is_hidden
    }
    listed = sorted(rule.conditions.keys() - conditions.keys())
    if conditions:
        fields["conditions"] = conditions
    if listed:
        fields["listed"] = listed
    if rule.limits:
        fields["limits"] = dict(rule.limits)
    if rule.until is not None:
        fields["until"] = rule.until
    if rule.shows != EXAM:
        fields["shows"] = rule.shows
    return fields


def content_of(
    *,
    facility: bytes,
    node: bytes,
    recipient: bytes,
    rules: list[dict[str, Any]],
    since: int,
    until: int | None,
) -> dict[str, Any]:
    """All of a statement but its serial and time; arguments as in `Statement`, rules `stated`."""
    content: dict[str, Any] = {
        "facility": facility.hex(),
        "node": node.hex(),
        "recipient": recipient.hex(),
        "rules": rules,
        "since": since,
        "type": DOMAIN.decode(),
    }
    if until is not None:
        content["until"] = until
    return content


def sign(content: Mapping[str, Any], *, serial: int, time: int, key: KeyPair) -> Grants:
    """The signed statement of a content; `time` in seconds since the epoch, UTC."""
    body = canonical_json({**content, "serial": serial, "time": time})
    return Grants(body=body, signature=key.sign(DOMAIN, body))


def open_untrusted(message: Grants) -> Statement:
    """Read a statement and check its signature by the node key that it names.

    Whether that key speaks for the facility is for the caller to check.

    Raises:
        RemoteProtocolError: it is malformed, or the signature does not hold.
    """
    try:
        value = parse_canonical_untrusted(message.body)
        if not isinstance(value, dict) or value["type"] != DOMAIN.decode():
            raise ValueError
        until = value.get("until")
        statement = Statement(
            facility=_key(value["facility"]),
            node=_key(value["node"]),
            recipient=_key(value["recipient"]),
            serial=_number(value["serial"]),
            time=_number(value["time"]),
            since=_number(value["since"]),
            until=None if until is None else _number(until),
            rules=tuple(map(_told, _list(value["rules"]))),
        )
    except (KeysError, KeyError, ValueError, TypeError, AttributeError):
        raise RemoteProtocolError("the statement of grants is malformed") from None
    check_signature_untrusted(
        statement.node, DOMAIN, message.body, message.signature, "statement of grants"
    )
    return statement


def _told(fields: Any) -> Told:
    until = fields.get("until")
    # A field of a later release may narrow the rule, so it is shown as a condition.
    listed = [*map(_text, _list(fields.get("listed", []))), *sorted(fields.keys() - _STATED)]
    return Told(
        _text(fields["action"]),
        _text(fields["effect"]),
        {
            _text(kind): tuple(map(_text, _list(values)))
            for kind, values in fields.get("conditions", {}).items()
        },
        tuple(listed),
        {_text(name): _number(most) for name, most in fields.get("limits", {}).items()},
        None if until is None else _number(until),
        _text(fields.get("shows", EXAM)),
    )


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _number(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise TypeError
    return value


def _key(value: Any) -> bytes:
    key = bytes.fromhex(_text(value))
    if len(key) != 32 or key.hex() != value:
        raise ValueError
    return key
