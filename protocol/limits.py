"""Every size, count and time limit of the protocol, with its unit and reason.

A limit that a peer can reach is part of docs/protocol.md; changing it is a protocol
change.
"""

from dataclasses import dataclass

# --- batches and data ------------------------------------------------------

BATCH_BYTES = 4 * 1024 * 1024
"""Most original bytes in a batch. 4 MiB: large enough that file creation and
per-message costs vanish (2,000 small MR are 17 files), small enough that one
instance is read in about 6 ms and eight batches in memory are nothing."""

BATCH_HEADER_BYTES = 8
"""Magic, encoding id and original size before every encoded batch."""

ENCODED_BATCH_BYTES = BATCH_BYTES + 4096
"""Most bytes of an encoded batch: an encoder may produce at most the raw bytes plus the
header; the slack is room for framing of future encodings."""

SEAL_OVERHEAD_BYTES = 16
"""The Poly1305 tag, which follows the sealed bytes."""

SEALED_CHUNK_BYTES = ENCODED_BATCH_BYTES + SEAL_OVERHEAD_BYTES
"""Most bytes of a sealed batch on the wire."""

CREDIT_BYTES = 16 * 1024 * 1024
"""Most sealed bytes that a source may have sent without acknowledgement. Four full batches
fill 1 Gbit/s at 100 ms round trip; the limit bounds what a recipient buffers."""

WRITE_BLOCK_BYTES = 65_507
"""Bytes per write to a libp2p stream: fills one Noise message exactly (65,519
less the yamux header); 65,536 splits each in two and halves the rate."""

# --- frames of the connection -------------------------------------------------

TINY_FRAME_BYTES = 512
"""A yamux frame or Noise message with less content counts as tiny: its cost for a node is
the frame, not the bytes. A frame without data (ping, window, end) is always tiny."""

TINY_FRAMES_PER_SECOND = 25_000
"""Tiny frames of one connection before it is read more slowly. A fetch at 500 MB/s over
loopback sends 500 a second and py-libp2p's yamux 4,600 for the same (fifty fetches that
begin at once 3,000); writing 100 bytes at a time py-libp2p reaches 20,000. Handling 25,000
takes about 5 % of a processor; the 800,000 that one peer can send take all of it."""

TINY_FRAMES_BURST_SECONDS = 1.0
"""A quiet connection saves up this much: the tiny frames of one second may come at once."""

TINY_FRAMES_LASTING_SECONDS = 20.0
"""How long a connection may send tiny frames at the full rate of `TINY_FRAMES_PER_SECOND`
before it is ended. What exceeds half the rate counts against this; no honest peer gets there."""

OPENING_FRAMES = 25
"""A stream that the peer opens counts as this many tiny frames: it starts a task and takes
some 200 microseconds. 1,000 may be opened a second; a node opens one for each transfer."""

TINY_FRAMES_AT_ONCE = 256
"""After this many tiny frames other connections have their turn: half a millisecond."""

# --- frames and MessagePack -------------------------------------------------

FRAME_HEADER_BYTES = 5
"""One byte of kind, four of big-endian length."""

MESSAGE_BYTES = 1024 * 1024
"""Most bytes of one MessagePack message. The largest is an announcement of 256
records (about 100 KiB) or a card; 1 MiB leaves room without being a bomb."""

MESSAGE_DEPTH = 8
"""Deepest nesting of arrays and maps; no message of ours needs more than five."""

MESSAGE_ITEMS = 65_536
"""Most values (keys included) in one message."""

MANIFEST_BYTES = 96 * 1024 * 1024
"""Most bytes of an encoded manifest: about 500,000 instances. A study beyond
that is refused with a sentence rather than held in memory."""

MANIFEST_INSTANCES = 500_000
"""Most instances in one study; the largest seen in practice are near 30,000."""

MANIFEST_BATCHES = 500_000
"""Most batches of one study: as many as instances, since each may have come alone."""

MANIFEST_ROW_BYTES = 288
"""Most bytes of one row of a manifest: the row of an instance with three UIDs of 64
characters and the largest numbers has 277."""

MANIFEST_SPARE_ITEMS = 65_536
"""Most values of a manifest besides its rows, for additions in later versions."""

MANIFEST_SPARE_BYTES = 1024 * 1024
"""Most bytes of a manifest besides its rows."""

BATCH_LEAST_BYTES = 1024 * 1024
"""A study has at most one batch for each instance and one for each begun MiB. The packing
rule stays far below this: a batch in which no instance begins is full, or the last batch of
its instance. Without this limit, a study of two megabytes could have two million batches."""

DECODE_STEP_ROWS = 1024
"""Rows of a manifest read or written in one step, which takes some milliseconds; other
threads run between steps."""

PIXEL_BLOCKS = 256
"""Most blocks in the table of a pixel-aware batch; each costs 0.13 ms besides its pixels. A
block is a run of images of one size, so a series has one or a few."""

PIXEL_RUNS = 8192
"""Most runs of pixels in one batch: as many as files of 512 bytes fit into it."""

# --- the audit log ------------------------------------------------------------

CHECKPOINT_BYTES = 32 * 1024
"""Most bytes of a signed checkpoint in a message: a note with a hundred signature
lines has about 20 KiB."""

COSIGNATURE_BYTES = 1024
"""Most bytes of one signature line: the name of a witness (90) and 76 bytes in base64."""

PROOF_HASHES = 64
"""Most hashes of a proof; a log of 2^53 entries needs 54."""

AUDIT_STREAMS_PER_PEER = 4
"""Most requests of one peer about logs that are answered at the same time. A log's owner
makes one at a time and never reaches this limit."""

EXCHANGES_ENTRIES = 128
"""Most entries in one part of a list for a comparison of two logs; with proofs of 20
hashes and entries of a kilobyte, a part has about 250 KiB."""

RECONCILE_ENTRIES = 200_000
"""Most entries that a peer may list in one comparison: 50,000 transfers. Both sides hold
some 3 KB for each; for more, compare exported logs."""

# --- searches for a patient -----------------------------------------------------

FIND_STUDIES = 200
"""Most studies in the answer to a search for a patient: about 80 KiB, and an entry that names each
of them. A patient with more is answered with a refusal, never with a part."""

FIND_CHARACTERS = 128
"""Longest Patient ID, issuer or name in a question; PS3.5 allows 64 for each."""

FIND_HOUR_SECONDS, FIND_DAY_SECONDS = 3600, 24 * 3600

FINDS_AN_HOUR, FINDS_A_DAY = 30, 200
"""Most patients for whom a facility may ask within any hour, and any day. Enough for a ward; who
asks for all the neighbours is stopped, and is on record."""

FINDS_AT_ONCE = 4
"""Most questions of one facility that are answered at the same time."""

FIND_STEP_SECONDS = 0.25
"""Answers leave at whole multiples of this after the question came, so that their time tells
nothing of what was found."""

FOUND_SECONDS = 24 * 3600
"""How long an asker keeps what it found; then it has to ask again."""

GRANTS_BYTES = 256 * 1024
"""Most bytes of a statement of what a peer may do. 200 rules of a few conditions have some 50 KiB;
where values would take more, only the kinds of conditions are told."""

# --- text ---------------------------------------------------------------------

UID_CHARACTERS = 64
"""Longest DICOM UID, PS3.5 section 9.1."""

NAME_CHARACTERS = 128
"""Longest facility name or petname, or name of a person."""

ROLE_CHARACTERS = 64
"""Longest role of a person, as the facility itself calls it."""

TEXT_CHARACTERS = 1024
"""Longest free text in a message, such as a Study Description (64 in PS3.5, but
real files break that)."""

OFFER_CHARACTERS = 500
"""Longest message of a person with an offer: why it is sent, no report."""

MODALITY_CHARACTERS = 16
"""Longest modality: a Code String, PS3.5 section 6.2."""

MODALITIES = 64
"""Most modalities in a record of a study; a source leaves out the rest. A study has one to
five; only a faulty tool makes hundreds."""

ANNOUNCE_RECORDS = 256
"""Most records in one announcement; its audit entry (one commitment of 64 hex
digits a record) stays well under the 65,535 bytes of an entry."""

WANT_RUNS = 16_384
"""Most runs of batch indices in one portion; a recipient asks for more in several portions."""

# --- time, seconds --------------------------------------------------------------

PEER_REPLY_SECONDS = 20.0
"""Longest wait for an answer for which the peer needs only its memory and disk."""

VERIFY_SECONDS = 600.0
"""Longest wait while a recipient verifies: the stored part of an interrupted transfer before
its first `want`, and the rest before its receipt. A slow disk at the other side is not a
fault; its pings show that it is alive."""

STALL_SECONDS = 25.0
"""A transfer in which no byte moved for this long is given up and resumed; a frozen peer is
noticed in 30 s at the latest."""

HEARTBEAT_SECONDS = 15.0
"""Time between messages on an idle subscription."""

SUBSCRIPTION_SILENCE_SECONDS = 45.0
"""A subscription silent for three heartbeats is dead."""

CLOCK_SKEW_SECONDS = 24 * 3600
"""Largest difference between a request's time and ours. Hospital clocks drift,
and replay is already prevented by the transfer's ephemeral keys; the bound only
keeps nonsense out of the log."""

# --- pairing by a code ------------------------------------------------------------------

PAIRING_FRAME_BYTES = 1024
"""Most bytes of a message from a side whose code is not confirmed; the largest has some 100."""

PAIRING_CARD_FRAME_BYTES = 72 * 1024
"""Most bytes of the one message that holds a card of 64 KiB."""

PAIRING_STEP_SECONDS = 10.0
"""Longest wait for one message of the exchange: machines answer each other."""

PAIRING_WINDOW_SECONDS = 600
"""How long a code counts: enough for a telephone call, too short to forget that it is open."""

PAIRING_DECIDE_SECONDS = 600
"""Longest wait for a person who looks at the name and the fingerprint of the other facility."""

PAIRING_CALLERS = 2
"""Most callers of a window at once: one is enough, and one more keeps a silent one from
keeping the right one out."""

PAIRING_TRIES = 20
"""Wrong confirmations after which a code is dead: one guess in 10^10 each."""

PAIRING_TRIES_PER_ADDRESS = 3
"""Of these from one address (an IPv6 /64): so that one stranger does not end the window."""

PAIRING_PAUSE_SECONDS = 1.0
"""Least time between two callers of one address."""

# --- budgets of a peer ----------------------------------------------------------------


@dataclass(frozen=True)
class Budget:
    """A limit on one kind of work of a facility at a node, over all its keys and connections.

    Attributes:
        per_hour: the average rate.
        burst: the most that a quiet time saves up, and so the most that may come at once.
        over: the effect of exceeding it: `busy` (refused with the code BUSY), `wait` (served
            later), or `count` (done, but counted instead of being recorded each time).
        why: the reason for the numbers.
    """

    per_hour: float
    burst: float
    over: str
    why: str


BUDGETS = {
    "hello": Budget(3_600, 100, "wait", "one a connection; a line that flaps makes many"),
    "subscription": Budget(3_600, 100, "wait", "as hello, and one is open at a time"),
    "feed-reset": Budget(12, 24, "wait", "the whole feed: a restored backup, or a line that flaps"),
    "announcement-bytes": Budget(
        64 * 1024 * 1024, 64 * 1024 * 1024, "wait", "150,000 records of 400 bytes at once"
    ),
    "request": Budget(3_600, 600, "busy", "that is refused; what is granted counts in none"),
    "urgent-request": Budget(3_600, 100, "busy", "the same, never behind routine requests"),
    "audit-request": Budget(36_000, 1_000, "busy", "a round a minute, and receipts of an outage"),
    "comparison": Budget(12, 4, "busy", "two logs are compared now and then, by a person"),
    "grants": Budget(20, 20, "wait", "new statements of rights: an admin makes a few a day"),
    "offer": Budget(60, 30, "busy", "new offers: a person makes each, and a person reads it"),
    "offer-message": Budget(3_600, 600, "busy", "offers again at each connection, answers, ends"),
    "logged-refusal": Budget(20, 20, "count", "one entry each; then one an hour with the count"),
    "log-line": Budget(60, 20, "count", "lines of one kind about one peer in the process log"),
}
"""One row for each kind; each facility has its own budgets. A node may set others for a peer
(`[limits]` in its settings). Exceeding a budget never disconnects a trusted peer or denies
it a study that it may have: only their number and the line limit transfers themselves."""

OFFERS_OPEN = 200
"""Most offers of one peer, and to one peer, that are open at once: a person reads each."""

OFFER_DAYS = 90
"""Longest time that an offer may be open; then it would be a rule."""

OFFER_STREAMS_PER_PEER = 4
"""Most messages of one peer about offers that are handled at once; a node sends one at a time."""

FEED_RECORDS = 500_000
"""Most studies kept from one peer's feed; a hospital archives some 100,000 a year."""

FEED_BYTES = 256 * 1024 * 1024
"""Most bytes kept from one peer's feed, as stored in the database."""
