"""Texts under a weak model, as bytes and back: what an answer costs on a link, all included.

Run: python examples/compress_texts.py
"""

import gzip

import narrows

PROMPTS = ["Why is the sky blue?", "What is a lease?"]
ANSWERS = [
    "The sky is blue because air scatters short wavelengths of sunlight more than long ones.",
    "A lease is a part of a budget that is reserved before any of it is spent.",
]

model = narrows.load_model("default")
data = narrows.compress(ANSWERS, weak=model, prompts=PROMPTS)
assert narrows.decompress(data, weak=model, prompts=PROMPTS) == ANSWERS

size_bytes = sum(len(text.encode()) for text in ANSWERS)
gzip_bytes = len(gzip.compress("".join(ANSWERS).encode(), 9))
print(f"UTF-8 {size_bytes} bytes, gzip -9 {gzip_bytes}, narrows {len(data)}")
