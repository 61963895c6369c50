#!/usr/bin/env python3
"""Seeds for the fuzzer from the specification's test vectors: corpus.py VECTORS SEEDS

Every string of hex digits in a vector of VECTORS/*.json, and every invitation link, becomes a file in SEEDS/TARGET/ for
the targets that its `decoder`, its `kind` or else its file stands for. Most of them are no whole input; the fuzzer keeps
what reaches something new. Without vectors there is nothing to do.
"""
import hashlib
import json
import re
import sys
from pathlib import Path

# Decoders and kinds that aren't called as their target is.
NAMES = {
    "mix keys": ["mix_keys"],
    "consensus diff": ["packed_diff", "consensus_diff"],
    "mix keys diff": ["mix_keys_diff"],
    "consensus body": ["consensus", "parameters", "extensions", "addresses"],
    "descriptors": ["reply"],
    "later refusal": ["reply"],
    "content": ["content", "sealed_box"],
    "sealed box": ["sealed_box"],
    "hello": ["frame"],
    "delivery": ["frame"],
    "blob": ["offer"],
    "packet": ["peel"],
    "mix key": ["kem"],
    "reply block": ["reply_block"],
}
# Files whose vectors don't say what they are.
FILES = {
    "commands": ["command", "admission", "reply_block"],
    "answers": ["answer", "admission"],
    "invitations": ["link", "offer"],
    "reply": ["reply_block", "peel", "routing"],
    "packet": ["peel", "routing"],
    "xwing": ["kem"],
}
LONGEST = 64 * 1024


def strings(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from strings(inner)


def seed(text):
    if re.fullmatch(r"([0-9a-fA-F]{2})+", text):
        return bytes.fromhex(text)
    return text.encode() if text.lower().startswith("posta:") else None


def main(vectors, seeds):
    known = {folder.name for folder in seeds.iterdir()}
    written = set()
    for path in sorted(vectors.glob("*.json")):
        for vector in json.loads(path.read_text(encoding="utf-8"))["vectors"]:
            name = vector.get("decoder", vector.get("kind"))
            targets = NAMES.get(name, [name] if name in known else FILES.get(path.stem, []))
            for content in filter(None, map(seed, strings(vector))):
                file = hashlib.sha256(content).hexdigest()[:16]
                for target in targets if len(content) <= LONGEST else []:
                    (seeds / target / file).write_bytes(content)
                    written.add((target, file))
    print(f"posta: {len(written)} seeds from the vectors" if written else "posta: no vectors, seeds from the API only", file=sys.stderr)


main(Path(sys.argv[1]), Path(sys.argv[2]))
