"""What a verdict does not cover, in sentences for the auditor, and who cosigned."""

from collections.abc import Iterable, Iterator, Sequence

from protocol.verify.entries import Entry
from protocol.verify.evidence import Evidence, Openings, Receipts
from protocol.verify.losses import ALERTS
from protocol.verify.policy import Policy, PolicyProblem, parse_policy
from protocol.verify.stored import Statements
from protocol.verify.stream import EntryStream
from protocol.verify.witnesses import Cosigned, Witnesses

_WITNESSES_SHOWN = 20
_REVOCATIONS_SHOWN = 20


def policy_words(data: bytes) -> str:
    """What the bundle's policy requires; the log's own facility wrote that policy."""
    try:
        return parse_policy(data).words
    except PolicyProblem as problem:
        return f"nothing that can be read ({problem})"


def witness_words(cosigned: Iterable[Cosigned]) -> tuple[str, ...]:
    """Sentences about cosignatures by witnesses that the auditor knows."""
    shown = [each for each in cosigned if each.witness.trusted]
    return tuple(
        f"{each.witness.label} saw {each.size:,} entries at {each.moment}"
        for each in shown[:_WITNESSES_SHOWN]
    )


def outside_notes(evidence: Evidence, policies: Sequence[Policy]) -> Iterator[str]:
    """Notes about what no bundle can prove by itself."""
    asks = any(policy.quorum for policy in policies)
    if not evidence.pins and not evidence.checkpoints and not asks:
        yield (
            "somebody who holds the log key can write the whole log anew; only something "
            "from outside shows that: an earlier size and root (--pin), a checkpoint from "
            "another facility (--checkpoint), receipts from its peers (--receipt), "
            "cosignatures of witnesses that you know (--policy, --quorum)"
        )
    yield (
        "an act that the node never logged is not in the log; receipts at the other "
        "facility show exchanges that are missing here"
    )
    yield "the times are those of the node's own clock"
    yield "whether a newer card exists that takes back a key is not known; ask the facility"


def loss_notes(evidence: Evidence, stream: EntryStream, told: Sequence[int]) -> Iterator[str]:
    """The limits of judging a log with losses only from a later entry on.

    Args:
        evidence: the auditor's own evidence.
        stream: the entries, already read.
        told: indexes of the entries that report a loss.
    """
    if evidence.since is None or not told:
        return
    if stream.since is None or stream.since >= stream.tree.size:
        yield f"the log holds no entry since {evidence.since} that could be judged apart"
    elif max(told) >= stream.since:
        yield (
            f"entry {max(told)}, which tells of a loss, is not before entry {stream.since}, from "
            "which on you asked to judge the log"
        )
    else:
        yield (
            f"that the log was whole before entry {stream.since}; entries that it lost are not "
            "in it"
        )


def alert_notes(entry: Entry, origin: str) -> Iterator[str]:
    """What a proven entry reports about its own log."""
    details = entry.fields["details"]
    if entry.type in ALERTS and details.get("origin") == origin:
        yield (
            "by this entry the log had been signed with "
            f"{details.get('size', 'other')} entries ({details.get('root', 'not said')}); whether "
            "they are in it only the whole log shows"
        )


def witness_notes(
    policies: Sequence[Policy], witnesses: Witnesses, own_policy: str
) -> Iterator[str]:
    """Cosignatures that are present but do not count."""
    unnamed = {each.witness for each in witnesses.cosigned if not each.witness.trusted}
    if unnamed:
        yield (
            "cosignatures by facilities whose cards are in the bundle only, which prove "
            "nothing until you compare fingerprints and name them (--witness-card): "
            + ", ".join(sorted({f"{each.label} ({_fingerprint(each.name)})" for each in unnamed}))
        )
    if witnesses.unknown:
        yield f"cosignatures by keys that are not known, not checked: {witnesses.unknown:,}"
    if own_policy and not policies:
        yield (
            f"the facility's own policy asks for {own_policy}; whether that is enough is for "
            "you to say (--policy, or --quorum and --witness-card)"
        )


def _fingerprint(name: str) -> str:
    return name.rpartition("/")[2]


def side_notes(openings: Openings, receipts: Receipts, stored: Statements) -> Iterator[str]:
    """Openings, receipts and statements that are missing, or only half checked."""
    if openings.opened < openings.commitments:
        yield (
            f"of {openings.commitments:,} studies and patients, "
            f"{openings.commitments - openings.opened:,} named by commitments only; without "
            "their openings the log does not say who or what they are"
        )
    if receipts.held < receipts.named:
        yield (
            f"of {receipts.named:,} receipts named in the log, "
            f"{receipts.named - receipts.held:,} not in the bundle"
        )
    if receipts.half_checked:
        yield (
            "receipts signed at the other side by a key that was not compared with that "
            f"facility's card (--peer-card): {receipts.half_checked:,}"
        )
    if stored.held < stored.named:
        yield (
            f"of {stored.named:,} statements that a study is stored, "
            f"{stored.named - stored.held:,} not in the bundle"
        )
    if stored.half_checked:
        yield (
            "statements that a study is stored, signed by a key that was not compared with that "
            f"facility's card (--peer-card): {stored.half_checked:,}"
        )
    if stored.held:
        yield (
            "that a study is stored in an archive is what its recipient says; nobody else proves it"
        )


def file_notes(stream: EntryStream, unknown_files: int) -> Iterator[str]:
    """Revoked log keys, and files of the bundle with harmless errors or unknown names."""
    for index, size in stream.chain.taken_back[:_REVOCATIONS_SHOWN]:
        yield (
            f"by entry {index} the facility key took back the log key from size {size:,} on: "
            "what that key signed beyond does not count, and whether this log holds it is not told"
        )
    wrong = None
    if stream.first_difference is not None:
        wrong = f"wrong from entry {stream.first_difference} on"
    elif stream.leaves_end_early:
        wrong = "not whole"
    if wrong is not None and not stream.findings:
        yield (
            f"the file `leaves` of the bundle is {wrong}; it is an aid for finding errors, and "
            "nothing depends on it"
        )
    if unknown_files:
        yield (
            "files of the bundle that this version does not know and did not look at: "
            f"{unknown_files:,}"
        )
