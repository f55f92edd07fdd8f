"""A spool: tapes in a folder, sealed to an auditor, bounded in bytes and age.

A *chapter* is one tape with a boot nonce of its own (``narrows.wire.tape``, header included), in
one file or several (``file.py``). One process writes; any may read, once it has the auditor's
private key, while the files grow; whoever may write the folder may prune it.

Positions: within a chapter, bytes of its tape. Over the whole spool, the chapter's ``base`` and
that: it only grows, over restarts too, since the newest file is never removed. A credit's
``position`` is of this second kind, so that one number says what is done with.

    chapter 1            chapter 2          chapter 3
    |0 ....... 900|900 + 0 .... 900 + 400|1300 + 0 ...

When nothing more fits, or the disk fails, the writer ends the chapter: what is not on a tape is
not credited. It begins another one when there is room for a file.
"""

from narrows.wire.spool.prune import prune, prune_through
from narrows.wire.spool.reader import SpoolReader
from narrows.wire.spool.writer import SpoolWriter

__all__ = ["SpoolReader", "SpoolWriter", "prune", "prune_through"]
