"""Checking what a peer has signed."""

import keys.errors
from keys import identity
from protocol.errors import RemoteProtocolError, WireCode


def check_signature_untrusted(
    signer: bytes, domain: bytes, body: bytes, signature: bytes, what: str
) -> None:
    """Check a signature by a node key.

    Args:
        signer: the node key, 32 bytes.
        domain: of the kind of message.
        body: what is signed.
        signature: 64 bytes.
        what: the thing's name, for the error.

    Raises:
        RemoteProtocolError: it does not hold.
    """
    try:
        identity.verify(signer, domain, body, signature)
    except keys.errors.KeysError:
        raise RemoteProtocolError(
            f"the signature of the {what} does not hold", WireCode.BAD_SIGNATURE
        ) from None
