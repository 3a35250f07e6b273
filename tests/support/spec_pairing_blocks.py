"""The example of a pairing in docs/protocol.md section 9, from fixed codes, nonces and secrets."""

import hashlib
from dataclasses import dataclass

from pairing_made import CODE, Line, counted

from keys.card import Card, issue_card
from keys.identity import KeyPair
from keys.pake import Role
from protocol import limits, messages
from protocol.pairing import PairingExchange
from protocol.pairing_messages import PairAnswer, PairProof, PairStatement

CALLER, SHOWER = Role.INITIATOR, Role.RESPONDER


@dataclass(frozen=True)
class Example:
    """A whole pairing, and what it is made of.

    Attributes:
        line: the two sides after their answers, and what each has sent.
        caller_card: of South, which calls.
        statements: what each side says of itself.
        proofs, answers: what each side has sealed.
    """

    line: Line
    caller_card: Card
    statements: dict[Role, bytes]
    proofs: dict[Role, bytes]
    answers: dict[Role, bytes]


def example(card: Card, key: KeyPair) -> Example:
    """South Clinic types the code that the facility of this card shows (with its node key)."""
    keys = [KeyPair.from_seed(byte * 32) for byte in (b"g", b"n", b"m", b"x")]
    south = issue_card(
        keys[0],
        name="South Clinic",
        node_key=keys[1].public,
        log_key=keys[2].public,
        witness_key=keys[3].public,
        addresses=(),
        serial=1,
        issued=card.issued,
        expires=card.expires,
        proving=keys[1:],
    )
    said = {
        CALLER: PairStatement(card=south.encoded, grants=("see", "fetch"), purposes=("treatment",)),
        SHOWER: PairStatement(card=card.encoded, grants=("see",), purposes=()),
    }
    line = Line(
        PairingExchange(CALLER, CODE, said[CALLER], keys[1], counted(0x61)),
        PairingExchange(SHOWER, CODE, said[SHOWER], key, counted(0x71)),
    ).run()
    answer = messages.encode(PairAnswer(accepted=True))
    proofs = {}
    for role, pair in ((CALLER, keys[1]), (SHOWER, key)):
        signature = pair.sign(
            b"radmesh-pair-v1",
            (b"\x01" if role is CALLER else b"\x02") + line.sides[role]._signed,
        )
        proofs[role] = messages.encode(PairProof(signature=signature))
        line.sides[role].answer(True)
    line.run()
    assert line.failed == {}
    statements = {role: messages.encode(one) for role, one in said.items()}
    return Example(line, south, statements, proofs, {CALLER: answer, SHOWER: answer})


def pairing_blocks(card: Card, key: KeyPair) -> dict[str, str]:
    """The example blocks by name."""
    from spec_blocks import _values, annotated, annotated_frame

    made = example(card, key)
    caller, shower = made.line.sides[CALLER], made.line.sides[SHOWER]
    assert caller._agreement is not None
    assert shower._agreement is not None
    flights = made.line.flights
    header = limits.FRAME_HEADER_BYTES
    sealers = {role: side._sealer for role, side in made.line.sides.items()}
    keys = {role: sealer._ours._key for role, sealer in sealers.items() if sealer is not None}
    return {
        "pairing-card": made.caller_card.encoded.decode(),
        "pair-hello": annotated_frame(flights[CALLER][0]),
        "pair-share": annotated_frame(flights[CALLER][1]),
        "pair-tag": annotated_frame(flights[CALLER][2]),
        "pair-sealed": annotated_frame(flights[CALLER][5]),
        "pair-statement": annotated(made.statements[SHOWER], {"card": card.encoded}),
        "pair-proof": annotated(made.proofs[CALLER]),
        "pair-answer": annotated(made.answers[CALLER]),
        "pairing": _values(
            [
                ("code", CODE),
                ("caller_secret", b"\x62" * 32),
                ("shower_secret", b"\x72" * 32),
                ("caller_hello", flights[CALLER][0][header:]),
                ("shower_hello", flights[SHOWER][0][header:]),
                ("session", caller.session),
                ("caller_share", caller._pake.share if caller._pake else b""),
                ("shower_share", shower._pake.share if shower._pake else b""),
                ("agreed", caller._agreement.key),
                ("caller_tag", caller._agreement.tag),
                ("shower_tag", shower._agreement.tag),
                ("caller_key", keys[CALLER]),
                ("shower_key", keys[SHOWER]),
                ("caller_statement", hashlib.sha256(made.statements[CALLER]).digest()),
                ("shower_statement", hashlib.sha256(made.statements[SHOWER]).digest()),
            ]
        ),
    }
