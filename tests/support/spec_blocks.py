"""The example blocks of docs/protocol.md, made by the real code from fixed seeds.

`python tests/support/spec_blocks.py` writes them into the document again after a change of
the wire; tests/project/test_spec_examples.py compares them.
"""

import re
import struct
import sys
from collections.abc import Sequence

import blake3
import msgpack
from places import ROOT, SUPPORT

DOCUMENT = ROOT / "docs" / "protocol.md"

_BLOCK = re.compile(r"```(hex|values|text) ([a-z-]+)\n(.*?)```", re.DOTALL)
_COLUMNS = {
    "series": ("series_instance_uid", "modality"),
    "instances": (
        "series_index",
        "sop_instance_uid",
        "sop_class_uid",
        "transfer_syntax_uid",
        "size",
        "digest",
        "first_batch",
        "offset",
        "number",
        "rows",
        "columns",
        "frames",
    ),
    "batches": ("digest", "encoded_size", "original_size", "encoding"),
}


_LINES = ("grants-statement",)
"""Text examples whose last line feed belongs to the document alone."""


def blocks_of(document: str) -> dict[str, str]:
    """Name to text of all example blocks."""
    return {name: text for _, name, text in _BLOCK.findall(document)}


def bytes_of(text: str, blocks: dict[str, str]) -> bytes:
    """The bytes of a hex block; `{name}` means the bytes of the text block of that name."""
    result = b""
    for line in text.splitlines():
        for word in line.partition("#")[0].split():
            if word.startswith("{"):
                name = word.strip("{}")
                text = blocks[name]
                result += (text.removesuffix("\n") if name in _LINES else text).encode()
            else:
                result += bytes.fromhex(word)
    return result


def values_of(text: str) -> dict[str, str]:
    """Name to value of a values block."""
    return dict(line.split(maxsplit=1) for line in text.splitlines())


# --- writing -------------------------------------------------------------------


def _cut(data: bytes, indent: str) -> list[str]:
    return [indent + data[at : at + 32].hex() for at in range(0, len(data), 32)]


def _split_head(data: bytes, position: int) -> tuple[bytes, int, str]:
    """Head bytes of a MessagePack value, and its payload length or count, and its shape."""
    head = data[position]
    if head < 0x80 or head >= 0xE0 or head in (0xC2, 0xC3):
        return data[position : position + 1], 0, "scalar"
    if head < 0x90:
        return data[position : position + 1], head & 0x0F, "map"
    if head < 0xA0:
        return data[position : position + 1], head & 0x0F, "list"
    if head < 0xC0:
        return data[position : position + 1], head & 0x1F, "text"
    width, shape = {
        0xC4: (1, "binary"), 0xC5: (2, "binary"), 0xC6: (4, "binary"),
        0xCC: (1, "scalar"), 0xCD: (2, "scalar"), 0xCE: (4, "scalar"), 0xCF: (8, "scalar"),
        0xD0: (1, "scalar"), 0xD1: (2, "scalar"), 0xD2: (4, "scalar"), 0xD3: (8, "scalar"),
        0xD9: (1, "text"), 0xDA: (2, "text"), 0xDC: (2, "list"), 0xDE: (2, "map"),
    }[head]  # fmt: skip
    whole = data[position : position + 1 + width]
    return whole, 0 if shape == "scalar" else int.from_bytes(whole[1:], "big"), shape


class _Writer:
    """Writes one MessagePack value as annotated lines."""

    def __init__(self, data: bytes, substitutes: dict[str, bytes]) -> None:
        self._data = data
        self._position = 0
        self._substitutes = substitutes
        self.lines: list[str] = []

    def value(self, indent: str, prefix: str = "", name: str = "", column: str = "") -> None:
        head, count, shape = _split_head(self._data, self._position)
        self._position += len(head)
        label = f"{name}: " if name else ""
        begin = indent + (prefix + " " if prefix else "") + head.hex()
        if shape == "scalar":
            self.lines.append(f"{begin}  # {label}{msgpack.unpackb(head)}")
        elif shape == "text":
            text = self._take(count)
            self.lines.append(f'{begin} {text.hex()}  # {label}"{text.decode()}"')
        elif shape == "binary":
            self._binary(begin, indent, label, name, self._take(count))
        elif shape == "list":
            self.lines.append(f"{begin}  # {label}list of {count}")
            names = _COLUMNS.get(column or "", ())
            for index in range(count):
                inner = names[index] if names else ""
                self.value(indent + "  ", name=inner, column="" if column else name)
        else:
            self.lines.append(f"{begin}  # {label}map of {count}")
            for _ in range(count):
                key_head, length, _ = _split_head(self._data, self._position)
                self._position += len(key_head)
                key = self._take(length)
                self.value(indent + "  ", f"{key_head.hex()} {key.hex()}", key.decode())

    def _take(self, count: int) -> bytes:
        taken = self._data[self._position : self._position + count]
        self._position += count
        return taken

    def _binary(self, begin: str, indent: str, label: str, name: str, content: bytes) -> None:
        self.lines.append(f"{begin}  # {label}{len(content)} bytes")
        for substitute, value in self._substitutes.items():
            if content == value:
                self.lines.append(f"{indent}  {{{substitute}}}  # the text of that example")
                return
        if name == "body":
            inner = _Writer(content, self._substitutes)
            inner.value(indent + "  ")
            self.lines += inner.lines
        else:
            self.lines += _cut(content, indent + "  ")


def annotated(data: bytes, substitutes: dict[str, bytes] | None = None) -> str:
    """A MessagePack value as lines of a hex block."""
    writer = _Writer(data, substitutes or {})
    writer.value("")
    return "\n".join(writer.lines) + "\n"


def annotated_frame(frame: bytes, substitutes: dict[str, bytes] | None = None) -> str:
    """A frame as lines of a hex block."""
    kind, length, payload = frame[0], int.from_bytes(frame[1:5], "big"), frame[5:]
    assert length == len(payload)
    what = {1: "message", 2: "data"}[kind]
    first = f"{frame[:1].hex()} {frame[1:5].hex()}  # {what} frame, {length} bytes\n"
    if kind == 1:
        return first + annotated(payload, substitutes)
    index = f"{payload[:4].hex()}  # index {int.from_bytes(payload[:4], 'big')}\n"
    return first + index + "\n".join(_cut(payload[4:], "")) + "\n"


def _annotated_batch(encoded: bytes, name: str) -> str:
    size = int.from_bytes(encoded[4:8], "big")
    lines = [
        f"{encoded[:3].hex()}  # RMB",
        f"{encoded[3:4].hex()}  # encoding {encoded[3]}, {name}",
        f"{encoded[4:8].hex()}  # {size} original bytes",
        *_cut(encoded[8:], ""),
    ]
    return "\n".join(lines) + "\n"


def pixel_example() -> bytes:
    """A batch with an image of 16x16 between "head" and "tail"."""
    rows = [100 * y + 3 * x + x * y % 5 for y in range(16) for x in range(16)]
    return b"head" + struct.pack("<256H", *rows) + b"tail"


def _annotated_pixels(encoded: bytes) -> str:
    lines = _annotated_batch(encoded[:8], "pixels").splitlines()
    rest = encoded[8:]
    for part in ("table", "rest", "low bytes"):
        length = int.from_bytes(rest[:4], "big")
        lines.append(f"{rest[:4].hex()}  # {part}, {length} bytes")
        lines += _cut(rest[4 : 4 + length], "")
        rest = rest[4 + length :]
    return "\n".join([*lines, f"{rest[:4].hex()}  # high bytes", *_cut(rest[4:], "")]) + "\n"


def _values(pairs: Sequence[tuple[str, str | bytes]]) -> str:
    width = max(len(name) for name, _ in pairs)
    return "".join(
        f"{name:{width}}  {value.hex() if isinstance(value, bytes) else value}\n"
        for name, value in pairs
    )


# --- the examples -----------------------------------------------------------------


def make_blocks() -> dict[str, str]:
    """All example blocks by name."""
    import exchange_pair
    from spec_pairing_blocks import pairing_blocks

    from keys import seal
    from keys.card import issue_card
    from keys.fingerprint import fingerprint
    from keys.grants import Rule
    from keys.identity import KeyPair, peer_id
    from protocol import encoding, granted, messages, wire
    from protocol.find_messages import Find, FindRefused, Found
    from protocol.frames import FrameKind, frame_header
    from protocol.manifest import NO_NUMBER
    from protocol.messages import Announcement, Heartbeat, Hello, Record, Refusal, Subscribe
    from protocol.offers import OfferAnswer, OfferEnd, OfferNoted, StudyOffer
    from protocol.pixels import PixelRun
    from protocol.stored import COMMITMENT, Stored, sign_stored

    assert NO_NUMBER == -1
    facility, other = KeyPair.from_seed(b"f" * 32), KeyPair.from_seed(b"g" * 32)
    pair = exchange_pair.Pair()
    now = exchange_pair.NOW
    card = issue_card(
        facility,
        name="North General",
        node_key=pair.source_key.public,
        log_key=KeyPair.from_seed(b"l" * 32).public,
        witness_key=KeyPair.from_seed(b"w" * 32).public,
        addresses=("/dns4/radmesh.north.example/tcp/4101",),
        serial=1,
        issued=now // 1000,
        expires=now // 1000 + 63_072_000,
        proving=[pair.source_key, KeyPair.from_seed(b"l" * 32), KeyPair.from_seed(b"w" * 32)],
    )

    def frame(message: messages.Message) -> bytes:
        payload = messages.encode(message)
        return frame_header(FrameKind.MESSAGE, len(payload)) + payload

    # BLAKE3 of a word: bytes that do not compress, so that no example depends on
    # the version of the Zstandard library.
    study = exchange_pair.make_study(
        [blake3.blake3(b"first").digest(length=40), blake3.blake3(b"second").digest(length=24)]
    )
    manifest, [batch] = study.manifest, study.encoded
    request = pair.recipient.ask(exchange_pair.STUDY, "treatment", time_ms=now)
    pair.to_source(request)
    # The real piece is compressed; a raw piece replaces it, so that the bytes do not depend
    # on the release of the compressor.
    offer, _ = pair.source.offer_manifest(manifest, time_ms=now)
    pair.to_recipient(offer)
    source, recipient = (seal.EphemeralKey(byte * 32) for byte in (b"\x51", b"\x52"))
    key = seal.transfer_key(
        source,
        recipient.public,
        source_node=pair.source_key.public,
        recipient_node=pair.recipient_key.public,
        source_ephemeral=source.public,
        recipient_ephemeral=recipient.public,
        transfer_id=exchange_pair.TRANSFER,
    )
    sealer = seal.Sealer(key, exchange_pair.TRANSFER, manifest.digest)
    piece = encoding.encode(manifest.encode(), encoding.Encoding.RAW)
    sealed_piece = sealer.seal(seal.KIND_MANIFEST, 0, piece)
    piece_frame = pair.source.connection.data_header(0, len(sealed_piece)) + sealed_piece
    pair.to_recipient(piece_frame)
    pair.recipient.open_manifest()
    want = pair.recipient.want([0], last=True)
    pair.to_source(want)
    batch_frame = pair.batch_frame(0, batch)
    [arrived] = pair.to_recipient(batch_frame)
    pair.recipient.open_batch(arrived)
    credit = pair.recipient.credit(len(batch) + 16)
    pair.to_source(credit)
    end = pair.source.end()
    pair.to_recipient(end)
    receipt_fields = pair.receipt(
        study, source_facility=facility.public, recipient_facility=other.public
    )
    receipt = pair.recipient.sign_receipt(receipt_fields)
    [receipted] = pair.to_source(receipt)
    countersignature, signed_receipt = pair.source.countersign(receipted)
    stored = sign_stored(
        Stored(
            transfer=receipt_fields.transfer,
            source_facility=receipt_fields.source_facility,
            recipient_facility=receipt_fields.recipient_facility,
            recipient_node=receipt_fields.recipient_node,
            content_root=receipt_fields.content_root,
            instances=receipt_fields.instances,
            proven_by=COMMITMENT,
            proven_at=receipt_fields.time // 1000 + 60,
            time=receipt_fields.time + 60_000,
        ),
        pair.recipient_key,
    )
    pair.to_recipient(countersignature)

    epoch = bytes(range(16, 32))
    record = Record(
        sequence=1,
        kind="available",
        study=exchange_pair.STUDY,
        content_root=manifest.content_root,
        series=1,
        instances=2,
        bytes=manifest.total_original_bytes,
        encoded_bytes=manifest.total_encoded_bytes,
        modalities=("CT",),
        study_date="20260301",
    )
    announcement = Announcement(
        recipient=pair.recipient_key.public,
        epoch=epoch,
        reset=True,
        cursor=1,
        time=now,
        records=(record,),
    )
    question = Find(
        find=exchange_pair.TRANSFER,
        source=pair.source_key.public,
        purpose="treatment",
        person="",
        time=now,
        patient_id="P1",
        issuer="NORTH",
    )
    asked = messages.sign(question, pair.recipient_key)
    found = Found(
        find=exchange_pair.TRANSFER,
        recipient=pair.recipient_key.public,
        question=blake3.blake3(asked.body).digest(),
        time=now,
        records=(record,),
    )
    recipient_key, source_key = pair.recipient_key, pair.source_key
    study_offer = StudyOffer(
        recipient=recipient_key.public,
        offer=exchange_pair.TRANSFER,
        time=now,
        until=now + 7 * 86_400_000,
        study=exchange_pair.STUDY,
        purpose="second-opinion",
        message="Please look at the left lung.",
        series=1,
        instances=2,
        bytes=manifest.total_original_bytes,
        modalities=("CT",),
        study_date="20260301",
        person="Dr. A. Beispiel",
        role="send",
    )
    answered = OfferAnswer(
        recipient=source_key.public, offer=exchange_pair.TRANSFER, time=now, answer="accepted"
    )
    ended = OfferEnd(recipient=recipient_key.public, offer=exchange_pair.TRANSFER, time=now)
    statement = granted.sign(
        granted.content_of(
            facility=facility.public,
            node=pair.source_key.public,
            recipient=other.public,
            rules=granted.stated(
                [
                    Rule("the grant see", "see"),
                    Rule(
                        "rule 1",
                        "fetch",
                        conditions={
                            "modality": ("CT", "MR"),
                            "purpose": ("TREAT",),
                            "patient": ("blinded",),
                        },
                        limits={"studies-a-day": 20},
                        until=now // 1000 + 86_400,
                        number=1,
                    ),
                    Rule("rule 2", "fetch", "deny", {"patient": ("blinded",)}, number=2),
                    Rule("rule 3", "fetch", "ask", {"stat": ("yes",)}, number=3),
                ],
                now // 1000,
            ),
            since=now // 1000 - 86_400,
            until=None,
        ),
        serial=now // 1000,
        time=now // 1000,
        key=pair.source_key,
    )
    place = seal.KIND_BATCH.to_bytes(4, "big") + (0).to_bytes(8, "big")
    text = b" ".join([b"radmesh"] * 8)
    return {
        **pairing_blocks(card, pair.source_key),
        "card": card.encoded.decode(),
        "identity": _values(
            [
                ("facility_seed", facility.seed),
                ("facility_key", facility.public),
                ("fingerprint", fingerprint(facility.public)),
                ("node_seed", pair.source_key.seed),
                ("node_key", pair.source_key.public),
                ("peer_id", peer_id(pair.source_key.public)),
            ]
        ),
        "strict": annotated(
            wire.pack({"a": True, "b": [-33, 0, 256], "list": [b"\0", "x"], "z": {}})
        ),
        "hello": annotated_frame(
            frame(Hello(versions=(1,), software="radmesh 0.1.0", card=card.encoded)),
            {"card": card.encoded},
        ),
        "grants-statement": statement.body.decode() + "\n",
        "grants": annotated_frame(frame(statement), {"grants-statement": statement.body}),
        "study-offer": annotated_frame(frame(messages.sign(study_offer, source_key))),
        "offer-answer": annotated_frame(frame(messages.sign(answered, recipient_key))),
        "offer-end": annotated_frame(frame(messages.sign(ended, source_key))),
        "offer-noted": annotated_frame(frame(OfferNoted())),
        "subscribe": annotated_frame(frame(Subscribe(epoch=bytes(16), cursor=0))),
        "announcement": annotated_frame(frame(messages.sign(announcement, pair.source_key))),
        "heartbeat": annotated_frame(frame(Heartbeat())),
        "request": annotated_frame(request),
        "refusal": annotated_frame(frame(Refusal(code=10))),
        "offer": annotated_frame(offer),
        "manifest": annotated(manifest.encode()),
        "manifest-piece": annotated_frame(piece_frame),
        "want": annotated_frame(want),
        "batch": _annotated_batch(batch, "raw"),
        "batch-zstd": _annotated_batch(encoding.encode(text, encoding.Encoding.ZSTD), "zstd"),
        "batch-pixels": _annotated_pixels(
            encoding.encode(pixel_example(), runs=[PixelRun(4, 16, 16, 1)])
        ),
        "batch-data": annotated_frame(batch_frame),
        "credit": annotated_frame(credit),
        "end": annotated_frame(end),
        "receipt": annotated_frame(receipt),
        "countersignature": annotated_frame(countersignature),
        "find": annotated_frame(frame(asked)),
        "found": annotated_frame(frame(messages.sign(found, pair.source_key))),
        "find-refused": annotated_frame(frame(FindRefused(code=13, wait=1800))),
        "signed-receipt": _values(
            [("size", str(len(signed_receipt.encode()))), ("sha256", signed_receipt.digest)]
        ),
        "signed-stored": _values(
            [
                ("body", stored.body),
                ("signature", stored.signature),
                ("size", str(len(stored.encode()))),
                ("sha256", stored.digest),
            ]
        ),
        "content": _values(
            [("content_root", manifest.content_root), ("manifest", manifest.digest)]
        ),
        "seal": _values(
            [
                ("source_node", pair.source_key.public),
                ("recipient_node", pair.recipient_key.public),
                ("source_secret", b"\x51" * 32),
                ("source_ephemeral", source.public),
                ("recipient_secret", b"\x52" * 32),
                ("recipient_ephemeral", recipient.public),
                ("transfer", exchange_pair.TRANSFER),
                ("shared_secret", source.agree(recipient.public)),
                ("transfer_key", key),
                ("manifest", manifest.digest),
                ("nonce", bytes(12) + place),
                (
                    "associated",
                    b"radmesh-chunk-v1" + exchange_pair.TRANSFER + manifest.digest + place,
                ),
                ("batch", batch),
                ("sealed", sealer.seal(seal.KIND_BATCH, 0, batch)),
            ]
        ),
    }


def main() -> None:
    """Write the blocks into the document."""
    root = ROOT
    sys.path[:0] = [str(root), str(SUPPORT)]
    made = make_blocks()
    document = DOCUMENT.read_text()

    def replace(found: re.Match[str]) -> str:
        return f"```{found[1]} {found[2]}\n{made[found[2]]}```"

    DOCUMENT.write_text(_BLOCK.sub(replace, document))


if __name__ == "__main__":
    main()
