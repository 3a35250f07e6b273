"""Two nodes compare their logs: both find the same, sign it and log it; a lie is found out."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import pytest
import trio
from settling_made import Site, settle, two_sites

from keys.canonical import canonical_json
from node.errors import ExitCode, NodeError
from node.receipts.reconciling import SESSIONS_PER_PEER, Reconciled
from protocol import limits
from protocol.errors import RemoteProtocolError, WireCode
from protocol.log.entry import Event
from protocol.messages import Countersignature
from protocol.reconcile import Class
from protocol.reconcile_messages import (
    AskExchanges,
    Exchanges,
    PresentResult,
    ProvenEntry,
    check_result_signature,
    decode_result_untrusted,
)


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[tuple[Site, Site]]:
    both = two_sites(tmp_path)
    yield both
    for site in both:
        site.close()


def transfer_id(number: int) -> str:
    return f"{number:032x}"


def whole(source: Site, recipient: Site, number: int) -> None:
    name = transfer_id(number)
    recipient.log("requested", transfer=name, direction="in")
    source.log("disclosure-begun", transfer=name, direction="out")
    recipient.log("received", transfer=name)
    source.log("disclosed", transfer=name, direction="out")
    source.log("receipt", transfer=name, direction="out", receipt=f"{number:064x}")
    recipient.log("receipt", transfer=name, receipt=f"{number:064x}")


def run(site: Site, **options: Any) -> Reconciled:
    async def main() -> Reconciled:
        with trio.fail_after(20):
            return await site.reconciling.run(site.other.peer, **options)

    return trio.run(main)


def check_signed(asker: Site, asked: Site, done: Reconciled) -> None:
    """Both keep the same result, signed by both, and name it in their logs."""
    signed = msgpack.unpackb(done.signed)
    result = decode_result_untrusted(signed["body"])
    check_result_signature(signed["body"], signed["signature_a"], asker.node.public)
    check_result_signature(signed["body"], signed["signature_b"], asked.node.public)
    assert (result.facility_a, result.facility_b) == (asker.facility.public, asked.facility.public)
    assert (result.root_a, result.root_b) == (
        asker.audit.root_at(result.size_a),
        asked.audit.root_at(result.size_b),
    )
    for site, side in ((asker, "a"), (asked, "b")):
        [entry] = site.entries("reconciled")
        assert site.audit.receipt(done.digest) == done.signed
        assert (entry.details["result"], entry.details["side"]) == (done.digest, side)
        assert (entry.peer, entry.outcome) == (site.other_key, "success")
        assert entry.details["disclosures"] == len(done.comparison.findings)
        assert entry.details["grace_seconds"] == result.grace_seconds
        assert entry.details["only_a"] == done.comparison.counts[Class.ONLY_A]


def test_logs_that_agree(sites: tuple[Site, Site]) -> None:
    north, south = sites
    for number in range(3):
        whole(north, south, number)
    whole(south, north, 0)
    done = run(south)
    assert done.comparison.counts[Class.MATCHED] == len(done.comparison.findings) == 4
    assert (done.listed_a.entries, done.listed_b.entries) == (12, 12)
    check_signed(south, north, done)


def test_an_entry_that_only_one_has_is_named_by_both(sites: tuple[Site, Site]) -> None:
    north, south = sites
    whole(north, south, 1)
    north.log("disclosure-begun", transfer=transfer_id(2), direction="out")
    south.log("received", transfer=transfer_id(3))
    done = run(north, grace_seconds=0)
    assert [(one.kind, one.transfer) for one in done.comparison.named()] == [
        (Class.ONLY_A, transfer_id(2)),
        (Class.ONLY_B, transfer_id(3)),
    ]
    check_signed(north, south, done)


def test_what_is_new_is_not_yet_missing(sites: tuple[Site, Site]) -> None:
    north, south = sites
    north.log("disclosure-begun", direction="out")
    assert [one.kind for one in run(south).comparison.findings] == [Class.NOT_YET]


def test_a_list_of_many_parts(sites: tuple[Site, Site], monkeypatch: pytest.MonkeyPatch) -> None:
    north, south = sites
    for number in range(12):
        whole(north, south, number)
    monkeypatch.setattr(limits, "EXCHANGES_ENTRIES", 7)
    done = run(south)
    assert done.comparison.counts[Class.MATCHED] == 12
    assert south.direct.asked == ["ask-exchanges"] * 6 + ["present-result"]
    assert north.direct.asked == ["ask-exchanges"] * 6


def test_large_entries_make_smaller_parts(sites: tuple[Site, Site]) -> None:
    north, south = sites
    for number in range(20):
        north.log(
            "disclosure-begun", transfer=transfer_id(number), direction="out", why="x" * 60_000
        )
    assert len(run(south).comparison.findings) == 20
    assert south.direct.asked.count("ask-exchanges") == 3


def test_nothing_about_others_is_listed(sites: tuple[Site, Site]) -> None:
    north, south = sites
    whole(north, south, 1)
    details = {"transfer": transfer_id(9), "direction": "out"}
    for peer in (b"o" * 32, b""):
        north.audit.append(Event(type="disclosure-begun", peer=peer, details=details))
    north.audit.append(Event(type="trust-granted", peer=south.facility.public))
    seen: list[bytes] = []
    honest = north.answers[AskExchanges]

    async def watch(peer: Any, request: Any) -> Any:
        part = await honest(peer, request)
        assert isinstance(part, Exchanges)
        seen.extend(one.entry for one in part.entries)
        return part

    north.answers[AskExchanges] = watch
    run(south)
    assert len(seen) == 3
    assert all(south.facility.public.hex().encode() in entry for entry in seen)


def test_it_can_be_done_again_and_both_ways(sites: tuple[Site, Site]) -> None:
    north, south = sites
    whole(north, south, 1)
    first, second, third = run(south), run(south), run(north)
    assert len({first.digest, second.digest, third.digest}) == 3
    assert len(north.entries("reconciled")) == len(south.entries("reconciled")) == 3


def test_what_was_pending_is_settled_and_then_matched(sites: tuple[Site, Site]) -> None:
    north, south = sites
    north.log("disclosure-begun", direction="out")
    south.log("received")
    [before] = run(south, grace_seconds=0).comparison.findings
    assert (before.kind, before.fields) == (Class.MISMATCH, ("receipt",))
    settle(south)
    [after] = run(south, grace_seconds=0).comparison.findings
    assert after.kind is Class.MATCHED


# --- lies -------------------------------------------------------------------------------------


def _change(part: Exchanges, **changes: Any) -> Exchanges:
    return replace(part, **changes)


def _of_another(part: Exchanges) -> Exchanges:
    first, *rest = part.entries
    entry = json.loads(first.entry)
    entry["peer"] = "ab" * 32
    made = canonical_json(entry)
    return replace(part, entries=(ProvenEntry(entry=made, proof=first.proof), *rest))


def _other_entry(part: Exchanges) -> Exchanges:
    first, *rest = part.entries
    entry = first.entry.replace(b'"instances":12', b'"instances":13')
    return replace(part, entries=(ProvenEntry(entry=entry, proof=first.proof), *rest))


@pytest.mark.parametrize(
    "lie",
    [
        _other_entry,
        lambda part: _change(part, entries=part.entries[::-1]),
        lambda part: _change(part, entries=(part.entries[0], *part.entries)),
        lambda part: _change(part, more=True, entries=()),
        lambda part: _of_another(part),
        lambda part: _change(part, time=part.time + 48 * 3_600_000),
        lambda part: _change(part, checkpoint=part.checkpoint.replace(b"\n\n", b"\nx\n\n")),
        lambda part: _change(part, checkpoint=b"none"),
        lambda part: _change(part, entries=(replace(part.entries[0], proof=()), *part.entries[1:])),
    ],
)
def test_a_list_that_does_not_hold_is_refused_and_logged(
    sites: tuple[Site, Site], lie: Callable[[Exchanges], Exchanges]
) -> None:
    north, south = sites
    whole(north, south, 1)
    _lie_about(north, lie)
    with pytest.raises(NodeError) as caught:
        run(south)
    assert caught.value.code is ExitCode.INTEGRITY
    [entry] = south.entries("reconciled")
    assert entry.outcome == "failed"
    assert not north.entries("reconciled")


def _lie_about(site: Site, lie: Callable[[Exchanges], Exchanges]) -> None:
    honest = site.answers[AskExchanges]

    async def answer(peer: Any, request: Any) -> Any:
        part = await honest(peer, request)
        assert isinstance(part, Exchanges)
        return lie(part)

    site.answers[AskExchanges] = answer


def test_a_side_that_hides_an_entry_signs_that_it_did_and_is_named(
    sites: tuple[Site, Site],
) -> None:
    """Leaving out is possible; then the other side's finding names it, or the results differ."""
    north, south = sites
    whole(north, south, 1)
    _lie_about(north, lambda part: replace(part, entries=()))
    with pytest.raises(NodeError) as caught:
        run(south, grace_seconds=0)
    # North itself compares its whole log and cannot find what South found of its list.
    assert caught.value.code is ExitCode.INTEGRITY
    assert "found something else" in caught.value.message
    assert [site.entries("reconciled")[-1].outcome for site in sites] == ["failed", "failed"]


def test_two_sizes_of_a_log_in_one_list_are_refused(
    sites: tuple[Site, Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    north, south = sites
    whole(north, south, 1)
    monkeypatch.setattr(limits, "EXCHANGES_ENTRIES", 2)
    times = iter(range(9))
    _lie_about(north, lambda part: replace(part, time=part.time + next(times)))
    with pytest.raises(NodeError, match="two sizes"):
        run(south)


def test_a_list_without_end_is_given_up(
    sites: tuple[Site, Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    north, south = sites
    whole(north, south, 1)
    monkeypatch.setattr(limits, "RECONCILE_ENTRIES", 2)
    with pytest.raises(NodeError, match="too long"):
        run(south)


def test_a_signature_that_does_not_hold_is_no_result(sites: tuple[Site, Site]) -> None:
    north, south = sites
    whole(north, south, 1)

    async def sign_wrong(peer: Any, request: Any) -> Any:
        return Countersignature(signature=bytes(64))

    north.answers[PresentResult] = sign_wrong
    with pytest.raises(NodeError) as caught:
        run(south)
    assert caught.value.code is ExitCode.INTEGRITY
    assert [entry.outcome for entry in south.entries("reconciled")] == ["failed"]


@pytest.mark.parametrize(
    ("body", "code"),
    [(b"", WireCode.BAD_SIGNATURE), (None, WireCode.NOT_AVAILABLE)],
)
def test_a_result_of_no_comparison_is_refused(
    sites: tuple[Site, Site], body: bytes | None, code: WireCode
) -> None:
    north, south = sites
    whole(north, south, 1)
    done = run(south)
    signed = msgpack.unpackb(done.signed)
    request = PresentResult(
        body=signed["body"] if body is None else body, signature=signed["signature_a"]
    )

    async def main() -> None:
        await north.answers[PresentResult](south.peer, request)

    with pytest.raises(RemoteProtocolError) as caught:
        trio.run(main)
    assert caught.value.code is code
    assert [entry.outcome for entry in north.entries("reconciled")] == ["success", "failed"]


def test_a_comparison_that_is_over_lists_nothing_more(sites: tuple[Site, Site]) -> None:
    north, south = sites

    async def main() -> None:
        with pytest.raises(RemoteProtocolError) as caught:
            await north.answers[AskExchanges](south.peer, AskExchanges(session=b"s" * 16, start=1))
        assert caught.value.code is WireCode.NOT_AVAILABLE
        for number in range(SESSIONS_PER_PEER + 3):
            await north.answers[AskExchanges](
                south.peer, AskExchanges(session=bytes([number]) * 16, start=0)
            )
        assert len(north.reconciling._pins[south.facility.public]) == SESSIONS_PER_PEER

    trio.run(main)


def test_one_comparison_of_a_peer_at_a_time(sites: tuple[Site, Site]) -> None:
    north, south = sites
    whole(north, south, 1)
    north.reconciling._comparing.add(south.facility.public)
    with pytest.raises(NodeError, match="busy"):
        run(south)
    assert not south.entries("reconciled")


@pytest.mark.parametrize("lost", ["request", "answer"])
def test_who_asks_and_then_does_not_answer_gets_no_signature(
    sites: tuple[Site, Site], lost: str
) -> None:
    """North cannot have South's list, so it signs nothing that it has not seen."""
    north, south = sites
    whole(north, south, 1)
    north.direct.lost = lost
    with pytest.raises(NodeError):
        run(south)
    assert not north.entries("reconciled")
    assert [entry.outcome for entry in south.entries("reconciled")] == ["failed"]


@pytest.mark.parametrize("lost", ["request", "answer"])
def test_a_peer_that_is_gone_has_no_result(sites: tuple[Site, Site], lost: str) -> None:
    north, south = sites
    whole(north, south, 1)
    south.direct.lost = lost
    with pytest.raises(NodeError) as caught:
        run(south)
    assert caught.value.code is ExitCode.UNREACHABLE
    assert not south.entries("reconciled")


def test_a_version_that_cannot_compare(sites: tuple[Site, Site]) -> None:
    north, south = sites

    async def unknown(peer: Any, request: Any) -> Any:
        raise RemoteProtocolError("the message type is unknown", WireCode.UNEXPECTED)

    north.answers[AskExchanges] = unknown
    with pytest.raises(NodeError, match="version"):
        run(south)
