"""Two facilities with a relay between them, and the checks after any fault.

North has the studies and can be reached only through the relay; South only calls.
"""

import contextlib
import itertools
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facilities import Facility, free_port, wait_until
from relay import CONTROL_BYTES, FULL_BYTES, PREFACE_BYTES, Fault, Point, Relay, Way
from studies_made import contents, make_study

from keys.card import sign_card

NOTICED_SECONDS = 30.0
"""The longest that a peer which does not answer may go unnoticed."""

STARTED_AT_ONCE = 3

INSTANCES = 4
_ROWS = 1024
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Study:
    """A study at North, with as many batches as instances."""

    uid: str
    files: Path
    encoded_bytes: int
    batches: frozenset[str]
    """Names of its batches, which are their digests in hex."""


class Fetch:
    """A fetch that a person started at South, in a thread."""

    def __init__(self, south: Facility, north: Facility, study: str) -> None:
        self._result: dict[str, Any] = {}
        self._error: Exception | None = None
        self._south, self._north, self._study = south, north, study
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._result = self._south.call("fetch", study=self._study, peer=self._north.name)
        except Exception as error:
            self._error = error

    @property
    def is_over(self) -> bool:
        """Whether it has a result or an error."""
        return not self._thread.is_alive()

    def result(self, seconds: float = 60.0) -> dict[str, Any]:
        """The finished transfer; raises the error with which it ended."""
        self._thread.join(seconds)
        assert self.is_over, f"the fetch hangs: {transfer_of(self._south, self._study)}"
        if self._error is not None:
            raise self._error
        return self._result


def transfer_of(south: Facility, study: str) -> dict[str, Any]:
    """South's newest transfer of a study."""
    found: dict[str, Any] = next(
        (
            transfer
            for transfer in south.call("transfers")["transfers"]
            if transfer["study"] == study and transfer["direction"] == "in"
        ),
        {},
    )
    return found


class Between:
    """North, South, the relay, and a directory for their files."""

    def __init__(self, directory: Path, north: Facility, south: Facility, relay: Relay) -> None:
        self.directory = directory
        self.north = north
        self.south = south
        self.relay = relay

    # --- studies -----------------------------------------------------------------

    def make_study(self) -> Study:
        """A new study at North; it may not be announced yet."""
        number = next(_numbers)
        files = self.directory / f"in{number}"
        # All UIDs have the same length, so that the messages about them have the same size.
        uid = make_study(
            files, INSTANCES, study=f"1.2.826.0.1.3680043.8.498.{1000 + number}", rows=_ROWS,
            seed=number,
        )  # fmt: skip
        before = self._stored(self.north)
        self.north.call("ingest", paths=[str(files)])
        added = self._stored(self.north) - before
        return Study(uid, files, self._own(self.north, uid)["encoded_bytes"], frozenset(added))

    def announced_study(self) -> Study:
        """A new study at North that South knows of."""
        study = self.make_study()
        self.wait_announced(study)
        return study

    def wait_announced(self, study: Study) -> None:
        """Wait until South knows of a study."""
        wait_until(lambda: study.uid in self.south.announced(self.north), 30.0, "the announcement")

    def fetch(self, study: Study) -> Fetch:
        """Let South fetch a study."""
        return Fetch(self.south, self.north, study.uid)

    def interrupt(self, last_batch: Point) -> tuple[Study, Fetch]:
        """A fetch whose connection is cut when South has all batches but the last."""
        self.relay.lift()
        self.wait_connected()
        study = self.announced_study()
        self.relay.arm(Fault.FREEZE, last_batch)
        fetch = self.fetch(study)
        assert self.relay.struck.wait(20)
        wait_until(lambda: len(self.received(study)) == INSTANCES - 1, 10.0, "batches kept")
        self.relay.strike(Fault.CUT)
        wait_until(lambda: self.has_noticed(study), 10.0, "the cut noticed")
        return study, fetch

    def _stored(self, facility: Facility) -> set[str]:
        return {path.name for path in facility.home.store_path.glob("??/*")}

    def _own(self, facility: Facility, study: str) -> dict[str, Any]:
        for row in facility.call("studies")["studies"]:
            if row["study"] == study:
                found: dict[str, Any] = row
                return found
        return {}

    # --- what is seen --------------------------------------------------------------

    def is_connected(self) -> bool:
        """Whether South is connected to North, by its own account."""
        return bool(self.south.peer(self.north)["connected"])

    def wait_connected(self) -> None:
        """Wait until South is connected; asks it to dial now."""
        self.call_again()
        wait_until(self.is_connected, 30.0, "a connection")

    def call_again(self) -> None:
        """Let South dial now instead of after its pause, by a change of trust."""
        self.south.call("trust.grant", peer=self.north.name, grants=["see"])

    def kept(self, study: Study) -> int:
        """Bytes of the study's batches that South has verified; call this while it waits."""
        row = self._own(self.south, study.uid)
        if row:
            assert row["instances"] == INSTANCES, "a part of a study in the catalog"
            return study.encoded_bytes
        return sum(path.stat().st_size for path in self.received(study))

    def kept_on_disk(self, study: Study) -> int:
        """Like `kept`, while South does not run: the whole batches on its disk."""
        stored = [
            path for path in self.south.home.store_path.glob("??/*") if path.name in study.batches
        ]
        return sum(path.stat().st_size for path in (*self.received(study), *stored))

    def received(self, study: Study) -> list[Path]:
        """Files of the study's batches that wait at South, oldest first."""
        found = [
            path for path in self.south.home.incoming_path.iterdir() if path.name in study.batches
        ]
        return sorted(found, key=lambda path: path.stat().st_mtime_ns)

    def has_noticed(self, study: Study) -> bool:
        """Whether both sides know of the fault, and neither is still working."""
        if self.is_connected() or self.is_sending():
            return False
        transfer = self.transfer(study)
        if transfer.get("state", "waiting") not in ("waiting", "complete"):
            return False
        assert transfer.get("why", "?") or transfer["state"] == "complete", "no word on it"
        return True

    def transfer(self, study: Study) -> dict[str, Any]:
        """South's newest transfer of a study, or nothing."""
        return transfer_of(self.south, study.uid)

    def is_sending(self) -> bool:
        """Whether North still has a transfer to South in progress."""
        return any(
            transfer["ended"] is None
            for transfer in self.north.call("transfers")["transfers"]
            if transfer["peer"] == self.south.name
        )

    # --- what must hold --------------------------------------------------------------

    def check_whole(
        self, study: Study, result: dict[str, Any], kept: int | None, *, crashes: int = 0
    ) -> None:
        """Check that South has the same study, nothing was sent twice, and both logs agree.

        Args:
            study: the study.
            result: the result of the fetch.
            kept: encoded bytes that South had verified before the last session; None
                if there was only one session.
            crashes: number of crashes of North; each may leave a disclosure without its end.
        """
        assert result["state"] == "complete"
        assert result["bytes_done"] == result["bytes"]
        last = wait_until(
            lambda: [
                entry["details"]
                for entry in self.north.entries("disclosed")
                if entry["details"]["transfer"] == result["transfer"]
            ],
            NOTICED_SECONDS,
            "North logs the disclosure",
        )[-1]
        sent = {study.encoded_bytes - (kept or 0)}
        if kept == study.encoded_bytes:
            # Everything arrived before the fault, so no other session was needed.
            sent.add(study.encoded_bytes)
        assert last["encoded_bytes"] in sent
        assert self._own(self.south, study.uid)["instances"] == INSTANCES
        assert not self.received(study)
        out = self.directory / f"out-{study.uid}"
        self.south.call("export", study=study.uid, directory=str(out))
        assert contents(out) == contents(study.files)
        self.check_books(study, result["transfer"], crashes)

    def check_books(self, study: Study, transfer: str, crashes: int) -> None:
        """Check that every begun disclosure has its end, and that both logs are sound."""

        def entries(facility: Facility, kind: str) -> list[dict[str, Any]]:
            return [
                entry
                for entry in facility.entries(kind)
                if entry["details"].get("transfer") == transfer
            ]

        def closed() -> bool:
            begun = len(entries(self.north, "disclosure-begun"))
            ends = ("disclosed", "disclosure-failed")
            # A late confirmation is an entry besides the session's own end.
            ended = sum(
                not entry["details"].get("late")
                for kind in ends
                for entry in entries(self.north, kind)
            )
            return ended <= begun <= ended + crashes

        wait_until(closed, NOTICED_SECONDS, "North's books on the transfer closed")
        assert {"kind": "study", "value": study.uid} in entries(self.north, "disclosed")[-1][
            "opened"
        ]
        # If the countersignature was cut off, the receipt is settled on another stream.
        wait_until(lambda: entries(self.south, "receipt"), NOTICED_SECONDS, "South's receipt")
        receipts = {entry["details"]["receipt"] for entry in entries(self.south, "receipt")}
        assert receipts <= {entry["details"]["receipt"] for entry in entries(self.north, "receipt")}
        assert receipts
        assert len(entries(self.south, "received")) >= 1
        wait_until(lambda: not self.is_sending(), NOTICED_SECONDS, "North's end of sending")
        for facility in (self.north, self.south):
            facility.check_log(self.directory, f"{facility.home.path.name}-{study.uid}")
            assert "Traceback" not in facility.stderr()


@contextlib.contextmanager
def relayed(
    directory: Path,
    souths: int = 1,
    *,
    north_at: Path | None = None,
    south_at: Path | None = None,
) -> Iterator[list[Between]]:
    """One North and some Souths, each with its own relay to North; connected.

    Args:
        directory: the folder for all their files.
        souths: number of Souths.
        north_at: another folder for North's home.
        south_at: another folder for the homes of the Souths.
    """
    port = free_port()
    relays = [Relay(port) for _ in range(souths)]
    north = Facility(north_at or directory, "North General", port=port, address=relays[0].address)
    names = [f"South{number or ''} Clinic" for number in range(souths)]
    both = [Facility(south_at or directory, name, only_calls=True) for name in names]
    keys, card = north.home.read_keys(), north.home.read_card()
    assert keys.facility is not None
    for number, (south, relay) in enumerate(zip(both, relays, strict=True)):
        north.trust(south, "see", "fetch")
        # The other Souths get a later card, with the relay's address, which North does not have.
        own = sign_card(
            keys.facility,
            name=card.name,
            node_keys=card.node_keys,
            log_keys=card.log_keys,
            witness_keys=card.witness_keys,
            addresses=(relay.address,),
            serial=card.serial + number,
            issued=card.issued,
            expires=card.expires,
        )
        south.trust_card(card if number == 0 else own, north.name)
    try:
        everybody = [north, *both]
        for first in range(0, len(everybody), STARTED_AT_ONCE):
            some = everybody[first : first + STARTED_AT_ONCE]
            for facility in some:
                facility.launch()
            for facility in some:
                facility.wait_started()
        pairs = [
            Between(directory, north, south, relay)
            for south, relay in zip(both, relays, strict=True)
        ]
        for pair in pairs:
            wait_until(pair.is_connected, 30.0, "South connects to North")
        yield pairs
    finally:
        for facility in (north, *both):
            if facility.process is not None:
                facility.kill()
        for relay in relays:
            relay.close()


def find_points(pair: Between) -> dict[str, Point]:
    """The point of each phase of a connection and a transfer, from a run without faults.

    The point of a phase is in the middle of its message, so that a part of the message
    arrives; "verifying" is right after the last message.
    """
    pair.relay.strike(Fault.CUT)
    wait_until(lambda: not pair.is_connected(), 10.0, "the cut noticed")
    pair.relay.forget()
    pair.relay.lift()
    pair.wait_connected()
    greeting = wait_until(lambda: _first(pair.relay, Way.DOWN, 600), 10.0, "a hello")
    noise = _first(pair.relay, Way.DOWN, CONTROL_BYTES + 70)
    wait_until(lambda: len(_all(pair.relay, Way.UP, 600)) > 1, 10.0, "an answer to a hello")
    # A new subscription is first answered with the existing studies.
    first = pair.announced_study()
    pair.relay.forget()
    study = pair.announced_study()
    announcement = _first(pair.relay, Way.DOWN, 200)
    pair.relay.forget()
    result = pair.fetch(study).result()
    pair.check_whole(study, result, None)
    assert pair.fetch(first).result()["state"] == "complete"
    return _points(pair.relay.seen, noise, greeting, announcement)


def _points(
    seen: list[tuple[Way, int]], noise: int, greeting: int, announcement: int
) -> dict[str, Point]:
    ups = [size for way, size in seen if way is Way.UP and size > CONTROL_BYTES]
    downs = [size for way, size in seen if way is Way.DOWN and size > CONTROL_BYTES]
    offer_at = next(index for index, size in enumerate(downs) if size > 200)
    offer, manifest = downs[offer_at : offer_at + 2]
    request_at = next(index for index, size in enumerate(ups) if size > 200)
    request, want = ups[request_at : request_at + 2]
    receipt = next(size for size in ups[request_at + 1 :] if size > 200)
    blocks = downs.count(FULL_BYTES) // 2
    last_block = len(downs) - downs[::-1].index(FULL_BYTES)
    end, countersignature = [size for size in downs[last_block:] if size < 200][:2]
    return {
        "connecting": Point(Way.UP, PREFACE_BYTES, 1, 10),
        "handshake": Point(Way.DOWN, noise, 1, noise // 2),
        "hello": Point(Way.DOWN, greeting, 1, greeting // 2, slack=4),
        "announcement": Point(Way.DOWN, announcement, 1, announcement // 2, slack=4),
        "request": Point(Way.UP, request, 1, request // 2, slack=4),
        "offer": Point(Way.DOWN, offer, 1, offer // 2, slack=4),
        "manifest": Point(Way.DOWN, manifest, 1, manifest // 2, slack=40),
        "want": Point(Way.UP, want, 1, want // 2),
        "first-batch": Point(Way.DOWN, FULL_BYTES, 2, FULL_BYTES // 2),
        "middle-batch": Point(Way.DOWN, FULL_BYTES, blocks // 2, FULL_BYTES // 2),
        "last-batch": Point(Way.DOWN, FULL_BYTES, blocks, FULL_BYTES // 2),
        "end": Point(Way.DOWN, end, 1, end // 2, after_full=blocks // 2),
        "verifying": Point(Way.DOWN, end, 1, end, after_full=blocks // 2),
        "receipt": Point(Way.UP, receipt, 1, receipt // 2, slack=4),
        "countersignature": Point(
            Way.DOWN, countersignature, 1, countersignature // 2, after_full=blocks // 2
        ),
    }


def _all(relay: Relay, way: Way, least: int) -> list[int]:
    return [size for seen, size in relay.seen if seen is way and size >= least]


def _first(relay: Relay, way: Way, least: int) -> int:
    return next(iter(_all(relay, way, least)), 0)
