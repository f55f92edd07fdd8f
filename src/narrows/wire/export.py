"""How an artifact leaves the enclave over a gate port of its own: ``LENGTH_BYTES`` of length
(big-endian), the file, and ``RECEIVED`` back from the reader that has it all."""

LENGTH_BYTES = 8
RECEIVED = b"\x06"
