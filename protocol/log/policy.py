"""C2SP log policies: which logs and witnesses count, and how many of them are needed.

Format: <https://c2sp.org/tlog-policy>; docs/protocol-log.md section 5.2.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.log.cosignature import Cosigner, parse_cosigner_untrusted
from protocol.log.note import Verifier, parse_vkey_untrusted

POLICY_BYTES = 100_000
"""Most bytes of a policy: some four hundred witnesses. The auditor's verifier has the same
limit."""

POLICY_LINES = 1000
"""Most lines of a policy that define something; the verifier has the same limit."""

NONE = "none"

_RESERVED = (NONE, "all", "any")
_BAD_OCTET = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]")
_THRESHOLD = re.compile(r"[1-9][0-9]{0,4}")


@dataclass(frozen=True)
class Group:
    """At least `threshold` of the members (names of witnesses or groups)."""

    threshold: int
    members: tuple[str, ...]


@dataclass(frozen=True)
class Policy:
    """The signatures that a checkpoint must carry.

    Attributes:
        logs: log keys, one of which must have signed; empty if the log is known otherwise.
        witnesses: name in the policy to witness.
        groups: name to group; members are defined before the group.
        quorum: name of the witness or group that must have cosigned, or `NONE`.
    """

    logs: tuple[Verifier, ...]
    witnesses: Mapping[str, Cosigner]
    groups: Mapping[str, Group]
    quorum: str

    def is_met_by(self, cosigned: Collection[Cosigner]) -> bool:
        """Whether these witnesses are enough."""
        if self.quorum == NONE:
            return True
        met = {name for name, witness in self.witnesses.items() if witness in cosigned}
        for name, group in self.groups.items():
            if sum(member in met for member in group.members) >= group.threshold:
                met.add(name)
        return self.quorum in met


def k_of_n(log: Verifier, witnesses: Sequence[Cosigner], k: int) -> Policy:
    """The policy of one log and `k` of its witnesses.

    Raises:
        LocalProtocolError: there are fewer than `k` witnesses, or one or its key comes twice.
    """
    named = {witness.name: witness for witness in witnesses}
    keys = {witness.public for witness in witnesses}
    if not 0 <= k <= len(witnesses) or not len(keys) == len(named) == len(witnesses):
        raise LocalProtocolError("no such quorum of these witnesses")
    if k == 0:
        return Policy((log,), named, {}, NONE)
    return Policy((log,), named, {"witnesses": Group(k, tuple(named))}, "witnesses")


def format_policy(policy: Policy) -> str:
    """The text of a policy.

    Raises:
        LocalProtocolError: readers would refuse the policy: it is too long, or has a key
            twice, a duplicate name or an undefined name.
    """
    lines = [f"log {log.vkey}" for log in policy.logs]
    lines += [f"witness {name} {witness.vkey}" for name, witness in policy.witnesses.items()]
    lines += [
        f"group {name} {group.threshold} {' '.join(group.members)}"
        for name, group in policy.groups.items()
    ]
    text = "".join(f"{line}\n" for line in (*lines, f"quorum {policy.quorum}"))
    try:
        # Read it back, so that no policy is written that readers would refuse.
        parse_policy_untrusted(text.encode("utf-8", "surrogateescape"))
    except RemoteProtocolError as error:
        raise LocalProtocolError(f"no reader would take this policy: {error}") from error
    return text


def parse_policy_untrusted(data: bytes) -> Policy:
    """Read a policy.

    Raises:
        RemoteProtocolError: not a policy; the text names the line.
    """
    if len(data) > POLICY_BYTES or _BAD_OCTET.search(data):
        raise RemoteProtocolError("the policy is too large or holds control characters")
    # Names are opaque octets: octets that are not UTF-8 must survive and stay distinct.
    lines = data.decode("utf-8", "surrogateescape").split("\n")
    reader = _Reader()
    for number, line in enumerate(lines, 1):
        words = [word for word in re.split("[ \t]+", line) if word]
        if not words or words[0].startswith("#"):
            continue
        try:
            reader.take(words)
        except RemoteProtocolError as error:
            raise RemoteProtocolError(f"line {number} of the policy: {error}") from None
        except UnicodeEncodeError:
            raise RemoteProtocolError(f"line {number} of the policy: not UTF-8") from None
    if reader.quorum is None:
        raise RemoteProtocolError("the policy has no quorum")
    return Policy(tuple(reader.logs), reader.witnesses, reader.groups, reader.quorum)


class _Reader:
    def __init__(self) -> None:
        self.logs: list[Verifier] = []
        self.witnesses: dict[str, Cosigner] = {}
        self.groups: dict[str, Group] = {}
        self.quorum: str | None = None
        self._members: set[str] = set()

    def take(self, words: list[str]) -> None:
        if len(self.logs) + len(self.witnesses) + len(self.groups) >= POLICY_LINES:
            raise RemoteProtocolError(f"one too many; {POLICY_LINES} are the most")
        match words:
            case ["log", vkey] | ["log", vkey, _]:
                self._log(vkey)
            case ["witness", name, vkey] | ["witness", name, vkey, _]:
                self._witness(name, vkey)
            case ["group", name, threshold, *members] if members:
                self._group(name, threshold, tuple(members))
            case ["quorum", name]:
                self._quorum(name)
            case _:
                raise RemoteProtocolError("it is none of log, witness, group and quorum")

    def _log(self, vkey: str) -> None:
        log = parse_vkey_untrusted(vkey)
        if any(log.public == other.public for other in self.logs):
            raise RemoteProtocolError("the log's key is there twice")
        self.logs.append(log)

    def _witness(self, name: str, vkey: str) -> None:
        self._require_free(name)
        witness = parse_cosigner_untrusted(vkey)
        if any(witness.public == other.public for other in self.witnesses.values()):
            raise RemoteProtocolError("the witness's key is there twice")
        self.witnesses[name] = witness

    def _group(self, name: str, threshold: str, members: tuple[str, ...]) -> None:
        self._require_free(name)
        for member in members:
            self._require_defined(member)
            if member in self._members:
                raise RemoteProtocolError("a member is in a group already")
            self._members.add(member)
        if threshold in ("all", "any"):
            least = len(members) if threshold == "all" else 1
        elif _THRESHOLD.fullmatch(threshold) and int(threshold) <= len(members):
            least = int(threshold)
        else:
            raise RemoteProtocolError("the threshold is not from 1 to the number of members")
        self.groups[name] = Group(least, members)

    def _quorum(self, name: str) -> None:
        if self.quorum is not None:
            raise RemoteProtocolError("the quorum is there twice")
        if name != NONE:
            self._require_defined(name)
        self.quorum = name

    def _require_free(self, name: str) -> None:
        if name in _RESERVED or name in self.witnesses or name in self.groups:
            raise RemoteProtocolError("the name is taken")

    def _require_defined(self, name: str) -> None:
        if name not in self.witnesses and name not in self.groups:
            raise RemoteProtocolError("it names what no line before it defines")
