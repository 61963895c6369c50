"""What travels in packets: the layout of commands, answers and contents, sealed boxes, and invitations' links."""

from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from packet import TAG, bounded, raw, u8, u16, u32, u64

BOX_LEN, BLOB_LEN = 11 * 1024, 8 * 1024

# Fields by the code that stands in front of them. 200 is none that this version knows.
COMMANDS = {
    1: "queue:hex writer:hex queue_kind:u8 proof:proof",
    2: "invited:hex writer:hex",
    3: "writer:hex sequence:u64 body:body",
    4: "reader:hex acked:u64 pace:u32",
    5: "reader:hex after:u64",
    6: "reader:hex up_to:u64",
    8: "put:hex get:hex one_time:u8 hours:u16 body:body",
    9: "get:hex reader:hex",
    10: "",
    11: "put:hex",
    16: "writer:hex message:hex proof:proof body:body",
    **dict.fromkeys((7, 12, 13, 14, 15), "reader:hex"),
    200: "operands:hex",
}
INFO = "queue_kind:u8 flags:flags held:u32 room:u32 highest:u64 acked:u64 hours:u32"
ANSWERS = {
    1: "sequence:u64 left:u32 body:body",
    3: "body:body",
    4: "through:u64 room:u32",
    5: INFO,
    28: "asks:asks",
    200: "operands:hex",
}
CONTENTS = {1: "number:u64 expires_ms:u64 body:body", 2: "up_to:u64", 3: "queues:queues", 4: "have:u64 alone:u8 generation:u64 queues:queues",
            5: "up_to:u64 from:u64 key_package:bounded",
            6: "number:u64 expires_ms:u64 after_s:u32 body:body", 8: "generation:u64 queues:queues", 200: "operands:hex"}


class Mismatch(Exception):
    """A vector states something else than what was derived."""


def expect(what, derived, stated):
    if derived != stated:
        raise Mismatch(what)


def expect_long(what, data, stated):
    expect(f"length of {what}", len(data), stated["length"])
    expect(what, blake3(data).hexdigest(), stated["blake3"])
    expect(what, data.hex(), stated.get("bytes", data.hex()))


def encode_proof(proof):
    parts = {0: "", 1: "password:password", 2: "seed:hex nonce:u64"}[proof["code"]]
    return u8(proof["code"]) + encode(parts, proof, b"")


def encode_asks(asks):
    return u8(asks["code"]) + encode({2: "effort:u8 seed:hex"}.get(asks["code"], ""), asks, b"")


def encode_queues(queues):
    return u32(len(queues)) + b"".join(raw(q["relay"]) + raw(q["invited"]) + raw(q["key"]) for q in queues)


WRITERS = {"hex": raw, "u8": u8, "u16": u16, "u32": u32, "u64": u64, "proof": encode_proof, "asks": encode_asks}
WRITERS |= {"queues": encode_queues, "password": lambda text: bounded(raw(text)), "bounded": lambda b: bounded(raw(b))}


def encode(layout, fields, stated):
    """Fields one after the other. A long body's bytes are found in the stated encoding, which begins here."""
    out = b""
    for name, kind in (part.split(":") for part in layout.split()):
        if kind == "flags":
            out += u8(fields["secured"] | fields["suspended"] << 1 | fields["retiring"] << 2)
        elif kind == "body":
            at, length = len(out) + 4, fields[name]["length"]
            body = raw(fields[name]["bytes"]) if "bytes" in fields[name] else stated[at : at + length]
            expect_long(name, body, fields[name])
            out += bounded(body)
        else:
            out += WRITERS[kind](fields[name])
    return out


def seal(key, nonce, content, length):
    plain = bounded(content).ljust(length - len(nonce) - TAG, b"\0")
    return (nonce + AESGCM(key).encrypt(nonce, plain, None)).hex()


def bech32m(prefix, data):
    def checksum(values):
        c = 1
        for value in values:
            top, c = c >> 25, (c & 0x1FFFFFF) << 5 ^ value
            for i, g in enumerate((0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)):
                c ^= g if top >> i & 1 else 0
        return c ^ 0x2BC830A3

    bits = "".join(f"{byte:08b}" for byte in data)
    fives = [int(bits[i : i + 5].ljust(5, "0"), 2) for i in range(0, len(bits), 5)]
    head = [ord(c) >> 5 for c in prefix] + [0] + [ord(c) & 31 for c in prefix]
    check = checksum(head + fives + [0] * 6)
    fives += [check >> 5 * (5 - i) & 31 for i in range(6)]
    return prefix + "1" + "".join("qpzry9x8gf2tvdw0s3jn54khce6mua7l"[five] for five in fives)
