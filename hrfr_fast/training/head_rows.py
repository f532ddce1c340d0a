"""The rows of a head on their way between ranks and checkpoints, which do not know how many ranks there are.

A head that is whole on each rank is in ``last.state.pt`` as it was before there were ranks. Of a sharded one whatever
has a row for each class (the weights, their momenta, their average) is in a safetensors file beside it, written by
``row_files`` and named in ``last.state.pt``: the file comes first and has its step in its name, so a process killed in
between leaves the earlier pair. Either is read by any number of ranks, sharded or not.
"""

from pathlib import Path
from typing import Any

from torch import Tensor, nn, optim

from hrfr_fast.model.heads import MarginHead
from hrfr_fast.model.partial_fc import rows_by_plain_names, sampled_names
from hrfr_fast.model.row_files import read_rows, write_with_rows

FILE, PATTERN = "last.rows-{step}.safetensors", "last.rows-*.safetensors"


def optimizer_state(optimizer: optim.Optimizer | None, head: nn.Module) -> dict[str, Any] | None:
    """The optimiser's state for a checkpoint: for the head's rows as if all of them were trained in each step."""
    if optimizer is None:
        return None
    if not isinstance(head, MarginHead) or head.shard is None or head.shard.sampling is None:
        return optimizer.state_dict()
    return rows_by_plain_names(head, optimizer)


def save_rows(checkpoints: Path, state: dict[str, Any], head: nn.Module, optimizer: optim.Optimizer | None) -> None:
    """Move what has a row a class from ``state`` to a file of its own, where the head is sharded; of all ranks."""
    if not isinstance(head, MarginHead) or not head.sharded or head.shard is None:
        return
    if state["optimizer"]:  # its dictionaries are the optimiser's own
        state["optimizer"]["state"] = {number: dict(of) for number, of in state["optimizer"]["state"].items()}
    rows = {name: holder.pop(key) for name, holder, key in _places(state, head, optimizer)}
    state["rows"] = {"file": FILE.format(step=state["step"]), "names": list(rows)}
    write_with_rows(checkpoints / state["rows"]["file"], {}, rows, head.shard, {"step": str(state["step"])})


def remove_other_rows(checkpoints: Path, state: dict[str, Any]) -> None:
    """Delete the files of earlier checkpoints; when ``state`` is on the disk."""
    kept = state.get("rows", {}).get("file")
    for path in checkpoints.glob(PATTERN):
        if path.name != kept:
            path.unlink(missing_ok=True)


def load_rows(checkpoints: Path, state: dict[str, Any], head: nn.Module, optimizer: optim.Optimizer | None) -> None:
    """Complete a checkpoint's ``state`` by the rows that ``head`` holds, and leave it no others.

    Raises HrfrError where their file is missing or damaged.
    """
    if not isinstance(head, MarginHead) or ("rows" not in state and head.shard is None):
        return
    own = head.shard.rows if head.shard else range(len(head.weight))
    if "rows" in state:
        for name in state["rows"]["names"]:
            holder, key = _place(state, name, head, optimizer)
            holder[key] = read_rows(checkpoints / state["rows"]["file"], name, own)
    elif head.sharded:
        for _, holder, key in _places(state, head, optimizer):
            holder[key] = holder[key][own.start : own.stop].clone()
    if head.shard is not None and head.shard.sampling is not None and state["optimizer"] and optimizer:
        entries = state["optimizer"]["state"]
        number = _number(head, optimizer)
        if number in entries:
            entries[number] = sampled_names(head, entries[number])


def _places(
    state: dict[str, Any], head: MarginHead, optimizer: optim.Optimizer | None
) -> list[tuple[str, dict[str, Any], str]]:
    """Name, dictionary and key of everything in ``state`` that has a row for each class."""
    names = ["head.weight"] + ["average.weight"] * bool(state["average"])
    if optimizer and state["optimizer"] and (number := _number(head, optimizer)) is not None:
        entries = state["optimizer"]["state"].get(number, {})
        names += [f"optimizer.{key}" for key, value in entries.items() if isinstance(value, Tensor) and value.ndim == 2]
    return [(name, *_place(state, name, head, optimizer)) for name in names]


def _place(
    state: dict[str, Any], name: str, head: MarginHead, optimizer: optim.Optimizer | None
) -> tuple[dict[str, Any], str]:
    where, _, key = name.partition(".")
    if where == "head":
        return state["head"], key
    if where == "average":
        return state["average"]["head"], key
    assert optimizer is not None, "a state with momenta is of a phase, which has an optimiser"
    return state["optimizer"]["state"][_number(head, optimizer)], key


def _number(head: MarginHead, optimizer: optim.Optimizer) -> int | None:
    """By which the optimiser's state knows the parameter that stands for the head's rows; None where it is frozen."""
    parameters = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    number = {parameter: number for number, parameter in enumerate(parameters)}
    return number.get(id(head.trained_rows))
