"""Operations on our keys: show, rotate, revoke."""

from dataclasses import dataclass, field
from typing import Any

import trio

from keys.card_fields import SizedKey, TimedKey
from keys.errors import KeysError
from keys.identity import KeyPair, peer_id
from keys.keyfile import decode_key
from node.app import Node
from node.blocking import in_thread
from node.errors import ExitCode, NodeError
from node.operations.base import Call, Operation, Result
from node.operations.parameters import Nothing
from node.people.persons import PERSON_ROLES
from node.rotation import Changed, Request
from protocol.log.rotation import ROLES
from protocol.log.tree import HASH_BYTES


@dataclass(frozen=True)
class Rotate:
    """Parameters of `keys.rotate`; the facility key is the text of its file."""

    role: str
    facility_key: str | None = field(default=None, repr=False)
    compromised: bool = False


@dataclass(frozen=True)
class Revoke:
    """Parameters of `keys.revoke`; the facility key is the text of its file."""

    role: str
    trusted: str
    facility_key: str | None = field(default=None, repr=False)


async def show(call: Call, _: Nothing) -> Result:
    """The keys on our card, oldest first, and whether the facility key is here."""
    node, card = call.node, call.node.card
    return {
        "facility_key": card.facility_key.hex(),
        "fingerprint": card.fingerprint,
        "facility_key_here": node.home.has_key("facility"),
        "serial": card.serial,
        "expires": card.expires,
        "peer_id": peer_id(card.node_key),
        "node": [_timed(key) for key in card.node_keys],
        "log": [_sized(key) for key in card.log_keys],
        "witness": [_timed(key) for key in card.witness_keys],
    }


async def rotate(call: Call, asked: Rotate) -> Result:
    """Replace the node, log or witness key; connected peers get the newer card."""
    role, compromised = asked.role, asked.compromised
    if role not in ROLES:
        raise NodeError(
            f"there is no key {role} to rotate",
            hint=f"the keys are {', '.join(ROLES)}; a facility key is never replaced: its "
            "peers pair anew",
            code=ExitCode.USAGE,
        )
    if compromised and role == "log":
        raise NodeError(
            "a log key in wrong hands is taken back from a size on",
            hint="use `radmesh keys revoke log --trusted SIZE:ROOT`",
            code=ExitCode.USAGE,
        )
    facility = _facility(call.node, asked.facility_key)
    return await _change(call, Request(role=role, facility=facility, compromised=compromised))


async def revoke(call: Call, asked: Revoke) -> Result:
    """Revoke the log key: its signatures beyond a size no longer count."""
    if asked.role != "log":
        raise NodeError(
            "only a log key can be revoked so",
            hint="use `radmesh keys rotate node --compromised`, or witness",
            code=ExitCode.USAGE,
        )
    trusted = _pin(asked.trusted)
    facility = _facility(call.node, asked.facility_key)
    return await _change(call, Request(role="log", facility=facility, trusted=trusted))


async def _change(call: Call, request: Request) -> Result:
    # Finish the change even if the caller disconnects: half a change is of no use.
    with trio.CancelScope(shield=True):
        changed = await in_thread(call.node.rotator.change, request)
        told, away = 0, 0
        if call.serving is not None:
            told, away = await call.serving.keys_changed(request.role)
    return {**_describe(changed), "peers_told": told, "peers_away": away}


def _describe(changed: Changed) -> Result:
    change = changed.change
    return {
        "role": change.role,
        "old_key": change.old_key.hex(),
        "new_key": change.new_key.hex(),
        "entry": change.size,
        "root": change.root.hex(),
        "since_size": change.since_size if change.role == "log" else None,
        "peer_id": peer_id(changed.card.node_key),
        "serial": changed.card.serial,
        "card": changed.card.digest,
    }


def _facility(node: Node, given: str | None) -> KeyPair:
    if given is None:
        # The node may still hold, from its start, a key whose file was taken offline since.
        if node.keys.facility is None or not node.home.has_key("facility"):
            raise NodeError(
                "the facility key is not in this home, and a change of keys needs it",
                hint="name its file with --facility-key; it is read once and not kept",
                code=ExitCode.NOT_FOUND,
            )
        return node.keys.facility
    try:
        return decode_key("facility", given.encode())
    except KeysError as error:
        raise NodeError(
            f"the facility key cannot be used: {error}",
            hint="name the file `facility` of the folder `keys`, as it was taken offline",
            code=ExitCode.USAGE,
        ) from error


def _pin(given: str) -> tuple[int, bytes]:
    size, separator, root = given.partition(":")
    try:
        decoded = bytes.fromhex(root)
    except ValueError:
        decoded = b""
    known = size.isascii() and size.isdigit() and len(size) < 20
    if not separator or not known or len(decoded) != HASH_BYTES:
        raise NodeError(
            "the last trusted state of the log is named as SIZE:ROOT, the root in 64 hex digits",
            hint="take both from a checkpoint that was noted before the key left your hands",
            code=ExitCode.USAGE,
        )
    return int(size), decoded


def _timed(key: TimedKey) -> dict[str, Any]:
    return {"key": key.key.hex(), "since": key.since, "until": key.until}


def _sized(key: SizedKey) -> dict[str, Any]:
    return {"key": key.key.hex(), "since_size": key.since_size, "until_size": key.until_size}


OPERATIONS = (
    Operation("keys.show", Nothing, show, writes=False, roles=PERSON_ROLES),
    Operation("keys.rotate", Rotate, rotate, writes=True, local_only=True),
    Operation("keys.revoke", Revoke, revoke, writes=True, local_only=True, without_log_key=True),
)
