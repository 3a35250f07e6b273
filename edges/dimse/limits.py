"""The bounds of what another system may send over one association."""

PDU_BYTES = 131_072
"""Longest P-DATA-TF that we take, and offer to take: what dcmtk sends at most."""

REQUEST_BYTES = 262_144
"""Longest A-ASSOCIATE-RQ: 128 contexts with each some twenty transfer syntaxes are 90 KB."""

COMMAND_BYTES = 65_536
"""Longest command set of one message; with a full list of UIDs to retrieve it stays below."""

CONTEXTS = 128
"""Most presentation contexts: their ids are the odd numbers of a byte, PS3.8 section 9.3.2.2."""

UID_CHARACTERS = 64
"""Longest UID, PS3.5 section 9.1."""

OPERATIONS = 8
"""Operations that a sender may have under way at once, where it asks for more than one."""

LEAST_PDU_BYTES = 1024
"""Shortest P-DATA-TF that another system may ask for: each piece of ours costs a header."""

SENT_PDU_BYTES = 65_536
"""Longest P-DATA-TF that we send, also to who would take longer ones."""

DATA_SET_BYTES = 8 * 1024 * 1024
"""Longest data set that is read whole: a query, or the references of some 50,000 instances."""

DATA_SET_ELEMENTS = 300_000
"""Most elements and items of one: 50,000 references have 200,000."""

DATA_SET_DEPTH = 8
"""Deepest sequences of one; a worklist has three."""
