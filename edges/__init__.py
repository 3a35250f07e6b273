"""What the systems of a hospital say, without I/O and without a clock; `node/edges` speaks it."""
