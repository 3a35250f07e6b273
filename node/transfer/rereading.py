"""Reading studies again for which an earlier release took the patient from one image only.

Runs beside everything else, a batch at a time, and goes on after a restart. An entry of its own
then logs every patient that the images name, so that earlier disclosures are found under each of
them.
"""

import logging
from collections.abc import Callable

import trio

from node.audit.effects import once
from node.blocking import in_thread
from node.catalog.catalog import Catalog
from node.errors import NodeError
from node.images.store import BatchStore
from node.images.workspaces import Workspaces
from node.transfer.checking import StudyCheck
from protocol.errors import RemoteProtocolError
from protocol.log.entry import Event, subjects_of

log = logging.getLogger("radmesh.rereading")


class Rereading:
    """Reads what `Catalog.unread` lists.

    Args:
        catalog: what there is.
        store: holds the batches.
        append: writes one audit entry durably (synchronous).
    """

    def __init__(self, catalog: Catalog, store: BatchStore, append: Callable[[Event], int]) -> None:
        self._catalog = catalog
        self._store = store
        self._append = append
        self._workspaces = Workspaces()
        # One thread at most, apart from those that other work waits for.
        self._limiter = trio.CapacityLimiter(1)
        self._wanted = trio.Event()

    def poke(self) -> None:
        """There may be a study to read again."""
        self._wanted.set()

    async def run(self) -> None:
        """Read the listed studies, and new ones after each `poke`, for ever."""
        failed: set[str] = set()
        while True:
            self._wanted = trio.Event()
            for study in await in_thread(self._catalog.unread):
                if study in failed:
                    continue
                try:
                    while not await self.read(study):
                        pass
                except NodeError as error:
                    # It is tried again after a restart; the error says what to do.
                    failed.add(study)
                    log.warning("a study cannot be read again: %s", error.message)
            await self._wanted.wait()

    async def read(self, study: str) -> bool:
        """Read one study (UID); False when it has changed meanwhile.

        Raises:
            NodeError: a batch of it is missing or damaged, or the disk is full.
        """
        row = await in_thread(self._catalog.study, study, limiter=self._limiter)
        check, is_whole = None, True
        if row is not None:
            manifest = await in_thread(self._catalog.manifest, study, limiter=self._limiter)
            check = StudyCheck(manifest, range(len(manifest.batches)))
            for index, batch in enumerate(manifest.batches):
                began = trio.current_time()
                is_whole &= await in_thread(
                    self._check, check, index, batch.digest, limiter=self._limiter
                )
                # Leave half of the time to work that people wait for.
                await trio.sleep(trio.current_time() - began)
            is_whole &= await in_thread(self._check_rest, check, limiter=self._limiter)
        entry_of = once(self._append)
        return await in_thread(
            self._catalog.read_again,
            study,
            check.described if check is not None else None,
            row.revision if row is not None else 0,
            is_whole,
            lambda: entry_of(self._event(study)),
            limiter=self._limiter,
        )

    def _check(self, check: StudyCheck, index: int, digest: bytes) -> bool:
        encoded = self._store.read(digest)
        try:
            with self._workspaces.borrowed() as workspace:
                check.check(index, encoded, workspace)
        except RemoteProtocolError:
            # An earlier release took the study, with fewer checks.
            return False
        return True

    def _check_rest(self, check: StudyCheck) -> bool:
        try:
            check.check_rest(self._store)
        except RemoteProtocolError:
            return False
        return True

    def _event(self, study: str) -> Event:
        """The entry, in the transaction that makes it true."""
        row = self._catalog.study(study)
        assert row is not None
        details: dict[str, str | int | bool] = {
            "instances": 0,
            "bytes": 0,
            "batches": 0,
            "content_root": row.content_root.hex(),
        }
        if row.to_check and row.state != "shared":
            details["to_check"] = row.to_check
        subjects = subjects_of(study, self._catalog.patients(study))
        return Event(type="ingest", actor="node", subjects=subjects, details=details)
