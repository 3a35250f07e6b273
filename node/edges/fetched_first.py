"""Brings a study of another facility here when a caller asks for what is in it."""

from collections.abc import Mapping
from typing import Protocol

import trio

from edges.dimse import querying as q
from edges.dimse.commands import Element
from edges.matching import matcher
from keys.trust import Peer
from node.blocking import in_thread
from node.edges.dimse_operation import Operation
from node.edges.query_studies import Scope, StudyQueries
from node.edges.query_values import SeenStudy
from node.edges.told import CallersLately
from node.errors import NodeError

_HIGH = 1
"""(0000,0700) of an urgent request."""


class Fetch(Protocol):
    """Fetches a study, as `node.transfer.awaited` does."""

    async def __call__(
        self,
        study: str,
        peer: Peer,
        purpose: str,
        cancelled: trio.Event,
        /,
        *,
        only_peer: bool,
        stat: bool,
    ) -> str:
        """Fetch it; returns why it is not here, or ""."""


class FetchedFirst:
    """Fetches for callers.

    Args:
        studies: tells what is meant.
        told: tells how much a caller may have had of others.
        fetch: see `Fetch`.
    """

    def __init__(self, studies: StudyQueries, told: CallersLately, fetch: Fetch) -> None:
        self._studies = studies
        self._told = told
        self._fetch = fetch

    async def bring(
        self, operation: Operation, keys: Mapping[int, str], scope: Scope, one: SeenStudy
    ) -> str:
        """Have a study here that is at another facility; returns why it is not, or "".

        Also "" when the caller wants it no more.

        Args:
            operation: what the caller asks.
            keys: of its identifier.
            scope: what its door lets see.
            one: the study.
        """
        peers = {peer.facility_key: peer for peer in scope.peers}
        try:
            # Others may have got much since all this was asked for.
            await in_thread(self._told.require_room, operation.caller, [one.study])
            why = await self._fetched(operation, one.study, peers[one.holder])
        except NodeError as error:
            why = error.message
        if operation.is_cancelled or why:
            return "" if operation.is_cancelled else why
        if not await in_thread(self._is_meant, keys, scope, one.study):
            # What a partner announces need not say whose it is.
            return "what is here now is not what was asked for"
        return ""

    def _is_meant(self, keys: Mapping[int, str], scope: Scope, study: str) -> bool:
        """Whether a study that came is of the patient who was named, and behind this door."""
        fits = matcher("LO", keys.get(q.PATIENT_ID, ""))
        return any(
            one.is_here and (not one.values[q.PATIENT_ID] or fits(one.values[q.PATIENT_ID]))
            for page in self._studies.studies({q.STUDY: study}, scope)
            for one in page
        )

    async def _fetched(self, operation: Operation, study: str, peer: Peer) -> str:
        door, priority = operation.door, operation.command.values.get(Element.PRIORITY)
        return await self._fetch(
            study,
            peer,
            operation.caller.purpose,
            operation.cancelled,
            only_peer=bool(door.to),
            stat=door.stat or priority == _HIGH,
        )
