"""X-Wing, hop keys, the wide block, headers and peeling: as the specification words them, in the same order.

A second implementation beside the crate posta-protocol, for checking vectors: slow, and not in constant time.
"""

import functools
import hashlib

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from kyber_py.ml_kem import ML_KEM_768

VERSION = 1
ML_KEM_CIPHERTEXT, X25519_LEN = 1088, 32
CIPHERTEXT, TAG, BLOCK, CHECK = ML_KEM_CIPHERTEXT + X25519_LEN, 16, 64, 32
SLOT = BLOCK + TAG + CIPHERTEXT
LONGEST_DELAY_US = 600_000_000
ZERO_NONCE = bytes(12)
LABEL = b"\\.//^\\"
FORWARD, QUEUE, INBOX, DROP = 1, 2, 3, 4


class Refused(Exception):
    """A hop drops the packet."""


def raw(text):
    return bytes.fromhex(text)


def u8(n):
    return n.to_bytes(1, "little")


def u16(n):
    return n.to_bytes(2, "little")


def u32(n):
    return n.to_bytes(4, "little")


def u64(n):
    return n.to_bytes(8, "little")


def bounded(data):
    return u32(len(data)) + data


def xor(a, b):
    return bytes(x ^ y for x, y in zip(a, b, strict=True))


# ---- primitives ----------------------------------------------------------------------------------------------------


def derive(purpose, material, length=32):
    return blake3(material, derive_key_context=f"posta v1 {purpose}").digest(length=length)


def keyed_hash(key, data):
    return blake3(data, key=key).digest()


def keystream(key, length):
    """AES-256 in counter mode from counter 2, as GCM with a zero nonce uses it."""
    encryptor = Cipher(algorithms.AES(key), modes.CTR(bytes(15) + b"\x02")).encryptor()
    return encryptor.update(bytes(length)) + encryptor.finalize()


def gmac(key, data):
    return AESGCM(key).encrypt(ZERO_NONCE, b"", data)


# ---- X-Wing --------------------------------------------------------------------------------------------------------


def x25519(secret, public):
    try:
        return X25519PrivateKey.from_private_bytes(secret).exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:  # all zero: the point contributes nothing
        raise Refused("X25519") from error


def x25519_public(secret):
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


@functools.cache
def xwing_key(seed):
    """ML-KEM's two keys, X25519's two keys."""
    expanded = hashlib.shake_256(seed).digest(96)
    encapsulation, decapsulation = ML_KEM_768.key_derive(expanded[:64])
    return encapsulation, decapsulation, x25519_public(expanded[64:]), expanded[64:]


def xwing_public(seed):
    encapsulation, _, public, _ = xwing_key(seed)
    return encapsulation + public


def xwing_combine(ss_m, ss_x, ct_x, pk_x):
    return hashlib.sha3_256(ss_m + ss_x + ct_x + pk_x + LABEL).digest()


def xwing_encapsulate(public, seed):
    encapsulation, pk_x = public[:-X25519_LEN], public[-X25519_LEN:]
    ss_m, ct_m = ML_KEM_768._encaps_internal(encapsulation, seed[:32])
    ct_x = x25519_public(seed[32:])
    return ct_m + ct_x, xwing_combine(ss_m, x25519(seed[32:], pk_x), ct_x, pk_x)


@functools.cache
def xwing_decapsulate(seed, ciphertext):
    _, decapsulation, pk_x, sk_x = xwing_key(seed)
    ct_m, ct_x = ciphertext[:ML_KEM_CIPHERTEXT], ciphertext[ML_KEM_CIPHERTEXT:]
    ss_m = ML_KEM_768.decaps(decapsulation, ct_m)
    return xwing_combine(ss_m, x25519(sk_x, ct_x), ct_x, pk_x)


# ---- the packet ----------------------------------------------------------------------------------------------------


class Geometry:
    def __init__(self, stated):
        self.hops, self.payload = stated["hops"], stated["payload"]
        self.bytes = u8(self.hops) + u32(self.payload)
        self.hash = derive("geometry", self.bytes)
        self.routing_len = (self.hops - 1) * SLOT + BLOCK
        self.header_len = CIPHERTEXT + TAG + self.routing_len
        self.payload_len = CHECK + self.payload
        self.packet_len = self.header_len + self.payload_len


def hop_keys(shared, relay, key_epoch, geometry):
    root = derive("hop", shared + relay + u64(key_epoch) + geometry.hash + u16(VERSION))
    return {
        "shared_secret": shared,
        "root_key": root,
        "header_key": derive("hop header", root),
        "filler_key": derive("hop filler", root),
        "payload_key": derive("hop payload", root),
        "replay_tag": derive("hop replay tag", root, 16),
    }


def wide_block_keys(key):
    derived = derive("wide block rounds", key, 6 * 32)
    return {name: derived[32 * i :][:32] for i, name in enumerate(("k1", "u2", "k2", "k3", "u4", "k4"))}


def wide_block(key, block, inverse=False):
    k = wide_block_keys(key)
    left, right = block[:CHECK], block[CHECK:]
    rounds = [("stream", "k1", None), ("absorb", "k2", "u2"), ("stream", "k3", None), ("absorb", "k4", "u4")]
    for kind, name, universal in reversed(rounds) if inverse else rounds:
        if kind == "stream":
            right = xor(right, keystream(keyed_hash(k[name], left), len(right)))
        else:
            left = xor(left, keyed_hash(k[name], gmac(k[universal], right)))
    return left + right


def associated(geometry, ciphertext):
    return u16(VERSION) + geometry.hash + ciphertext


def command_block(command, random):
    code = command["code"]
    start = u8(code)
    if code == FORWARD:
        start += raw(command["to"]) + u32(command["delay_us"])
    elif code == INBOX:
        start += raw(command["inbox"]) + raw(command["surb"])
    return start + random[len(start) :]


def read_command(block):
    code = block[0]
    if code == FORWARD:
        delay = int.from_bytes(block[33:37], "little")
        if delay > LONGEST_DELAY_US:
            raise Refused("delay")
        return {"code": code, "to": block[1:33].hex(), "delay_us": delay}
    if code == INBOX:
        return {"code": code, "inbox": block[1:33].hex(), "surb": block[33:49].hex()}
    if code in (QUEUE, DROP):
        return {"code": code}
    raise Refused("command")


def build_header(geometry, key_epoch, path, last, unused):
    """The header, and the keys of all hops."""
    hops = []
    for hop in path:
        ciphertext, shared = xwing_encapsulate(xwing_public(raw(hop["key_seed"])), raw(hop["encapsulation_seed"]))
        hops.append((ciphertext, hop_keys(shared, raw(hop["relay"]), key_epoch, geometry)))

    def tail(keys, filler):  # what stands at the end of a hop's routing, through its keystream
        return xor(filler, keystream(keys["header_key"], geometry.routing_len)[geometry.routing_len - len(filler) :])

    filler = b""
    for _, keys in hops[:-1]:
        filler = tail(keys, filler) + keystream(keys["filler_key"], SLOT)

    inner = None
    for i, (ciphertext, keys) in reversed(list(enumerate(hops))):
        random = raw(path[i]["block_random"])
        if inner is None:
            plain = command_block(last, random) + unused + tail(keys, filler)
        else:
            forward = {"code": FORWARD, "to": path[i + 1]["relay"], "delay_us": path[i]["delay_us"]}
            plain = (command_block(forward, random) + inner)[: geometry.routing_len]
        sealed = AESGCM(keys["header_key"]).encrypt(ZERO_NONCE, plain, associated(geometry, ciphertext))
        routing, tag = sealed[:-TAG], sealed[-TAG:]
        inner = tag + ciphertext + routing
        header = ciphertext + tag + routing
    assert len(header) == geometry.header_len
    return header, [keys for _, keys in hops]


def framed(geometry, content):
    return (bytes(CHECK) + content).ljust(geometry.payload_len, b"\0")


def peel(geometry, relay, ring, packet, seen=()):
    """The command, the hop's keys, and the packet as it leaves."""
    if len(packet) != geometry.packet_len:
        raise Refused("length")
    ciphertext, rest = packet[:CIPHERTEXT], packet[CIPHERTEXT:]
    tag, routing, payload = rest[:TAG], rest[TAG : TAG + geometry.routing_len], rest[TAG + geometry.routing_len :]
    for key_epoch, seed in ring:
        try:
            keys = hop_keys(xwing_decapsulate(seed, ciphertext), relay, key_epoch, geometry)
            plain = AESGCM(keys["header_key"]).decrypt(ZERO_NONCE, routing + tag, associated(geometry, ciphertext))
            break
        except (Refused, InvalidTag):
            continue
    else:
        raise Refused("header")
    if keys["replay_tag"] in seen:
        raise Refused("replay")
    command = read_command(plain[:BLOCK])
    payload = wide_block(keys["payload_key"], payload, inverse=True)
    if command["code"] == QUEUE and payload[:CHECK] != bytes(CHECK):
        raise Refused("payload")
    if command["code"] == FORWARD:
        if geometry.hops == 1:
            raise Refused("nowhere to go")
        next_tag, next_ciphertext = plain[BLOCK : BLOCK + TAG], plain[BLOCK + TAG : SLOT]
        routing = plain[SLOT:] + keystream(keys["filler_key"], SLOT)
        return command, keys, next_ciphertext + next_tag + routing + payload
    return command, keys, ciphertext + tag + routing + payload
