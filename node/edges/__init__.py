"""The systems of the hospital: what comes in from them, and what goes out to them."""
