"""The two ends of a link in one process: many answers share one coded stream.

Run: python examples/link.py
"""

import narrows
from narrows.coding.events import AnswerSpec, Coding, Finish, Finished, Text

inside, outside = narrows.load_model("default"), narrows.load_model("default")
encoder, decoder = narrows.LinkEncoder(inside), narrows.LinkDecoder(outside)

prompt = tuple(inside.tokenizer.encode(b"user: Count to five.\nassistant: "))
for _ in range(2):  # both ends count requests alike, so no number crosses
    spec = AnswerSpec(prompt, max_tokens=100)
    number = encoder.request(spec)
    assert decoder.request(spec) == number
    encoder.open(number, Coding.TEXT)
    encoder.put(number, Text(b"One, two, three, four, five."))
    encoder.put(number, Finished(Finish.STOP))

link_bytes, now_ms = b"", 0.0
while now_ms is not None:
    link_bytes += encoder.poll(now_ms)
    now_ms = encoder.next_poll_ms(now_ms)
answers = {0: b"", 1: b""}
for number, event in decoder.feed(link_bytes):
    if isinstance(event, Text):
        answers[number] += event.data
print(f"{len(link_bytes)} bytes on the link for {answers}")
assert set(answers.values()) == {b"One, two, three, four, five."}
