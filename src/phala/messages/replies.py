"""Replies as they travel: sealed for whoever asked.

Source: DESIGN §5.
"""

from phala.crypto import aead, hpke, kdf
from phala.crypto.secret import Secret
from phala.messages.calls import (
    CALL_VERSION,
    DEPLOY_INFO,
    REPLY,
    REPLY_INFO,
    Reply,
    SealedReply,
)
from phala.messages.padding import pad, unpad
from phala.messages.types import CallId, SealKey
from phala.primitives.types import Hash


def seal_reply(reply_key: bytes, call: CallId, reply: Reply, *, nonce: bytes) -> SealedReply:
    """For the one who made `reply_key`. The nonce is 12 random bytes: replicas, and a worker that
    was put back to an older state, answer one key more than once."""
    key = kdf.derive(Secret(reply_key), REPLY_INFO)
    sealed = nonce + aead.seal(key, nonce, pad(REPLY.encode(reply)), call)
    return SealedReply(CALL_VERSION, call, sealed)


def open_reply(reply_key: bytes, found: SealedReply) -> Reply:
    """Raises `Invalid`: altered, of another call, or under another key."""
    key = kdf.derive(Secret(reply_key), REPLY_INFO)
    nonce, sealed = found.sealed[: aead.NONCE_BYTES], found.sealed[aead.NONCE_BYTES :]
    return REPLY.decode(unpad(aead.open_sealed(key, nonce, sealed, found.call)))


def seal_deployed(reply_to: SealKey, genesis: Hash, call: CallId, reply: Reply) -> SealedReply:
    """A deployment's outcome, for the X25519 key that its deployer named in public."""
    sealed = hpke.seal(reply_to, pad(REPLY.encode(reply)), deployed_info(genesis, call))
    return SealedReply(CALL_VERSION, call, sealed)


def open_deployed(private: Secret, genesis: Hash, found: SealedReply) -> Reply:
    """Raises `Invalid`: altered, of another call or chain, or for another key."""
    padded = hpke.open_sealed(private, found.sealed, deployed_info(genesis, found.call))
    return REPLY.decode(unpad(padded))


def deployed_info(genesis: Hash, call: CallId) -> bytes:
    return DEPLOY_INFO + genesis + call
