"""Which witnesses must have cosigned: policies that an auditor brings along.

Format: <https://c2sp.org/tlog-policy>. A policy may also be made of facility cards
and a number, for auditors who compared fingerprints and have no policy file.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from protocol.verify.note import COSIGNED, SIGNED, NamedKey, NoteProblem, parse_vkey

POLICY_BYTES = 100_000
_ENTRIES = 1000
"""Most lines that define something; the specification requires support for 32 of each kind."""


class PolicyProblem(Exception):
    """A text is not a valid policy; the message says where and why."""


@dataclass(frozen=True)
class Group:
    """Holds when at least `least` of its members do."""

    least: int
    members: tuple[str, ...]


@dataclass(frozen=True)
class Policy:
    """A witness policy.

    Attributes:
        quorum: name of the witness or group that must hold; "" if none is needed.
        witnesses: name within the policy to the key of the witness.
        groups: name to group; a group refers only to names defined before it.
        logs: keys that may sign the log; if empty, any key may.
    """

    quorum: str
    witnesses: Mapping[str, NamedKey]
    groups: Mapping[str, Group]
    logs: tuple[NamedKey, ...] = ()

    def holds(self, cosigned: Set[str]) -> bool:
        """Whether cosignatures of these witnesses, by their names in the policy, are enough."""
        held = set(cosigned)
        for name, group in self.groups.items():
            if sum(member in held for member in group.members) >= group.least:
                held.add(name)
        return not self.quorum or self.quorum in held

    @property
    def words(self) -> str:
        """The requirement in words for people: "2 of 3 witnesses"."""
        if not self.quorum:
            return "no witness"
        group = self.groups.get(self.quorum)
        if group is None:
            return f"the witness {self.quorum}"
        what = "witnesses" if all(map(self._is_one, group.members)) else "groups and witnesses"
        return f"{group.least} of {len(group.members)} {what}"

    def _is_one(self, name: str) -> bool:
        """Whether a member is one witness, possibly with several keys."""
        if name in self.witnesses:
            return True
        group = self.groups[name]
        keys = [self.witnesses.get(member) for member in group.members]
        return group.least == 1 and len({key and key.name for key in keys}) < 2


def any_of(least: int, witnesses: Mapping[str, Sequence[NamedKey]]) -> Policy:
    """The policy that at least `least` of some witnesses cosigned.

    Args:
        least: how many witnesses must have cosigned.
        witnesses: name to keys, for each witness; one of its keys is enough.

    Raises:
        PolicyProblem: there are fewer than `least` witnesses, or two share a key, which
            would count twice.
    """
    publics = [key.public for listed in witnesses.values() for key in listed]
    if len(set(publics)) != len(publics):
        raise PolicyProblem("two of the witnesses have the same key, or one is named twice")
    if not 1 <= least <= len(witnesses):
        raise PolicyProblem(
            f"a quorum of {least} is not possible; witnesses named: {len(witnesses)}"
        )
    keys: dict[str, NamedKey] = {}
    groups: dict[str, Group] = {}
    for name, listed in witnesses.items():
        # These names cannot collide with a witness's name, whatever its card says.
        numbered = {f"key {number} of {name}": key for number, key in enumerate(listed, 1)}
        keys.update(numbered)
        groups[name] = Group(1, tuple(numbered))
    groups["the witnesses given"] = Group(least, tuple(witnesses))
    return Policy("the witnesses given", keys, groups)


def parse_policy(data: bytes) -> Policy:
    """Read a policy file.

    Raises:
        PolicyProblem: not a policy.
    """
    if len(data) > POLICY_BYTES or any(byte < 32 and byte not in b"\t\n" for byte in data):
        raise PolicyProblem("the policy is too long or holds control characters")
    reader = _Reader()
    # A policy gives no meaning to octets above 127.
    for number, line in enumerate(data.decode("utf-8", "surrogateescape").split("\n"), 1):
        words = line.replace("\t", " ").split(" ")
        words = [word for word in words if word]
        if not words or words[0].startswith("#"):
            continue
        try:
            reader.take(words)
        except (NoteProblem, PolicyProblem, ValueError) as problem:
            raise PolicyProblem(f"line {number} of the policy {problem}") from None
    if reader.quorum is None:
        raise PolicyProblem("the policy has no quorum")
    return Policy(reader.quorum, reader.witnesses, reader.groups, tuple(reader.logs))


class _Reader:
    def __init__(self) -> None:
        self.logs: list[NamedKey] = []
        self.witnesses: dict[str, NamedKey] = {}
        self.groups: dict[str, Group] = {}
        self.quorum: str | None = None
        self._publics: set[tuple[str, bytes]] = set()
        self._members: set[str] = set()

    def take(self, words: list[str]) -> None:
        if len(self.logs) + len(self.witnesses) + len(self.groups) >= _ENTRIES:
            raise PolicyProblem(f"is one too many; {_ENTRIES} are the most")
        match words:
            case ["log", vkey] | ["log", vkey, _]:
                self.logs.append(self._key("log", vkey, (SIGNED,)))
            case ["witness", name, vkey] | ["witness", name, vkey, _]:
                # Older tools write a witness key with the type of an ordinary signer key.
                key = self._key("witness", vkey, (COSIGNED, SIGNED))
                self.witnesses[self._new(name)] = key
            case ["group", name, least, *members] if members:
                self.groups[self._new(name)] = self._group(least, members)
            case ["quorum", name] if self.quorum is None:
                if name != "none":
                    self._require(name)
                self.quorum = "" if name == "none" else name
            case _:
                raise PolicyProblem("is none that policies have, or is there twice")

    def _key(self, kind: str, vkey: str, types: tuple[int, ...]) -> NamedKey:
        key = parse_vkey(vkey, types)
        if (kind, key.public) in self._publics:
            raise PolicyProblem("names a key that was named before")
        self._publics.add((kind, key.public))
        return key

    def _new(self, name: str) -> str:
        if name in ("none", "all", "any") or name in self.witnesses or name in self.groups:
            raise PolicyProblem("gives a name that is taken")
        return name

    def _require(self, name: str) -> None:
        if name not in self.witnesses and name not in self.groups:
            raise PolicyProblem("names a witness or group that was not defined before")

    def _group(self, least: str, members: list[str]) -> Group:
        for member in members:
            self._require(member)
        # A name may be in one group only, or one witness could count twice for a quorum.
        if len(set(members)) != len(members) or self._members & set(members):
            raise PolicyProblem("names a member twice, or one of another group")
        self._members.update(members)
        words = {"any": "1", "all": str(len(members))}
        text = words.get(least, least)
        if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= len(members):
            raise PolicyProblem("has a threshold that its members cannot reach")
        return Group(int(text), tuple(members))
