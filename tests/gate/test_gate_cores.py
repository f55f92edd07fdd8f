"""Which cores work for a device, read from made-up kernel tables."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from narrows.gate.machine.cores import Roots, device_cores, parse_list, parse_mask, shared_cores


class Machine:
    """/proc and /sys of a machine with cards."""

    def __init__(self, folder: Path) -> None:
        self.roots = Roots(folder / "proc", folder / "sys")
        self.write(self.roots.proc / "interrupts", "      CPU0 CPU1\n")
        self.gate("0")

    @staticmethod
    def write(path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def gate(self, cores: str, thread: int = 7) -> None:
        status = self.roots.proc / "self" / "task" / str(thread) / "status"
        self.write(status, f"Name:\tgate\nCpus_allowed_list:\t{cores}\n")

    def queue(self, device: str, mask: str, number: int = 0) -> None:
        folder = self.roots.sys / "class" / "net" / device
        self.write(folder / "queues" / f"rx-{number}" / "rps_cpus", mask + "\n")

    def interrupt(self, device: str, number: int, cores: str, listed: bool = True) -> None:
        self.write(self.roots.proc / "irq" / str(number) / "smp_affinity_list", cores + "\n")
        card = self.roots.sys / "class" / "net" / device / "device"
        card.mkdir(parents=True, exist_ok=True)
        if listed:
            self.write(card / "msi_irqs" / str(number), "msix\n")
        else:
            with (self.roots.proc / "interrupts").open("a") as file:
                file.write(f" {number}:   1   0  PCI-MSI 1-edge   {device}-TxRx-0\n")

    def thread(self, device: str, pid: int, cores: str) -> None:
        self.write(self.roots.sys / "class" / "net" / device / "threaded", "1\n")
        self.write(self.roots.proc / str(pid) / "comm", f"napi/{device}-5\n")
        self.write(self.roots.proc / str(pid) / "status", f"Cpus_allowed_list:\t{cores}\n")

    def shared(self) -> str:
        return shared_cores(["inner"], ["outer"], self.roots)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """Apart: inner on core 1, outer and gate on core 0."""
    made = Machine(tmp_path)
    made.queue("inner", "0")
    made.queue("outer", "0")
    made.interrupt("inner", 30, "1")
    made.interrupt("outer", 31, "0", listed=False)
    return made


def test_cards_with_interrupts_apart(machine: Machine) -> None:
    assert machine.shared() == ""


@pytest.mark.parametrize("cores", ["0", "0-1", "0,1"])
def test_an_interrupt_that_may_come_to_the_gates_core(machine: Machine, cores: str) -> None:
    machine.interrupt("inner", 30, cores)
    assert "share core 0" in machine.shared()


def test_one_interrupt_of_many_is_enough(machine: Machine) -> None:
    machine.interrupt("inner", 32, "0", listed=False)
    assert "inner and the device outer share core 0" in machine.shared()


def test_rps_sends_frames_to_another_core(machine: Machine) -> None:
    machine.queue("inner", "00000000,00000001")
    assert "share core 0" in machine.shared()


def test_threads_of_the_gate_count_each(machine: Machine) -> None:
    machine.gate("1", thread=8)
    assert machine.shared() == "inner and the gate's process share core 1"


def test_napi_threads_count_where_they_may_run(machine: Machine) -> None:
    machine.thread("inner", 99, "1")
    assert machine.shared() == ""
    machine.thread("inner", 99, "0-1")
    assert "share core 0" in machine.shared()


def test_napi_threads_that_are_not_seen_count_as_shared(machine: Machine) -> None:
    machine.write(machine.roots.sys / "class" / "net" / "outer" / "threaded", "1\n")
    assert "NAPI" in machine.shared()


def test_a_cable_without_interrupts_needs_rps_on_every_queue(tmp_path: Path) -> None:
    made = Machine(tmp_path)
    made.queue("inner", "2")
    made.queue("outer", "0")
    assert "outer has no interrupts and no RPS" in made.shared()
    made.queue("outer", "1")
    assert made.shared() == ""
    made.queue("inner", "0", number=1)
    assert "inner has no interrupts and no RPS" in made.shared()


def test_what_cannot_be_read_counts_as_shared(machine: Machine) -> None:
    assert "nowhere" in shared_cores(["nowhere"], ["outer"], machine.roots)
    (machine.roots.proc / "irq" / "30" / "smp_affinity_list").write_text("what\n")
    assert "cannot be read" in machine.shared()
    (machine.roots.proc / "irq" / "30" / "smp_affinity_list").unlink()
    assert "cannot be read" in machine.shared()


def test_a_card_whose_interrupts_are_not_found_counts_as_shared(tmp_path: Path) -> None:
    made = Machine(tmp_path)
    made.queue("inner", "2")
    (made.roots.sys / "class" / "net" / "inner" / "device").mkdir()
    assert "interrupts of inner" in made.shared() or "outer" in made.shared()


def test_a_virtio_card_has_its_interrupts_one_level_up(tmp_path: Path) -> None:
    made = Machine(tmp_path)
    made.queue("inner", "0")
    pci = made.roots.sys / "devices" / "pci" / "0000:00:04.0"
    (pci / "virtio3").mkdir(parents=True)
    made.write(pci / "msi_irqs" / "41", "msix\n")
    made.write(made.roots.proc / "irq" / "41" / "smp_affinity_list", "3\n")
    (made.roots.sys / "class" / "net" / "inner" / "device").symlink_to(pci / "virtio3")
    assert device_cores("inner", made.roots) == {3}


@given(st.sets(st.integers(0, 200), min_size=1))
def test_masks_and_lists_say_the_same(cores: set[int]) -> None:
    mask = sum(1 << core for core in cores)
    digits = f"{mask:x}"
    digits = digits.rjust(-(-len(digits) // 8) * 8, "0")
    words = [digits[at : at + 8] for at in range(0, len(digits), 8)]
    assert parse_mask(",".join(words)) == parse_list(",".join(map(str, cores))) == cores


@pytest.mark.parametrize("text", ["", "x", "3-1", "-1", "1-99999", "1,,2"])
def test_lists_that_are_none(text: str) -> None:
    with pytest.raises(ValueError):
        parse_list(text)


@pytest.mark.parametrize("text", ["", "0x1", "g", "123456789", "1,", "-1"])
def test_masks_that_are_none(text: str) -> None:
    with pytest.raises(ValueError):
        parse_mask(text)
