"""Proofs of single entries of a log, as a second implementation writes them."""

from dataclasses import dataclass, field

import second_log as second
from bundles_made import FINGERPRINT

from protocol.verify import Evidence, verify_proof


@dataclass
class Made:
    """A proof under construction."""

    log: object
    index: int
    size: int
    note: str
    hashes: list
    extra: dict = field(default_factory=dict)

    def text(self):
        return second.tlog_proof(self.index, self.hashes, self.note, second.canonical(self.extra))


def prove(log, index, size=None):
    """The proof of an entry of a log at a size, by default its newest."""
    size = size or max(int(name.split("/")[1]) for name in log.checkpoints)
    extra = {
        "card": log.card.decode(),
        "entry": log.entries[index].decode(),
        "openings": [
            {
                "commitment": opening.commitment,
                "index": at,
                "kind": opening.kind,
                "salt": opening.salt.hex(),
                "value": opening.value,
            }
            for at, opening in log.openings
            if at == index
        ],
    }
    for at, receipt in log.receipts:
        if at == index:
            extra["receipt"] = second.base64_of(receipt)
    for at, stored in log.stored:
        if at == index:
            extra["stored"] = second.base64_of(stored)
    note = log.checkpoints[f"checkpoints/{size}"]
    return Made(log, index, size, note, second.path(index, log.entries[:size]), extra)


def check(proof, **evidence):
    """The verifier's verdict on a proof, with the auditor's own evidence."""
    data = proof if isinstance(proof, bytes) else proof.text().encode()
    return verify_proof(data, facility_fingerprint=FINGERPRINT, evidence=Evidence(**evidence))
