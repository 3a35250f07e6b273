"""The token bucket: how much of something may happen, and when the next may.

Pure arithmetic on a clock that is given. One bucket serves as pace, where whoever comes
waits (`reserve`), and as budget, where whoever comes too soon is told no (`take`).
"""

PACE_SECONDS = 0.05
"""How much of a pause bulk data may make up for: late wake-ups cost no throughput, and a
quiet peer saves up no burst that would fill a line."""

STEP_SECONDS = 0.25
"""What is sent at once lasts about so long at the rate: smooth, and soon stopped."""

LEAST_STEP_BYTES = 1024

_NEVER_LATE = 1e-9


def step_bytes(bytes_per_second: float, most: int) -> int:
    """How much to send at once under a rate; at most `most` bytes."""
    return max(min(int(bytes_per_second * STEP_SECONDS), most), LEAST_STEP_BYTES)


class Bucket:
    """What was used, as the time until which the rate is used up."""

    def __init__(self) -> None:
        self._free_at = float("-inf")

    def reserve(self, amount: float, per_second: float, burst: float, now: float) -> float:
        """Count an amount that is going to be used, and say when.

        In any time what begins in it is at most that time at the rate, the burst, and
        one amount.

        Args:
            amount: of whatever is counted.
            per_second: the rate now; it may change from call to call.
            burst: what a pause may save up at most.
            now: seconds of a clock that does not go back.

        Returns:
            Seconds to wait before it is used.
        """
        begin = max(self._free_at, now - burst / per_second)
        self._free_at = begin + amount / per_second
        return max(0.0, begin - now)

    def missing(self, amount: float, per_second: float, burst: float, now: float) -> float:
        """Seconds until an amount can be taken; nothing is used."""
        end = max(self._free_at, now - burst / per_second) + amount / per_second
        return max(0.0, end - now)

    def take(self, amount: float, per_second: float, burst: float, now: float) -> bool:
        """Use an amount now, if there is so much; see `reserve`.

        In any time what is taken is at most that time at the rate, and the burst.
        """
        end = max(self._free_at, now - burst / per_second) + amount / per_second
        if end > now + _NEVER_LATE:
            return False
        self._free_at = end
        return True
