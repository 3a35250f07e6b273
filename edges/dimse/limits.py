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

SENT_PDU_BYTES = 65_536
"""Longest P-DATA-TF that we send, also to who would take longer ones."""
