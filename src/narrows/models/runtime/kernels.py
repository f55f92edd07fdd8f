"""What numba cannot say itself: byte dot products, atomics, bit casts. LLVM IR, inlined.

Invariants
- ``dot_tile`` computes exact int32 sums; which instructions it becomes (AVX512-VNNI, AVX-VNNI
  or whatever the target has) is decided when a kernel is compiled, from the features numba
  compiles for. So ``NUMBA_CPU_NAME=generic`` gets the portable form, and numba's cache, keyed
  by processor and features, never mixes them.
- ``vpdpbusd`` is the wrapping form (``vpdpbusds`` would saturate); no sum comes near 2**31.
- Addresses are unchecked: callers own every bound.

Layout of the right operand, "packed": int8 [N / 64][K / 4][64][4]; a row of 256 bytes holds
four consecutive k of 64 outputs, so that one instruction takes four bytes of one activation
row (broadcast) against 16 outputs.
"""

# Kernels have no annotations: numba infers their types.
# mypy: disable-error-code="no-untyped-def, no-any-return"

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import njit, types
from numba.core import config
from numba.extending import intrinsic

_I8, _I32, _I64, _F32 = ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.FloatType()
LANES = 16  # outputs per vector
TILE = 64  # outputs per packed block


def dot_form() -> str:
    """ "vnni512", "vnni256" or "portable": what dot products compile to in this process."""
    named = config.CPU_NAME
    if named and named not in ("host", llvm.get_host_cpu_name()):
        return "portable"
    if config.CPU_FEATURES is not None:
        present = {f[1:] for f in str(config.CPU_FEATURES).split(",") if f.startswith("+")}
    else:
        present = {name for name, on in llvm.get_host_cpu_features().items() if on}
    if {"avx512vnni", "avx512f", "avx512bw"} <= present:
        return "vnni512"
    if "avxvnni" in present or {"avx512vnni", "avx512vl"} <= present:
        return "vnni256"
    return "portable"


def _vector(element: ir.Type, count: int) -> ir.VectorType:
    return ir.VectorType(element, count)


def _pick(builder: Any, a: Any, b: Any, lanes: list[int]) -> Any:
    return builder.shuffle_vector(a, b, ir.Constant(_vector(_I32, len(lanes)), lanes))


def _vnni(builder: Any, bits: int, acc: Any, unsigned: Any, signed: Any) -> Any:
    vector = _vector(_I32, bits // 32)
    function = builder.module.declare_intrinsic(
        f"llvm.x86.avx512.vpdpbusd.{bits}", (), ir.FunctionType(vector, [vector] * 3)
    )
    return builder.call(function, [acc, unsigned, signed])


def _dot4(builder: Any, form: str, acc: Any, unsigned: Any, signed: Any) -> Any:
    """acc <16 x i32> + dots of four: ``unsigned`` and ``signed`` are 64 bytes as <16 x i32>."""
    if form == "vnni512":
        return _vnni(builder, 512, acc, unsigned, signed)
    if form == "vnni256":
        halves = []
        for lanes in (list(range(8)), list(range(8, 16))):
            parts = [_pick(builder, v, v, lanes) for v in (acc, unsigned, signed)]
            halves.append(_vnni(builder, 256, *parts))
        return _pick(builder, halves[0], halves[1], list(range(16)))
    # Products of u8 and s8 fit 16 bits signed only as int32; multiply-add of adjacent pairs of
    # 16-bit values is one instruction even on SSE2, and LLVM finds it in this form.
    bytes64, words64 = _vector(_I8, 64), _vector(ir.IntType(16), 64)
    u = builder.zext(builder.bitcast(unsigned, bytes64), words64)
    s = builder.sext(builder.bitcast(signed, bytes64), words64)
    pairs = _vector(_I32, 32)
    products = []
    for start in (0, 1):
        lanes = list(range(start, 64, 2))
        left = builder.sext(_pick(builder, u, u, lanes), pairs)
        right = builder.sext(_pick(builder, s, s, lanes), pairs)
        products.append(builder.mul(left, right))
    sums = builder.add(products[0], products[1])
    even = _pick(builder, sums, sums, list(range(0, 32, 2)))
    odd = _pick(builder, sums, sums, list(range(1, 32, 2)))
    return builder.add(acc, builder.add(even, odd))


def _constant(value: int) -> Any:
    return ir.Constant(_I64, value)


def _make_dot_tile(rows: int, vectors: int) -> Callable[..., None]:
    @intrinsic
    def dot_tile(typingctx, left, left_stride, right, right_stride, steps, out, out_stride, add):
        """``rows`` x 16 ``vectors`` sums over 4 ``steps`` bytes. Addresses, strides in bytes.

        ``add`` != 0: sums are added to what ``out`` (int32) holds. steps >= 1.
        """
        signature = types.void(*([types.int64] * 8))

        def generate(context, builder, _signature, args):
            form = dot_form()
            v16 = _vector(_I32, LANES)
            left, left_stride, right, right_stride, steps, out, out_stride, add = args

            def slot(m: int, n: int) -> Any:
                at = builder.add(out, builder.mul(out_stride, _constant(m)))
                at = builder.add(at, _constant(4 * LANES * n))
                return builder.inttoptr(at, v16.as_pointer())

            grid = [(m, n) for m in range(rows) for n in range(vectors)]
            mask = builder.sext(builder.icmp_signed("!=", add, _constant(0)), _I32)
            mask = _splat(builder, mask)
            # A select instead of a branch: what is read where add is 0 is not used, but it is
            # always inside the output, so reading it is safe.
            first = [builder.and_(mask, builder.load(slot(m, n), align=4)) for m, n in grid]
            bases = [builder.add(left, builder.mul(left_stride, _constant(m))) for m in range(rows)]
            before = builder.block
            loop, done = builder.append_basic_block("dot"), builder.append_basic_block("dotted")
            builder.branch(loop)
            builder.position_at_end(loop)
            i, at = builder.phi(_I64), builder.phi(_I64)
            i.add_incoming(_constant(0), before)
            at.add_incoming(right, before)
            sums = [builder.phi(v16) for _ in grid]
            for phi, value in zip(sums, first, strict=True):
                phi.add_incoming(value, before)
            weights = []
            for n in range(vectors):
                pointer = builder.add(at, _constant(4 * LANES * n))
                pointer = builder.inttoptr(pointer, v16.as_pointer())
                weights.append(builder.load(pointer, align=64))
            offset = builder.shl(i, _constant(2))
            after = []
            for m in range(rows):
                pointer = builder.inttoptr(builder.add(bases[m], offset), _I32.as_pointer())
                four = _splat(builder, builder.load(pointer, align=4))
                for n in range(vectors):
                    phi = sums[m * vectors + n]
                    after.append(_dot4(builder, form, phi, four, weights[n]))
            following = builder.add(i, _constant(1))
            i.add_incoming(following, loop)
            at.add_incoming(builder.add(at, right_stride), loop)
            for phi, value in zip(sums, after, strict=True):
                phi.add_incoming(value, loop)
            builder.cbranch(builder.icmp_signed("<", following, steps), loop, done)
            builder.position_at_end(done)
            for (m, n), value in zip(grid, after, strict=True):
                builder.store(value, slot(m, n), align=4)
            return context.get_dummy_value()

        return signature, generate

    return dot_tile


def _splat(builder: Any, value: Any) -> Any:
    v16 = _vector(_I32, LANES)
    one = builder.insert_element(ir.Constant(v16, ir.Undefined), value, ir.Constant(_I32, 0))
    return _pick(builder, one, one, [0] * LANES)


_tile1 = _make_dot_tile(1, 4)
_tile2 = _make_dot_tile(2, 4)
_tile3 = _make_dot_tile(3, 4)
_tile6 = _make_dot_tile(6, 4)
_half1 = _make_dot_tile(1, 2)
_half6 = _make_dot_tile(6, 2)


@njit(cache=True, nogil=True, error_model="numpy")
def dot_rows(left, left_stride, rows, right, right_stride, steps, out, out_stride, add):
    """``rows`` x 64 exact sums, by tiles of 6, 3, 2 and 1 rows. See ``dot_tile``."""
    m = 0
    while m < rows:
        a = left + m * left_stride
        o = out + m * out_stride
        rest = rows - m
        if rest >= 6:
            _tile6(a, left_stride, right, right_stride, steps, o, out_stride, add)
            m += 6
        elif rest >= 3:
            _tile3(a, left_stride, right, right_stride, steps, o, out_stride, add)
            m += 3
        elif rest == 2:
            _tile2(a, left_stride, right, right_stride, steps, o, out_stride, add)
            m += 2
        else:
            _tile1(a, left_stride, right, right_stride, steps, o, out_stride, add)
            m += 1


@njit(cache=True, nogil=True, error_model="numpy")
def dot_half_rows(left, left_stride, rows, right, right_stride, steps, out, out_stride):
    """``rows`` x 32 sums: half a packed block, so that threads share the blocks evenly."""
    m = 0
    while m < rows:
        a = left + m * left_stride
        o = out + m * out_stride
        if rows - m >= 6:
            _half6(a, left_stride, right, right_stride, steps, o, out_stride, 0)
            m += 6
        else:
            _half1(a, left_stride, right, right_stride, steps, o, out_stride, 0)
            m += 1


def _cast(source: Any, target: Any, llvm_type: ir.Type) -> Callable[..., Any]:
    @intrinsic
    def cast(typingctx, value):
        def generate(context, builder, _signature, args):
            return builder.bitcast(args[0], llvm_type)

        return target(source), generate

    return cast


bits_of = _cast(types.float32, types.int32, _I32)
float_of = _cast(types.int32, types.float32, _F32)


@intrinsic
def hadamard16(typingctx, address):
    """In place on 16 float32: stages of distance 1, 2, 4, 8, each (a, b) -> (a + b, a - b)."""

    def generate(context, builder, _signature, args):
        vector = _vector(_F32, LANES)
        pointer = builder.inttoptr(args[0], vector.as_pointer())
        value = builder.load(pointer, align=4)
        for distance in (1, 2, 4, 8):
            other = _pick(builder, value, value, [i ^ distance for i in range(LANES)])
            total, gap = builder.fadd(other, value), builder.fsub(other, value)
            lanes = [i + LANES if i & distance else i for i in range(LANES)]
            value = _pick(builder, total, gap, lanes)
        builder.store(value, pointer, align=4)
        return context.get_dummy_value()

    return types.void(types.int64), generate


@intrinsic
def butterfly16(typingctx, first, second):
    """(a, b) -> (a + b, a - b) in place on 16 float32 at each of two addresses."""

    def generate(context, builder, _signature, args):
        vector = _vector(_F32, LANES)
        pointers = [builder.inttoptr(arg, vector.as_pointer()) for arg in args]
        a, b = (builder.load(pointer, align=4) for pointer in pointers)
        builder.store(builder.fadd(a, b), pointers[0], align=4)
        builder.store(builder.fsub(a, b), pointers[1], align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def _prefetch_line(typingctx, address):
    def generate(context, builder, _signature, args):
        pointer = builder.inttoptr(args[0], _I8.as_pointer())
        kinds = [_I8.as_pointer(), _I32, _I32, _I32]
        function = builder.module.declare_intrinsic(
            "llvm.prefetch", [_I8.as_pointer()], ir.FunctionType(ir.VoidType(), kinds)
        )
        read, second_level, data = (ir.Constant(_I32, k) for k in (0, 2, 1))
        builder.call(function, [pointer, read, second_level, data])
        return context.get_dummy_value()

    return types.void(types.int64), generate


@njit(cache=True, nogil=True, error_model="numpy")
def prefetch(address, size):
    """Ask for ``size`` bytes in the second-level cache. Hardware stops at each 4 KiB."""
    for offset in range(0, size, 64):
        _prefetch_line(address + offset)


@intrinsic
def atomic_add(typingctx, address, value):
    """Fetch-and-add on an int64 at ``address``; returns what was there before."""

    def generate(context, builder, _signature, args):
        pointer = builder.inttoptr(args[0], _I64.as_pointer())
        return builder.atomic_rmw("add", pointer, args[1], "seq_cst")

    return types.int64(types.int64, types.int64), generate


@intrinsic
def atomic_load(typingctx, address):
    def generate(context, builder, _signature, args):
        pointer = builder.inttoptr(args[0], _I64.as_pointer())
        return builder.load_atomic(pointer, "acquire", 8)

    return types.int64(types.int64), generate


_yield_processor = types.ExternalFunction("sched_yield", types.int32())
_SPINS = 2000  # about 10 microseconds: longer waits mean that the other thread has no core


@njit(cache=True, nogil=True, error_model="numpy")
def barrier(sync, threads):
    """Wait until ``threads`` threads are here. ``sync``: address of two int64 apart by 64
    bytes, arrivals and generation. The last one resets the arrivals before it opens."""
    if threads == 1:
        return
    generation = atomic_load(sync + 64)
    if atomic_add(sync, 1) == threads - 1:
        atomic_add(sync, -threads)
        atomic_add(sync + 64, 1)
        return
    spins = 0
    while atomic_load(sync + 64) == generation:
        spins += 1
        if spins > _SPINS:
            _yield_processor()
