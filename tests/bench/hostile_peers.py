"""What a peer's bytes may cost: milliseconds, how long other threads wait, and memory.

python tests/bench/hostile_peers.py

Each case runs in a process of its own. "others wait" is the longest time in which another
thread of the process, as the event loop is one, did not run: the aim is under 100 ms. "MiB"
is memory beyond what making the case took.
"""

import gc
import multiprocessing
import resource
import struct
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import msgpack
import zstandard

from protocol import limits, messages, wire
from protocol.encoding import Encoding
from protocol.encoding import decode_untrusted as decode_batch
from protocol.errors import RemoteProtocolError
from protocol.manifest import BatchEntry, Counts, InstanceEntry, Manifest, SeriesEntry
from protocol.pixels import Predictor
from protocol.zstd import compress

STUDY = "1.2.826.0.1.3680043.8.498.1"
TICK_SECONDS = 0.001

Case = tuple[bytes, Callable[[bytes], object]]


def array(count: int, value: bytes) -> bytes:
    """So many equal values."""
    return msgpack.Packer().pack_array_header(count) + value * count


def instance(number: int, size: int = 1000, batch: int = 0) -> InstanceEntry:
    """One row with UIDs of usual length."""
    return InstanceEntry(
        0, f"{STUDY}.1.{number:09}", "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1",
        size, bytes(32), batch, 0, number, 512, 512, 1,
    )  # fmt: skip


def manifest(instances: int, batches: int, size: int) -> bytes:
    """A manifest with the first instance in its first batches, the others one in each."""
    rows = [instance(0, size=size * (batches - instances + 1))]
    rows += [instance(n, size, batches - instances + n) for n in range(1, instances)]
    entries = [BatchEntry(n.to_bytes(32, "big"), 9, size, Encoding.RAW) for n in range(batches)]
    series = (SeriesEntry(f"{STUDY}.1", "CT"),)
    return Manifest(STUDY, series, tuple(rows), tuple(entries)).encode()


def unknown_field() -> Case:
    """A manifest with an unknown field of 16.7 million lists."""
    known = manifest(1, 1, 1000)
    data = b"\x86" + known[1:] + wire.pack("x") + array(16 * 1024 * 1024 - 100, b"\x90")
    return data, Manifest.decode_untrusted


def tiny_batches() -> Case:
    """One instance in 2.2 million batches of one byte."""
    count = 2_200_000
    one = Manifest(STUDY, (SeriesEntry(f"{STUDY}.1", "CT"),), (instance(0, count),), ())
    before, after = one.encode().split(wire.pack("batches") + b"\x90")
    rows = array(count, wire.pack([bytes(32), 9, 1, 0]))
    counts = Counts(1, 1, count, count)
    return (
        before + wire.pack("batches") + rows + after,
        lambda data: counts.check_untrusted() or Manifest.decode_untrusted(data, counts),
    )


def usual_manifest() -> Case:
    """A manifest of 2,000 instances in 17 batches."""
    rows = [instance(n, 30_000, n // 120) for n in range(2000)]
    rows = [row._replace(offset=(n % 120) * 30_000) for n, row in enumerate(rows)]
    entries = [BatchEntry(bytes(32), 9, 120 * 30_000, Encoding.ZSTD) for _ in range(17)]
    made = Manifest(STUDY, (SeriesEntry(f"{STUDY}.1", "CT"),), tuple(rows), tuple(entries))
    return made.encode(), lambda data: Manifest.decode_untrusted(data, made.counts).content_root


def large_manifest(count: int) -> Case:
    """A manifest of so many instances, each in a batch of its own."""
    counts = Counts(1, count, count, count * 1000)
    return manifest(
        count, count, 1000
    ), lambda data: Manifest.decode_untrusted(data, counts).content_root


def message_of_lists() -> Case:
    """A message with an unknown field of 65,000 numbers of eight bytes."""
    known = messages.encode(messages.Credit(bytes=7))
    return (
        b"\x83" + known[1:] + wire.pack("x") + array(65_000, wire.pack(2**40)),
        messages.decode_untrusted,
    )


def largest_want() -> Case:
    """A message with 16,384 runs."""
    runs = tuple((2**30 + 3 * n, 1) for n in range(limits.WANT_RUNS))
    return messages.encode(messages.Want(runs=runs, last=True)), messages.decode_untrusted


def pixel_blocks(count: int, columns: int = 16, rows: int = 100) -> Case:
    """A batch whose table has so many blocks."""
    samples = bytes(count * columns * rows)
    table = wire.pack([[int(Predictor.GRADIENT), columns, rows, 0, 1]] * count)
    parts = (table, compress(b"", 1), compress(samples, 1))
    payload = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    payload += compress(samples, 1)
    return b"RMB\x02" + struct.pack(">I", 2 * len(samples)) + payload, decode_batch


CASES: dict[str, Callable[[], Case]] = {
    "manifest, unknown field of 16.7 M values": unknown_field,
    "manifest, 2.2 M batches of one byte": tiny_batches,
    "manifest of 2,000 instances": usual_manifest,
    "manifest of 30,000 instances and batches": lambda: large_manifest(30_000),
    "manifest of 300,000 instances and batches": lambda: large_manifest(300_000),
    "message, unknown field of 65,000 values": message_of_lists,
    "message `want` of 16,384 runs": largest_want,
    "batch, table of 1,300 blocks": lambda: pixel_blocks(1300),
    "batch, table of 10,900 blocks": lambda: pixel_blocks(10_900, 16, 12),
    "batch, table of 256 blocks": lambda: pixel_blocks(256, 64, 128),
}


def measure(name: str) -> tuple[int, int, float, float, int, str]:
    """Run one case: (bytes, compressed, ms, longest wait in ms, MiB, what came)."""
    data, read = CASES[name]()
    is_done = threading.Event()
    longest = [0.0]

    def tick() -> None:
        before = time.monotonic()
        while not is_done.wait(TICK_SECONDS):
            now = time.monotonic()
            longest[0] = max(longest[0], now - before)
            before = now

    gc.collect()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ticking = threading.Thread(target=tick)
    ticking.start()
    began = time.monotonic()
    try:
        read(data)
        what = "taken"
    except RemoteProtocolError as error:
        what = f"refused: {error}"
    seconds = time.monotonic() - began
    is_done.set()
    ticking.join()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10
    packed = len(zstandard.compress(data))
    return len(data), packed, 1000 * seconds, 1000 * longest[0], grown, what


def main() -> None:
    """Print the table."""
    context = multiprocessing.get_context("spawn")
    print("| what comes | bytes | compressed | ms | others wait ms | MiB | |")
    print("|---|---|---|---|---|---|---|")
    for name in CASES:
        with ProcessPoolExecutor(1, context) as alone:
            size, packed, ms, wait, grown, what = alone.submit(measure, name).result()
        print(f"| {name} | {size:,} | {packed:,} | {ms:.0f} | {wait:.0f} | {grown} | {what} |")


if __name__ == "__main__":
    main()
