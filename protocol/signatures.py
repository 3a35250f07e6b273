"""Checking a peer's signature."""

import keys.errors
from keys import identity
from protocol.errors import RemoteProtocolError, WireCode


def check_signature_untrusted(
    signer: bytes, domain: bytes, body: bytes, signature: bytes, what: str
) -> None:
    """Check a signature by a node key.

    Args:
        signer: the node key, 32 bytes.
        domain: the domain of this kind of message.
        body: the signed bytes.
        signature: 64 bytes.
        what: the name of the signed object, for the error.

    Raises:
        RemoteProtocolError: the signature does not hold.
    """
    try:
        identity.verify(signer, domain, body, signature)
    except keys.errors.KeysError:
        raise RemoteProtocolError(
            f"the signature of the {what} does not hold", WireCode.BAD_SIGNATURE
        ) from None
