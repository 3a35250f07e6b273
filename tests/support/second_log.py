"""A second implementation of the log's formats, written from the standards' texts, for tests.

Imports nothing from `protocol` or `node`. It is clear rather than fast: the tree is the
recursion of RFC 6962 section 2.1, word by word.
"""

import base64
import hashlib
import json
from datetime import UTC, datetime, timedelta

import msgpack
from nacl.exceptions import BadSignatureError
from nacl.exceptions import ValueError as NaClValueError
from nacl.signing import SigningKey, VerifyKey

# --- RFC 6962 section 2.1 -----------------------------------------------------------


def sha256(data):
    return hashlib.sha256(data).digest()


def split(n):
    """k: the largest power of two smaller than n."""
    k = 1
    while 2 * k < n:
        k *= 2
    return k


def mth(d):
    """Merkle Tree Hash of a list of entries."""
    n = len(d)
    if n == 0:
        return sha256(b"")
    if n == 1:
        return sha256(b"\0" + d[0])
    k = split(n)
    return sha256(b"\1" + mth(d[:k]) + mth(d[k:]))


def path(m, d):
    """PATH(m, D[n]): the proof that entry m is in the list (section 2.1.1)."""
    n = len(d)
    if n == 1:
        return []
    k = split(n)
    if m < k:
        return [*path(m, d[:k]), mth(d[k:])]
    return [*path(m - k, d[k:]), mth(d[:k])]


def proof(m, d):
    """PROOF(m, D[n]): the proof that the first m entries are a prefix (section 2.1.2)."""
    return subproof(m, d, True)


def subproof(m, d, b):
    n = len(d)
    if m == n:
        return [] if b else [mth(d)]
    k = split(n)
    if m <= k:
        return [*subproof(m, d[:k], b), mth(d[k:])]
    return [*subproof(m - k, d[k:], False), mth(d[:k])]


# --- C2SP signed-note, tlog-checkpoint, tlog-cosignature, tlog-proof ----------------


def base64_of(data):
    return base64.b64encode(data).decode()


def sign_raw(seed, message):
    return SigningKey(seed).sign(message).signature


def key_id(name, public, kind):
    return sha256(name.encode() + b"\n" + bytes([kind]) + public)[:4]


def vkey(name, public, kind=1):
    return f"{name}+{key_id(name, public, kind).hex()}+{base64_of(bytes([kind]) + public)}"


def signature_line(name, key, text):
    raw = key_id(name, key.public, 1) + sign_raw(key.seed, text.encode())
    return f"— {name} {base64_of(raw)}\n"


def checkpoint_text(origin, size, root, *extensions):
    return "".join(f"{line}\n" for line in (origin, size, base64_of(root), *extensions))


def checkpoint(origin, entries, key):
    text = checkpoint_text(origin, len(entries), mth(entries))
    return text + "\n" + signature_line(origin, key, text)


def cosignature_line(name, key, text, seconds):
    message = f"cosignature/v1\ntime {seconds}\n{text}".encode()
    raw = key_id(name, key.public, 4) + seconds.to_bytes(8, "big") + sign_raw(key.seed, message)
    return f"— {name} {base64_of(raw)}\n"


def read_vkey(text):
    """Name, key ID, kind and public key of a verifier key; ValueError if it is not one."""
    name, short, rest = text.split("+", 2)
    raw = base64.b64decode(rest, validate=True)
    kind, public = raw[0], raw[1:]
    if kind not in (1, 4) or len(public) != 32 or key_id(name, public, kind).hex() != short:
        raise ValueError("no verifier key")
    return name, bytes.fromhex(short), kind, public


def open_note(note, vkeys):
    """The text of a signed note, and verifier key to the time of its signature in seconds.

    A plain signature has time 0. Signatures by other keys are ignored, as the standard says.
    ValueError if a known key's signature does not hold, or no known key signed.
    """
    text, rest = note[: note.rindex("\n\n") + 1], note[note.rindex("\n\n") + 2 :]
    known = {(name, short): (key, kind, public) for key in vkeys for name, short, kind, public in
             [read_vkey(key)]}  # fmt: skip
    signed = {}
    for line in rest.splitlines(keepends=True):
        dash, name, encoded = line.removesuffix("\n").split(" ")
        raw = base64.b64decode(encoded, validate=True)
        if dash != "—" or not line.endswith("\n") or len(raw) < 5:
            raise ValueError("no line of a signature")
        if (name, raw[:4]) not in known:
            continue
        key, kind, public = known[name, raw[:4]]
        message, seconds, signature = text, 0, raw[4:]
        if kind == 4:
            seconds, signature = int.from_bytes(raw[4:12], "big"), raw[12:]
            message = f"cosignature/v1\ntime {seconds}\n{text}"
        try:
            VerifyKey(public).verify(message.encode(), signature)
        except (BadSignatureError, NaClValueError) as error:
            raise ValueError("a signature does not hold") from error
        signed[key] = seconds
    if not signed:
        raise ValueError("no known key has signed it")
    return text, signed


def read_checkpoint(text):
    """Origin, size and root of a checkpoint's text."""
    origin, size, root = text.split("\n")[:3]
    if not size.isdecimal() or (size[0] == "0" and size != "0"):
        raise ValueError("no size")
    return origin, int(size), base64.b64decode(root, validate=True)


def tlog_proof(index, hashes, note, extra=None):
    lines = ["c2sp.org/tlog-proof@v1"]
    if extra is not None:
        lines.append(f"extra {base64_of(extra)}")
    lines += [f"index {index}", *map(base64_of, hashes), "", note]
    return "\n".join(lines)


# --- docs/protocol-log.md ----------------------------------------------------------


def canonical(value):
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode()


def time_text(milliseconds):
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{milliseconds % 1000:03}Z"


def commitment(kind, value, salt):
    subject = canonical({"kind": kind, "value": value})
    return hashlib.sha256(b"radmesh-commitment-v1\0" + salt + subject).hexdigest()


def entry(index, milliseconds, *, subjects=(), peer=b"", **fields):
    """`subjects` are (kind, value, salt)."""
    whole = {
        "actor": "node",
        "details": {},
        "index": index,
        "outcome": "success",
        "peer": peer.hex(),
        "purpose": "",
        "subjects": [
            {"commitment": commitment(*subject), "kind": subject[0]} for subject in subjects
        ],
        "time": time_text(milliseconds),
        "v": 1,
        **fields,
    }
    return canonical(whole)


def sign_domain(key, domain, message):
    return sign_raw(key.seed, domain + b"\0" + message)


def key_change(
    entries,
    *,
    facility,
    old,
    new,
    card,
    role="log",
    origin,
    trusted_size=None,
    trusted_root=None,
    signers=None,
):
    """Details of `rotation`, or of `key-revoked` when `trusted_size` is given."""
    root = mth(entries)
    signed = {
        "facility_key": facility.public.hex(),
        "new_key": new.public.hex(),
        "old_key": old.public.hex(),
        "origin": origin,
        "role": role,
        "root": root.hex(),
        "size": len(entries),
    }
    signers = {"facility": facility, "new": new, "old": old, **(signers or {})}
    domain = b"radmesh-rotation-v1"
    more = {}
    if trusted_size is not None:
        del signers["old"]
        domain = b"radmesh-key-revoked-v1"
        root_then = trusted_root or mth(entries[:trusted_size])
        more = {"trusted_root": root_then.hex(), "trusted_size": trusted_size}
        signed |= more
    return {
        "card": card.digest,
        "new_key": new.public.hex(),
        "old_key": old.public.hex(),
        "role": role,
        "root": root.hex(),
        "serial": card.serial,
        "size": len(entries),
        **more,
        **{
            f"signature_{name}": base64_of(sign_domain(key, domain, canonical(signed)))
            for name, key in signers.items()
        },
    }


def card_key_proof(key, role, facility):
    """The proof that a facility holds the key of a role on its card."""
    return sign_domain(key, b"radmesh-card-key-v1", role.encode() + b"\0" + facility.public)


def card(facility, fields):
    """A card of a facility with these fields."""
    body = canonical(fields)
    signature = base64_of(sign_domain(facility, b"radmesh-card-v1", body))
    return f"radmesh-card-v1 {signature}\n".encode() + body + b"\n"


def message(fields):
    """Strict MessagePack: a map in the order of its names (docs/protocol.md section 3)."""
    return msgpack.packb({name: fields[name] for name in sorted(fields)}, use_bin_type=True)


def fields_of(data):
    """The inverse of `message`."""
    return msgpack.unpackb(data)


def stored(body, recipient_node):
    """A statement that a study is stored, signed (docs/protocol.md section 6.1)."""
    encoded = message({**body, "version": 1})
    signature = sign_domain(recipient_node, b"radmesh-stored-v1", encoded)
    return message({"body": encoded, "signature": signature})


def receipt(body, source_node, recipient_node):
    encoded = message({**body, "version": 1})
    return message(
        {
            "body": encoded,
            "recipient_signature": sign_domain(recipient_node, b"radmesh-receipt-v1", encoded),
            "source_signature": sign_domain(source_node, b"radmesh-receipt-v1", encoded),
        }
    )
