"""The token bucket: how much of something may happen, and when the next may.

Pure arithmetic, with the time as an argument. A bucket serves as a pace, where the caller
waits (`reserve`), or as a budget, where a caller that comes too soon is refused (`take`).
"""

PACE_SECONDS = 0.05
"""Bulk data may make up for so much of a pause: late wake-ups then cost no throughput, but
a quiet peer cannot save up a burst that would fill a line."""

STEP_SECONDS = 0.25
"""A piece of data takes about so long at the rate: sending is smooth, and stops soon."""

LEAST_STEP_BYTES = 1024

_NEVER_LATE = 1e-9


def step_bytes(bytes_per_second: float, most: int) -> int:
    """Number of bytes to send at once at a rate; at most `most`."""
    return max(min(int(bytes_per_second * STEP_SECONDS), most), LEAST_STEP_BYTES)


class Bucket:
    """The used amount, kept as the time until which the rate is used up."""

    def __init__(self) -> None:
        self._free_at = float("-inf")

    def reserve(self, amount: float, per_second: float, burst: float, now: float) -> float:
        """Count an amount that is going to be used, and return when it may be.

        The amounts that begin within any period are at most the rate times the period, plus
        the burst, plus one amount.

        Args:
            amount: the amount, in any unit.
            per_second: the rate now; it may change from call to call.
            burst: most that a pause may save up.
            now: seconds of a clock that does not go back.

        Returns:
            Seconds to wait before it is used.
        """
        begin = max(self._free_at, now - burst / per_second)
        self._free_at = begin + amount / per_second
        return max(0.0, begin - now)

    def missing(self, amount: float, per_second: float, burst: float, now: float) -> float:
        """Seconds until an amount can be taken; uses nothing."""
        end = max(self._free_at, now - burst / per_second) + amount / per_second
        return max(0.0, end - now)

    def take(self, amount: float, per_second: float, burst: float, now: float) -> bool:
        """Use an amount now, if it is available; see `reserve`.

        The amounts taken within any period are at most the rate times the period, plus the
        burst.
        """
        end = max(self._free_at, now - burst / per_second) + amount / per_second
        if end > now + _NEVER_LATE:
            return False
        self._free_at = end
        return True
