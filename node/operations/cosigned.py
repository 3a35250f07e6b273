"""The members that witnessing adds to an audit bundle (docs/protocol-log.md section 7)."""

import base64
from collections.abc import Iterator, Mapping

from keys.trust import Peer
from node.app import Node
from node.errors import ExitCode, NodeError
from node.sharing import policy
from node.witness.store import Alert, Cosigned
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.log.checkpoint import log_origin
from protocol.log.cosignature import Cosigner, witness_name
from protocol.log.note import Verifier
from protocol.log.policy import format_policy, k_of_n


def witnesses(node: Node) -> list[Peer]:
    """Peers whose cosignature counts for our log now."""
    return policy.witnesses(node.peers.store, node.clock.now())


def own_policy(node: Node) -> str:
    """Our policy in the text form of C2SP tlog-policy.

    It leaves out witnesses whose key belongs to, or is also claimed by, another facility
    (`keys.claims`).

    Raises:
        NodeError: the settings require more witnesses than there are.
    """
    log = Verifier(log_origin(node.card.facility_key), node.card.log_key)
    known = [
        Cosigner(witness_name(peer.facility_key), listed.key)
        for peer in witnesses(node)
        for listed in node.peers.store.held(peer, peer.card.witness_keys[-1:], node.clock.now())
    ]
    quorum = node.settings.audit.witness_quorum
    try:
        return format_policy(k_of_n(log, known, quorum))
    except LocalProtocolError as error:
        raise NodeError(
            f"config.toml asks for {quorum} witnesses, and {len(known)} have the grant and a key "
            "that no other facility claims",
            hint="see `radmesh trust grant --help`, or lower witness_quorum in config.toml",
            code=ExitCode.USAGE,
        ) from error


def recommended_policy(node: Node) -> list[str]:
    """The lines of a policy by which an auditor requires most of our witnesses.

    Empty if there are fewer than two, or if our policy requires as many already.
    """
    names = [witness_name(peer.facility_key) for peer in witnesses(node)]
    most = len(names) // 2 + 1
    if len(names) < 2 or node.settings.audit.witness_quorum >= most:
        return []
    return [f"group most {most} {' '.join(names)}", "quorum most"]


def counted(node: Node, cosigned: Cosigned) -> int:
    """How many distinct keys of the witnesses that count now cosigned a checkpoint."""
    store, now = node.peers.store, node.clock.now()
    keys = set()
    for peer in witnesses(node):
        line, _ = cosigned.lines.get(peer.facility_key, ("", 0))
        listed = store.held(peer, peer.card.witness_keys, now)
        keys |= {each.key for each in listed if _is_by(line, peer.facility_key, each.key)}
    return len(keys)


def _is_by(line: str, facility_key: bytes, key: bytes) -> bool:
    """Whether a cosignature names this key; it was verified when it was kept."""
    cosigner = Cosigner(witness_name(facility_key), key)
    encoded = line.rstrip("\n").rpartition(" ")[2]
    return base64.b64decode(encoded)[: len(cosigner.hash)] == cosigner.hash


def newest_cosigned(node: Node) -> Cosigned | None:
    """Our newest checkpoint that enough witnesses cosigned, and at least one; or None."""
    least = max(1, node.settings.audit.witness_quorum)
    return next((one for one in sound_cosigned(node) if counted(node, one) >= least), None)


def sound_cosigned(node: Node) -> Iterator[Cosigned]:
    """Our cosigned checkpoints, largest first, without those that our log does not have."""
    for cosigned in node.witness_store.cosigned():
        try:
            if node.fork_detector.contradiction(cosigned.merged.encode()) is None:
                yield cosigned
        except RemoteProtocolError:
            continue


def members(node: Node) -> Mapping[str, bytes]:
    """Names and contents of the members."""
    found: dict[str, bytes] = {}
    cosigners: set[bytes] = {peer.facility_key for peer in witnesses(node)}
    for cosigned in sound_cosigned(node):
        found[f"checkpoints/{cosigned.size}"] = cosigned.merged.encode()
        cosigners |= set(cosigned.lines)
    cards = [peer.card for peer in node.peers.store.peers if peer.facility_key in cosigners]
    for number, card in enumerate(cards, 1):
        found[f"witnesses/{number}"] = card.encoded
    if cards:
        try:
            found["policy"] = own_policy(node).encode()
        except NodeError:
            # If the quorum cannot be reached, leave out the policy; `status` reports that.
            found.pop("policy", None)
    for alert in node.witness_store.alerts():
        for name, content in evidence(node, alert).items():
            found[f"witnessed/{alert.number}/{name}"] = content
    return found


def evidence(node: Node, alert: Alert) -> Mapping[str, bytes]:
    """The files that prove an alert to anybody: both checkpoints, and the facility's card."""
    files = {"held": alert.held, "shown": alert.shown}
    if alert.facility == node.card.facility_key:
        files["card"] = node.card.encoded
    for peer in node.peers.store.peers:
        if peer.facility_key == alert.facility:
            files["card"] = peer.card.encoded
    return files
