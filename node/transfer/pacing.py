"""The token bucket of one peer: when the next bytes may leave under a rate.

Pure arithmetic on a clock that is given. All transfers to one peer share one
`Pace`, so that they share its rate.
"""

BURST_SECONDS = 0.05
"""How much of a pause may be made up for: late wake-ups cost no throughput, and a
quiet peer saves up no burst that would fill a line."""

STEP_SECONDS = 0.25
"""What is sent at once lasts about so long at the rate: smooth, and soon stopped."""

LEAST_STEP_BYTES = 1024


def step_bytes(bytes_per_second: float, most: int) -> int:
    """How much to send at once under a rate; at most `most` bytes."""
    return max(min(int(bytes_per_second * STEP_SECONDS), most), LEAST_STEP_BYTES)


class Pace:
    """What one peer has been sent, as the time until which its rate is used up."""

    def __init__(self) -> None:
        self._free_at = float("-inf")

    def reserve(self, size: int, bytes_per_second: float, now: float) -> float:
        """Count bytes that are going to be sent.

        In any time the bytes that begin to leave are at most that time at the rate,
        `BURST_SECONDS` at the rate, and one step.

        Args:
            size: bytes.
            bytes_per_second: the rate now; it may change from call to call.
            now: seconds of a clock that does not go back.

        Returns:
            Seconds to wait before they are sent.
        """
        begin = max(self._free_at, now - BURST_SECONDS)
        self._free_at = begin + size / bytes_per_second
        return max(0.0, begin - now)
