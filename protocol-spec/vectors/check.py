#!/usr/bin/env python3
"""Derives the test vectors of Posta a second time, from what the files state alone, and compares.

It shares no code with the crate posta-protocol: what it does is what the specification says. `.ci/vectors` runs it with
the packages of requirements.txt. With --self-test it garbles vectors and must notice each time.
"""

import copy
import functools
import json
import re
import sys
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from encoding import (
    ANSWERS,
    BLOB_LEN,
    BOX_LEN,
    COMMANDS,
    CONTENTS,
    Mismatch,
    bech32m,
    encode,
    encode_queues,
    expect,
    expect_long,
    seal,
)
from packet import (
    CHECK,
    INBOX,
    VERSION,
    ZERO_NONCE,
    Geometry,
    Refused,
    bounded,
    build_header,
    derive,
    framed,
    gmac,
    hop_keys,
    keystream,
    peel,
    raw,
    u8,
    u32,
    u64,
    wide_block,
    wide_block_keys,
    xwing_decapsulate,
    xwing_encapsulate,
    xwing_public,
)

# ---- packets and replies -------------------------------------------------------------------------------------------


def travel(vector, geometry, packet):
    """Peels a packet at each hop, compares, gives the payload."""
    for i, (relay, hop) in enumerate(zip(vector["path"], vector["hops"], strict=True)):
        expect_long(f"packet at hop {i}", packet, hop["packet"])
        ring = [(vector["key_epoch"], raw(relay["key_seed"]))]
        command, keys, packet = peel(geometry, raw(relay["relay"]), ring, packet)
        expect(f"command at hop {i}", command, hop["command"])
        for name, key in keys.items():
            expect(f"{name} at hop {i}", key.hex(), hop[name])
    payload = packet[geometry.header_len :]
    expect_long("payload at the end", payload, vector["payload"])
    return payload


def check_packet(vector):
    geometry = Geometry(vector["geometry"])
    unused, content = raw(vector["unused_random"]), raw(vector["content"])
    header, hops = build_header(geometry, vector["key_epoch"], vector["path"], vector["last"], unused)
    payload = framed(geometry, content)
    for keys in reversed(hops):
        payload = wide_block(keys["payload_key"], payload)
    expect("content", travel(vector, geometry, header + payload), framed(geometry, content))


def check_reply(vector):
    geometry = Geometry(vector["geometry"])
    last = {"code": INBOX, "inbox": vector["inbox"], "surb": vector["surb"]}
    path, end_key, content = vector["path"], raw(vector["end_key"]), raw(vector["content"])
    header, hops = build_header(geometry, vector["key_epoch"], path, last, raw(vector["unused_random"]))
    block = raw(path[0]["relay"]) + u64(vector["key_epoch"]) + end_key + header
    expect("reply block", block.hex(), vector["block"])
    payload = travel(vector, geometry, header + wide_block(end_key, framed(geometry, content)))
    for keys in reversed(hops):
        payload = wide_block(keys["payload_key"], payload)
    recovered = wide_block(end_key, payload, inverse=True)
    expect("recovered answer", recovered, framed(geometry, content))
    expect_long("recovered answer", recovered[CHECK:], vector["recovered"])


def check_refused(vector):
    if vector["decoder"] != "packet":
        return False
    geometry = Geometry(vector["geometry"])
    ring = [(key["key_epoch"], raw(key["key_seed"])) for key in vector["keys"]]
    packet = raw(vector["bytes"]) + bytes(vector.get("zeros_after", 0))
    try:
        peel(geometry, raw(vector["relay"]), ring, packet, {raw(tag) for tag in vector["seen"]})
    except Refused:
        return True
    raise Mismatch("accepted")


# ---- derivations ---------------------------------------------------------------------------------------------------


def check_xwing(vector):
    seed, ciphertext = raw(vector["seed"]), raw(vector["ciphertext"])
    try:
        shared = xwing_decapsulate(seed, ciphertext)
    except Refused:
        return expect("refused", True, vector.get("refused"))
    expect("decapsulated secret", shared.hex(), vector.get("shared_secret"))
    if "encapsulation_seed" in vector:
        public = xwing_public(seed)
        expect("public key", public.hex(), vector["public_key"])
        made = xwing_encapsulate(public, raw(vector["encapsulation_seed"]))
        expect("ciphertext and secret", made, (ciphertext, shared))


def check_kdf(vector):
    bits = {"hop keys": kdf_hop, "wide block": kdf_wide_block, "routing": kdf_routing, "ids": kdf_ids}
    bits |= {"geometry": kdf_geometry, "puzzle": kdf_puzzle, "derive": kdf_derive, "signature": kdf_signature}
    bits[vector["kind"]](vector)


def kdf_derive(vector):
    purpose = vector["context"].removeprefix("posta v1 ")
    expect("output", derive(purpose, raw(vector["material"]), 80).hex(), vector["output"])


def signed(context, seed, message):
    return Ed25519PrivateKey.from_private_bytes(seed).sign(context.encode() + b"\0" + message)


def kdf_signature(vector):
    signature = signed(vector["context"], raw(vector["seed"]), raw(vector["message"]))
    expect("signature", signature.hex(), vector["signature"])
    key = Ed25519PrivateKey.from_private_bytes(raw(vector["seed"])).public_key()
    expect("public key", key.public_bytes(Encoding.Raw, PublicFormat.Raw).hex(), vector["public"])


def kdf_hop(vector):
    geometry = Geometry(vector["geometry"])
    expect("geometry hash", geometry.hash.hex(), vector["geometry_hash"])
    derived = hop_keys(raw(vector["shared_secret"]), raw(vector["relay"]), vector["key_epoch"], geometry)
    for name, key in derived.items():
        expect(name, key.hex(), vector[name])


def kdf_wide_block(vector):
    key, block = raw(vector["key"]), raw(vector["block"])
    expect("round keys", {name: k.hex() for name, k in wide_block_keys(key).items()}, vector["round_keys"])
    expect("forward", wide_block(key, block).hex(), vector["forward"])
    expect("inverse", wide_block(key, block, inverse=True).hex(), vector["inverse"])


def kdf_routing(vector):
    key, plain = raw(vector["key"]), raw(vector["plain"])
    sealed = AESGCM(key).encrypt(ZERO_NONCE, plain, raw(vector["aad"])).hex()
    expect("sealed", sealed, vector["sealed"] + vector["tag"])
    expect("keystream", keystream(key, len(plain)).hex(), vector["keystream"])
    expect("GMAC", gmac(key, plain).hex(), vector["gmac_of_plain"])


def kdf_ids(vector):
    purposes = {"as_reader_capability": "queue reader", "as_writer_capability": "queue writer"}
    purposes |= {"as_blob_capability": "blob reader", "as_attach_secret": "inbox"}
    for field, purpose in purposes.items():
        expect(field, derive(purpose, raw(vector["secret"])).hex(), vector[field])


def kdf_geometry(vector):
    g = Geometry(vector["geometry"])
    expect("bytes", g.bytes.hex(), vector["bytes"])
    expect("hash", g.hash.hex(), vector["hash"])
    stated = (vector["routing_len"], vector["header_len"], vector["packet_len"])
    expect("lengths", (g.routing_len, g.header_len, g.packet_len), stated)


def kdf_puzzle(vector):
    if vector["for"] == "create":
        asked = raw(vector["queue"]) + raw(vector["writer"]) + u8(vector["queue_kind"])
    else:
        asked = raw(vector["writer"]) + raw(vector["message"])
    statement = derive(f"puzzle {vector['for']}", asked)
    expect("statement", statement.hex(), vector["statement"])
    for nonce in range(vector["first_nonce"] + 1):  # the first that reaches the effort, and none before it
        digest = derive("puzzle", raw(vector["seed"]) + statement + u64(nonce))
        reached = 256 - int.from_bytes(digest, "big").bit_length()
        expect(f"effort of nonce {nonce}", reached >= vector["effort"], nonce == vector["first_nonce"])
    expect("digest", (digest.hex(), reached), (vector["digest"], vector["reached"]))


# ---- encodings -----------------------------------------------------------------------------------------------------


def check_commands(vector):
    stated, blocks = raw(vector["bytes"]), [raw(block) for block in vector["reply_blocks"]]
    body = u8(vector["code"]) + encode(COMMANDS[vector["code"]], vector["fields"], stated[5:])
    expect("bytes", bounded(body + u8(len(blocks)) + b"".join(blocks)), stated)


def check_answers(vector):
    stated = raw(vector["bytes"])
    head = u8(vector["code"]) + raw(vector["incarnation"])
    expect("bytes", bounded(head + encode(ANSWERS.get(vector["code"], ""), vector["fields"], stated[21:])), stated)


def check_boxes(vector):
    if vector["kind"] == "content":
        stated = raw(vector["bytes"])
        head = u64(vector["epoch"]) + raw(vector["consensus"]) + u8(vector["code"])
        return expect("bytes", head + encode(CONTENTS[vector["code"]], vector["fields"], stated[41:]), stated)
    if vector["kind"] == "inside":
        parts = bounded(raw(vector["handshake"])) if vector["code"] > 1 else b""
        inside = u64(vector["number"]) + u8(vector["code"]) + parts + bounded(raw(vector["message"]))
        return expect("bytes", inside, raw(vector["bytes"]))
    if vector["kind"] == "conversation key":
        key = derive("conversation box", raw(vector["exported"]) + raw(vector["key"]))
        return expect("sealing key", key.hex(), vector["sealing_key"])
    key = derive("sealed box", raw(vector["key"]))
    expect("sealing key", key.hex(), vector["sealing_key"])
    expect("box", seal(key, raw(vector["nonce"]), raw(vector["content"]), BOX_LEN), vector["bytes"])


def check_invitations(vector):
    offer = raw(vector["nonce"]) + encode_queues(vector["queues"]) + bounded(raw(vector["key_package"]))
    secret = derive("invitation data", offer)
    get, key = derive("invitation get", secret), derive("invitation seal", secret)
    expect("offer", offer.hex(), vector["offer"])
    expect("secret", secret.hex(), vector["secret"])
    expect("capability", (get.hex(), derive("blob reader", get).hex()), (vector["get_capability"], vector["blob_id"]))
    link = b"\x01" + b"".join(raw(relay)[:8] for relay in vector["relays"]) + secret
    expect("link", "posta:" + bech32m("p", link), vector["link"])
    expect("seal key", key.hex(), vector["seal_key"])
    expect("blob", seal(key, raw(vector["blob_nonce"]), offer, BLOB_LEN), vector["blob"])


def check_documents(vector):
    """Hashes and signatures; the fields' encodings are checked by the crate's tests only."""
    kind, data = vector["kind"], raw(vector.get("bytes", ""))
    if kind not in ("certificate", "descriptor", "vote", "echo", "mix keys", "consensus body"):
        return False
    if "keys" in vector:
        seed = raw(vector["keys"]["identity_seed" if kind == "certificate" else "signing_seed"])
        expect("signature", signed(f"posta v1 sign {kind}", seed, data[:-64]).hex(), data[-64:].hex())
    purpose, stated = ("consensus", vector["header"]["hash"]) if "header" in vector else (kind, vector.get("hash"))
    if stated is not None:
        expect("hash", derive(purpose, data).hex(), stated)
    if kind == "consensus body":
        check_random(vector["fields"]["shared_random"])
    return True


def check_random(shared):
    """Reveals fit their commits, and each value follows from the one before and, if its origin is 1, the reveals."""
    first, *later = shared["deals"]
    reveals = [(raw(item["authority"]), raw(item["reveal"])) for item in shared["reveals"]]
    commits = {item["authority"]: item["commit"] for item in shared["commits"]}
    for authority, reveal in reveals:
        commit = derive("random commit", authority + u64(first["key_epoch"]) + reveal)
        expect("commit", commit.hex(), commits[authority.hex()])
    before = raw(first["random"])
    for deal in later:
        given = reveals if deal["origin"] == 1 else []
        listed = u32(len(given)) + b"".join(authority + item for authority, item in given)
        before = derive("shared random", u8(deal["origin"]) + before + u64(deal["key_epoch"]) + listed)
        expect("random value", before.hex(), deal["random"])


# ---- running it ----------------------------------------------------------------------------------------------------

CHECKS = {
    "kdf": check_kdf,
    "xwing": check_xwing,
    "packet": check_packet,
    "reply": check_reply,
    "commands": check_commands,
    "answers": check_answers,
    "boxes": check_boxes,
    "invitations": check_invitations,
    "documents": check_documents,
    "refused": check_refused,
}
FAILURES = (Mismatch, Refused, InvalidTag, ValueError, KeyError, IndexError)


def load(name):
    file = json.loads(Path(__file__).with_name(f"{name}.json").read_text(encoding="utf-8"))
    if (file["format"], file["protocol_version"]) != (1, VERSION):
        sys.exit(f"{name}.json: another format or protocol version than this program knows")
    return file["vectors"]


def check_all():
    summary = []
    for name, check in CHECKS.items():
        done, vectors = 0, load(name)
        for vector in vectors:
            try:
                done += check(vector) is not False
            except FAILURES as error:
                sys.exit(f"{name}.json: {vector['name']}: {type(error).__name__}: {error}")
        if done == 0:
            sys.exit(f"{name}.json: no vector was derived")
        summary.append(f"{name} {done} of {len(vectors)}")
    print("vectors derived again: " + ", ".join(summary))


def hex_fields(value, way=()):
    """Where bytes stand in a vector."""
    if isinstance(value, str) and re.fullmatch("([0-9a-f]{2})+", value):
        yield way
    elif isinstance(value, (dict, list)):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from hex_fields(inner, (*way, key))


def flipped(vector, way):
    """The vector with the lowest bit of the last byte of one field flipped."""
    garbled = copy.deepcopy(vector)
    *outer, key = way
    place = functools.reduce(lambda value, step: value[step], outer, garbled)
    place[key] = place[key][:-1] + f"{int(place[key][-1], 16) ^ 1:x}"
    return garbled


def self_test():
    """One flipped bit in any field must be found: in a vector of each kind, in packets of up to three hops."""
    tried = 0
    for name in ("packet", "reply", "kdf", "xwing", "commands", "answers"):
        kinds = {}
        for vector in load(name):
            hops = len(vector.get("path", ()))
            if hops <= 3:
                kinds.setdefault((vector.get("kind"), hops), vector)
        for vector in kinds.values():
            CHECKS[name](vector)
            for way in hex_fields(vector):
                try:
                    CHECKS[name](flipped(vector, way))
                except FAILURES:
                    tried += 1
                    continue
                sys.exit(f"self-test: {name}.json: {vector['name']}: a flipped bit in {way} was not noticed")
    print(f"self-test: {tried} flipped bits, all of them found")


if __name__ == "__main__":
    if sys.argv[1:] == ["--self-test"]:
        self_test()
    elif sys.argv[1:]:
        sys.exit("usage: check.py [--self-test]")
    else:
        check_all()
