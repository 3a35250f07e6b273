"""Which instances share a batch: the packing rule of docs/protocol.md section 5.1.

Pure arithmetic on sizes. All nodes pack by this rule, but no reader depends on it: a
manifest gives the place of each instance, and any placement that `protocol.manifest`
accepts is read.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from protocol import limits
from protocol.errors import LocalProtocolError


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of bytes of one instance.

    Attributes:
        instance: position in the sizes given to `plan`, from 0.
        start: offset in the instance, in bytes.
        length: length in bytes, at least 1.
    """

    instance: int
    start: int
    length: int


def plan(
    sizes: Iterable[int], batch_bytes: int = limits.BATCH_BYTES
) -> Iterator[tuple[Segment, ...]]:
    """Pack the instances of one series, in order, into batches.

    An instance that fits goes whole into the open batch, or opens the next batch. An
    instance larger than a batch is split over batches that hold nothing else; all
    of them but the last are full.

    Args:
        sizes: size of each instance in bytes, at least 1.
        batch_bytes: most original bytes in a batch.

    Yields:
        The segments of one batch, in order.

    Raises:
        LocalProtocolError: a size below 1.
    """
    batch: list[Segment] = []
    filled = 0
    for instance, size in enumerate(sizes):
        if size < 1:
            raise LocalProtocolError("an instance has at least one byte")
        if batch and filled + size > batch_bytes:
            yield tuple(batch)
            batch, filled = [], 0
        if size > batch_bytes:
            for start in range(0, size, batch_bytes):
                yield (Segment(instance, start, min(batch_bytes, size - start)),)
            continue
        batch.append(Segment(instance, 0, size))
        filled += size
    if batch:
        yield tuple(batch)
