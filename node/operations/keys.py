"""Operations on our keys: show, rotate, revoke, and how they are kept."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from keys.card_fields import SizedKey, TimedKey
from keys.identity import KeyPair, peer_id
from keys.passphrase import Wrapping
from node.app import Node
from node.blocking import in_thread
from node.errors import ExitCode, NodeError
from node.facility_key import require_here, require_of
from node.keyring import nobody_to_ask, open_file
from node.operations import parameters
from node.operations.base import Call, Operation, Result
from node.operations.parameters import Nothing
from node.operations.wrapping import Sealing, wrapping_of
from node.people.persons import PERSON_ROLES
from node.rotation import Changed, Request
from protocol.log.entry import Event
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


@dataclass(frozen=True)
class Seal:
    """Parameters of `keys.seal`."""

    seal: Sealing


@dataclass(frozen=True)
class Export:
    """Parameters of `keys.export-facility`: the new file, and what seals it."""

    path: parameters.Path
    seal: Sealing


@dataclass(frozen=True)
class Import:
    """Parameters of `keys.import-facility`; the facility key is the text of its file."""

    facility_key: str = field(repr=False)


@dataclass(frozen=True)
class Renew:
    """Parameters of `card.renew`; the facility key is the text of its file."""

    facility_key: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Shares:
    """Parameters of `keys.shares`; the facility key is the text of its file."""

    facility_key: str | None = field(default=None, repr=False)


async def show(call: Call, _: Nothing) -> Result:
    """The keys on our card, oldest first, and whether the facility key is here."""
    node, card = call.node, call.node.card
    return {
        "facility_key": card.facility_key.hex(),
        "fingerprint": card.fingerprint,
        "facility_key_here": node.home.has_key("facility"),
        "sealed": await in_thread(lambda: node.home.keyring.is_sealed),
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


async def seal(call: Call, asked: Seal) -> Result:
    """Put the key files under a passphrase, or under another one."""
    return await _reseal(call, wrapping_of(asked.seal))


async def unseal(call: Call, _: Nothing) -> Result:
    """Put the key files in the open."""
    return await _reseal(call, None)


async def _reseal(call: Call, wrapping: Wrapping | None) -> Result:
    with trio.CancelScope(shield=True):
        await in_thread(call.node.reseal_keys, wrapping)
    roles = await in_thread(call.node.home.keyring.files)
    return {"sealed": wrapping is not None, "roles": list(roles)}


async def export_facility(call: Call, asked: Export) -> Result:
    """Move the facility key out of the home, to a sealed file that is read back first."""
    node, path = call.node, Path(asked.path)
    with trio.CancelScope(shield=True):
        await in_thread(node.move_facility_key_out, path, wrapping_of(asked.seal))
    return {"path": str(path), "card_expires": node.card.expires}


async def import_facility(call: Call, asked: Import) -> Result:
    """Put the facility key back into the home; a card that is due is renewed at once."""
    node = call.node
    facility = _facility(node, asked.facility_key)
    with trio.CancelScope(shield=True):
        await in_thread(node.take_facility_key_in, facility)
        await in_thread(node.publish_addresses, node.settings.addresses or node.card.addresses)
        await _tell(call)
    return {"serial": node.card.serial, "card_expires": node.card.expires}


async def renew(call: Call, asked: Renew) -> Result:
    """Make a new card of the same content, valid from now on; connected peers get it."""
    facility = _facility(call.node, asked.facility_key)
    with trio.CancelScope(shield=True):
        card = await in_thread(call.node.renew_card, facility)
        told, away = await _tell(call)
    return {
        "serial": card.serial,
        "expires": card.expires,
        "card": card.digest,
        "peers_told": told,
        "peers_away": away,
    }


async def _tell(call: Call) -> tuple[int, int]:
    return (0, 0) if call.serving is None else await call.serving.keys_changed("card")


async def shares(call: Call, asked: Shares) -> Result:
    """Split the facility key into shares on paper, two of which give it back."""
    from node.shares import split

    facility = _facility(call.node, asked.facility_key)
    event = Event(type="facility-key-moved", actor="operator", details={"to": "paper"})
    await in_thread(call.node.audit.append, event)
    return {"shares": list(split(facility)), "fingerprint": call.node.card.fingerprint}


def _facility(node: Node, given: str | None) -> KeyPair:
    if given is None:
        return require_here(node.home, node.keys)
    facility = open_file("facility", given.encode(), nobody_to_ask)
    require_of(facility, node.card)
    return facility


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
    Operation("keys.seal", Seal, seal, writes=True, local_only=True),
    Operation("keys.unseal", Nothing, unseal, writes=True, local_only=True),
    Operation("keys.export-facility", Export, export_facility, writes=True, local_only=True),
    Operation("keys.import-facility", Import, import_facility, writes=True, local_only=True),
    Operation("keys.shares", Shares, shares, writes=True, local_only=True),
    Operation("card.renew", Renew, renew, writes=True, local_only=True),
)
