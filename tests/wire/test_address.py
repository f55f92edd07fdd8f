"""HOST:PORT, in each of the places that read it."""

from __future__ import annotations

import pytest

from narrows.errors import InputError
from narrows.plan.report.compare import _steps
from narrows.plan.units import UnitError
from narrows.wire import address

WRONG = ("", "\u00b2", "\u0663", "-1", "+1", "1_0", " 1", "65536", "08400", "0009", "9" * 5000)


def test_ports_are_ascii_digits_and_few() -> None:
    assert address.parse_address("[::1]:65535") == ("::1", 65535)
    for port in WRONG:
        with pytest.raises(InputError):
            address.parse_address(f"10.0.0.1:{port}")


@pytest.mark.parametrize("count", ["\u00b2", "\u0663", "9" * 5000, "-2", ""])
def test_a_count_of_steps_in_other_digits_is_an_error_of_the_plan(count: str) -> None:
    with pytest.raises(UnitError):
        _steps(f"1..2:{count}")
