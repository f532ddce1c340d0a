"""Handler of SIGBUS: a message that names the shard which became unreadable under its memory map.

Where a mapped file was truncated, or its disk fails, reading the map raises no Python error: the system sends SIGBUS to
the thread that reads. No Python code can run then (the reader may hold the interpreter's lock, or be a thread of a
compiled kernel), so the handler is machine code. It compares the address with a table of the maps, writes a message
prepared beforehand, and ends the process. Any other SIGBUS is left to the handler installed before.
"""

import ctypes
import shlex
import signal
import sys
import weakref
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.runtime.errors import DamageFound

MAPS = 2048
"""Rows of the table; further maps are not watched."""
START, END, MESSAGE, LENGTH = range(4)
FAULT_ADDRESS = 16  # byte offset of si_addr in siginfo_t on 64-bit Linux
SA_SIGINFO = 4

_table = np.zeros((MAPS, 4), np.uint64)


class _Action(ctypes.Structure):
    """glibc's and musl's ``struct sigaction`` on 64-bit Linux."""

    _fields_ = [  # noqa: RUF012
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_ubyte * 128),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    ]


def watch(data: NDArray[np.uint8], path: Path, owner: Any) -> None:
    """From now on SIGBUS in ``data``, a memory map of the shard ``path``, ends the process with a message.

    ``owner``: the object that lives as long as the map. Does nothing where the system is not a 64-bit Linux.
    """
    free = np.flatnonzero(_table[:, END] == 0)
    if sys.platform != "linux" or sys.maxsize < 2**32 or not len(free) or not data.nbytes:
        return
    _install()
    row, message = _table[free[0]], _message(path)
    row[MESSAGE], row[LENGTH] = ctypes.addressof(message), len(message) - 1
    row[START], row[END] = data.ctypes.data, data.ctypes.data + data.nbytes
    # The map outlives the arrays made of it, and the message has to exist as long.
    weakref.finalize(owner, _forget, row, message)


def _message(path: Path) -> "ctypes.Array[ctypes.c_char]":
    show_cursor = "\x1b[?25h" if sys.stderr.isatty() else ""  # a progress bar hides it
    text = (
        f"{show_cursor}\nerror: {path} cannot be read any longer: it has become shorter while it was in use, or its"
        f" disk fails. `hrfr-fast check {shlex.quote(str(path.parent))}` lists the damage. Checkpoints are kept: a"
        " training goes on with --resume once the shard is whole again\n"
    )
    return ctypes.create_string_buffer(text.encode("utf-8", "surrogateescape"))


def _forget(row: NDArray[np.uint64], _message: Any) -> None:
    row[:] = 0


@cache
def _install() -> Any:
    """Install the handler; returns the objects that must not be freed while the process runs."""
    previous, action = _Action(), _Action()
    engine, address = _compiled(_handler(ctypes.addressof(previous)))
    action.handler, action.flags = address, SA_SIGINFO
    ctypes.CDLL(None).sigaction(int(signal.SIGBUS), ctypes.byref(action), ctypes.byref(previous))
    return engine, previous


def _handler(previous: int) -> str:
    """The handler as LLVM code. ``previous``: address of the action that it replaces.

    In C::

        void on_bus_error(int number, siginfo_t *info, void *context) {
            for (uint64_t *row = table; row != table_end; row += 4)
                if (row[START] <= info->si_addr && info->si_addr < row[END]) {
                    write(2, row[MESSAGE], row[LENGTH]);
                    _exit(4);
                }
            sigaction(number, previous, NULL);  // and on return the same instruction fails again, for that handler
        }
    """
    from llvmlite import ir

    i32, i64 = ir.IntType(32), ir.IntType(64)
    module = ir.Module("hrfr_fast_bus_error")
    write, leave, sigaction = (
        ir.Function(module, ir.FunctionType(i64, arguments), name)
        for name, arguments in (("write", [i32, i64, i64]), ("_exit", [i32]), ("sigaction", [i32, i64, i64]))
    )
    handler = ir.Function(module, ir.FunctionType(ir.VoidType(), [i32, i64, i64]), "on_bus_error")
    number, info, _ = handler.args
    entry, loop, found, following, other = (handler.append_basic_block() for _ in range(5))
    code = ir.IRBuilder(entry)

    def value(address: Any, byte: int) -> Any:
        return code.load(code.inttoptr(code.add(address, i64(byte)), i64.as_pointer()))

    at = value(info, FAULT_ADDRESS)
    code.branch(loop)

    code.position_at_end(loop)
    row = code.phi(i64)
    row.add_incoming(i64(_table.ctypes.data), entry)
    inside = code.and_(
        code.icmp_unsigned("<=", value(row, 8 * START), at), code.icmp_unsigned("<", at, value(row, 8 * END))
    )
    code.cbranch(inside, found, following)

    code.position_at_end(found)
    code.call(write, [i32(2), value(row, 8 * MESSAGE), value(row, 8 * LENGTH)])
    code.call(leave, [i32(DamageFound.exit_code)])
    code.unreachable()

    code.position_at_end(following)
    next_row = code.add(row, i64(_table.strides[0]))
    row.add_incoming(next_row, following)
    code.cbranch(code.icmp_unsigned("==", next_row, i64(_table.ctypes.data + _table.nbytes)), other, loop)

    code.position_at_end(other)
    code.call(sigaction, [number, i64(previous), i64(0)])
    code.ret_void()
    return str(module)


def _compiled(code: str) -> tuple[Any, int]:
    """The owner of the machine code, and the address of its function."""
    from llvmlite import binding

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    module = binding.parse_assembly(code)
    module.verify()
    engine = binding.create_mcjit_compiler(module, binding.Target.from_default_triple().create_target_machine())
    engine.finalize_object()
    return engine, engine.get_function_address("on_bus_error")
