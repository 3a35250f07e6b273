"""Writes `tests/vectors/`: examples of every format of the audit log.

    python tests/support/make_vectors.py

Made by the second implementation of these formats (`second_log`), which imports
nothing of the first; `test_vectors.py` shows that they agree. All keys are made of
known seeds: never trust them.
"""

import json

import bundles_made as made
import second_log as second
from bundles_made import COSIGNERS, ORIGIN, START_MS
from places import TESTS

FOLDER = TESTS / "vectors"

BASE64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

OPENING = ("study", "1.2.840.113619.2.55", bytes(range(16)))

NAMES = {
    "facility": made.FACILITY,
    "node": made.NODE,
    "log": made.LOG,
    "witness": made.WITNESS,
    "next log": made.NEXT_LOG,
    "peer facility": made.PEER,
    "peer node": made.PEER_NODE,
}


def keys():
    return {
        "keys": {
            name: {"seed": pair.seed.hex(), "public": pair.public.hex()}
            for name, pair in NAMES.items()
        },
        "fingerprint": made.CARD.fingerprint,
        "origin": ORIGIN,
        "log_vkey": second.vkey(ORIGIN, made.LOG.public),
        "witnesses": [
            {
                "name": each.name,
                "seed": each.key.seed.hex(),
                "vkey": second.vkey(each.name, each.key.public, 4),
            }
            for each in COSIGNERS
        ],
        "card": made.CARD.encoded.decode(),
        "card_sha256": made.CARD.digest,
    }


def cards():
    """Cards without proofs, as those of the first releases, and with; and false proofs."""
    old = made.CARD.encoded
    holders = {"node": made.NODE, "log": made.LOG, "witness": made.WITNESS}

    def proven(**changed):
        fields = json.loads(old.split(b"\n")[1])
        for role, key in holders.items():
            proof = changed.get(role, second.card_key_proof(key, role, made.FACILITY))
            fields[f"{role}_keys"][0]["proof"] = proof.hex()
        return second.card(made.FACILITY, fields).decode()

    return {
        "without_proofs": old.decode(),
        "proven": proven(),
        "false_proofs": {
            "for another facility": proven(
                node=second.card_key_proof(made.NODE, "node", made.PEER)
            ),
            "for another role": proven(log=second.card_key_proof(made.LOG, "node", made.FACILITY)),
            "by another key": proven(
                witness=second.card_key_proof(made.NODE, "witness", made.FACILITY)
            ),
            "of another length": proven(node=b""),
        },
    }


def commitments():
    subjects = [
        OPENING,
        ("patient", "Müller^Anna", b"\xff" * 16),
        ("instance", 'quote " and \\ and \n', b"\0" * 16),
        ("person", "j.doe", bytes(range(16, 32))),
    ]
    return {
        "commitments": [
            {
                "kind": kind,
                "value": value,
                "salt": salt.hex(),
                "subject": second.canonical({"kind": kind, "value": value}).decode(),
                "commitment": second.commitment(kind, value, salt),
            }
            for kind, value, salt in subjects
        ]
    }


def entries():
    good = made.rotated().entries
    odd = second.entry(
        1,
        START_MS,
        type="later-type",
        details={"a": -(2**53) + 1, "b": True, "c": 'é\t"\\\u0001\U0001f600'},
        later={"kept": [1, "x", {"y": False}]},
    )
    text = good[1].decode()
    bad = {
        "white space": (text.replace(":", ": "), "ENTRY_NOT_CANONICAL"),
        "members in another order": (
            '{"v":1,' + text[1:].replace(',"v":1}', "}"),
            "ENTRY_NOT_CANONICAL",
        ),
        "a member twice": (text.replace('"v":1}', '"v":1,"v":1}'), "ENTRY_NOT_CANONICAL"),
        "another escape": (text.replace("ingest", "\\u0069ngest"), "ENTRY_NOT_CANONICAL"),
        "a number with a point": (text.replace('"v":1', '"v":1.0'), "ENTRY_PARSE"),
        "null": (text.replace('"purpose":""', '"purpose":null'), "ENTRY_PARSE"),
        "another version": (text.replace('"v":1', '"v":2'), "ENTRY_PARSE"),
        "a day that does not exist": (text.replace("2026-11-24", "2026-11-31"), "ENTRY_PARSE"),
        "a second too many": (text.replace("09:31:59", "09:31:60"), "ENTRY_PARSE"),
        "an integer too large": (
            text.replace('"instances":1', f'"instances":{2**53}'),
            "ENTRY_PARSE",
        ),
        "a field that is missing": (text.replace('"purpose":"",', ""), "ENTRY_PARSE"),
        "no object": ("[]", "ENTRY_PARSE"),
    }
    return {
        "good": [
            {"text": each.decode(), "leaf": second.mth([each]).hex()} for each in (*good, odd)
        ],
        "bad": [{"name": name, "text": text, "code": code} for name, (text, code) in bad.items()],
    }


def tree():
    held = made.rotated().entries
    return {
        "leaves": [second.mth([each]).hex() for each in held],
        "roots": [second.mth(held[:size]).hex() for size in range(len(held) + 1)],
        "inclusion": [
            {"index": index, "size": size, "proof": _hex(second.path(index, held[:size]))}
            for size in (1, 2, 3, 7, 12)
            for index in range(size)
        ],
        "consistency": [
            {"old": old, "new": new, "proof": _hex(second.proof(old, held[:new]))}
            for old, new in ((1, 1), (1, 2), (3, 7), (4, 8), (6, 11), (7, 12), (8, 12))
        ],
    }


def _hex(hashes):
    return [each.hex() for each in hashes]


def checkpoints():
    log = made.rotated().cosign(*COSIGNERS[:2])
    note = made.honest().checkpoints["checkpoints/12"]
    text = note.split("\n\n")[0] + "\n"
    extended = text + "an extension\n"
    root = text.split("\n")[2]
    following = BASE64[BASE64.index(root[-2]) + 1]
    bad = {
        "no signature": text,
        "size with a leading zero": note.replace("\n12\n", "\n012\n"),
        "root that is too short": note.replace("=\n\n", "\n\n"),
        "a line that is empty": note.replace("\n12\n", "\n12\n\n", 1),
        "the signature of another text": note.replace("\n12\n", "\n13\n"),
        "the key of a stranger": second.checkpoint(ORIGIN, made.honest().entries, made.STRANGER),
        "base64 with bits set behind its end": note.replace(root, root[:-2] + following + "="),
    }
    return {
        "good": [
            {"note": each, "size": int(each.split("\n")[1])}
            for each in (
                note,
                extended + "\n" + second.signature_line(ORIGIN, made.LOG, extended),
            )
        ],
        "bad": [{"name": name, "note": each} for name, each in bad.items()],
        "rotated": {
            "card": log.card.decode(),
            "notes": list(log.checkpoints.values()),
            "key_not_in_force": made.rotated().sign(5, made.NEXT_LOG).checkpoints["checkpoints/5"],
        },
        "cosigned": {
            "note": log.checkpoints["checkpoints/12"],
            "time": made.SIGNED_AT,
            "witnesses": [second.vkey(each.name, each.key.public, 4) for each in COSIGNERS[:2]],
        },
    }


def key_changes():
    cases = []
    for log, domain in (
        (made.rotated(), "radmesh-rotation-v1"),
        (made.revoked(), "radmesh-key-revoked-v1"),
    ):
        details = json.loads(log.entries[7])["details"]
        signed = {
            name: value
            for name, value in details.items()
            if not name.startswith("signature_") and name not in ("card", "serial")
        }
        signed |= {"facility_key": made.FACILITY.public.hex(), "origin": ORIGIN}
        cases.append(
            {
                "entry": log.entries[7].decode(),
                "domain": domain,
                "signed": second.canonical(signed).decode(),
                "card": log.card.decode(),
                "root_before": second.mth(log.entries[:7]).hex(),
            }
        )
    return {"changes": cases}


def receipts():
    body = made.receipt_body(1)
    encoded = second.message({**body, "version": 1})
    return {
        "fields": {
            name: value.hex() if isinstance(value, bytes) else value for name, value in body.items()
        },
        "body": encoded.hex(),
        "receipt": made.RECEIPT.hex(),
        "sha256": second.sha256(made.RECEIPT).hex(),
        "source_node": made.NODE.public.hex(),
        "recipient_node": made.PEER_NODE.public.hex(),
    }


def stored():
    body = made.stored_body(1)
    encoded = second.message({**body, "version": 1})
    return {
        "fields": {
            name: value.hex() if isinstance(value, bytes) else value for name, value in body.items()
        },
        "body": encoded.hex(),
        "stored": made.STORED.hex(),
        "sha256": second.sha256(made.STORED).hex(),
        "recipient_node": made.PEER_NODE.public.hex(),
        "receipt": made.RECEIPT.hex(),
        "entry": made.with_stored().entries[12].decode(),
    }


def policies():
    witnesses = "".join(
        f"witness w{number} {second.vkey(each.name, each.key.public, 4)}\n"
        for number, each in enumerate(COSIGNERS, 1)
    )
    log = f"log {second.vkey(ORIGIN, made.LOG.public)}\n"
    return {
        "policy": log + witnesses + "group witnesses 2 w1 w2 w3\nquorum witnesses\n",
        "enough": [["w1", "w2"], ["w1", "w3"], ["w1", "w2", "w3"]],
        "too_few": [[], ["w1"], ["w3"]],
    }


def proof():
    log = made.honest().cosign(*COSIGNERS[:2])
    extra = {
        "card": log.card.decode(),
        "entry": log.entries[5].decode(),
        "openings": [],
        "receipt": second.base64_of(made.RECEIPT),
        "witnesses": [each.card.encoded.decode() for each in COSIGNERS[:2]],
    }
    return second.tlog_proof(
        5, second.path(5, log.entries), log.checkpoints["checkpoints/12"], second.canonical(extra)
    ).encode()


def bundle():
    log = made.rotated().cosign(*COSIGNERS[:2])
    log.extra = [
        ("policy", policies()["policy"].encode()),
        *(
            (f"witnesses/{number}", each.card.encoded)
            for number, each in enumerate(COSIGNERS[:2], 1)
        ),
    ]
    return log.bundle()


def stored_bundle():
    return made.with_stored().bundle()


TABLES = {
    "keys.json": keys,
    "cards.json": cards,
    "commitments.json": commitments,
    "entries.json": entries,
    "tree.json": tree,
    "checkpoints.json": checkpoints,
    "key-changes.json": key_changes,
    "receipts.json": receipts,
    "stored.json": stored,
    "policies.json": policies,
}
FILES = {"entry-5.tlog-proof": proof, "bundle.zip": bundle, "bundle-stored.zip": stored_bundle}


def contents():
    """Every file of the folder by its name, README.md aside."""
    made_now = {
        name: (json.dumps(make(), indent=1, ensure_ascii=False) + "\n").encode()
        for name, make in TABLES.items()
    }
    return made_now | {name: make() for name, make in FILES.items()}


def main():
    FOLDER.mkdir(exist_ok=True)
    for name, data in contents().items():
        (FOLDER / name).write_bytes(data)
        print(f"{len(data):8,} {name}")


if __name__ == "__main__":
    main()
