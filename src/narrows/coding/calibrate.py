"""What a link learns about its weak model, shared by all its answers: scalars only.

A ``Calibration`` belongs to one end of one link. Both ends must see the same sequence of
openings and closings; each ``TokenCode`` takes a copy when it opens and gives its own back
when it closes, so that neither batching nor the order of steps inside a round matters.
"""

from __future__ import annotations


class Calibration:
    """One per link and end. Nothing in it depends on which tokens an answer had, only on how
    probable they were: no content passes from one API key to another."""
