"""Base class of settings, regimes and presets, whose values are checked, with one kind of error for what does not fit.

They are pydantic models: types and bounds stand beside the fields.
"""

from collections.abc import Iterable
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainValidator, ValidationError

from hrfr_fast.runtime.errors import UsageError


class Checked(BaseModel):
    """Base of frozen models whose constructor raises UsageError, never pydantic's own error.

    A whole number will do for a float and a list for a tuple; nothing else is converted, and unknown names are refused.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)

    def __init__(self, /, **values: Any) -> None:  # a file may have a key that is called self
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise UsageError(in_words(error, type(self))) from None
        except UnicodeEncodeError as error:
            found = ascii(error.object[max(0, error.start - 20) : error.end + 20])
            raise UsageError(f"{found} holds bytes that are not UTF-8; only paths may") from None

    def replaced(self, /, **values: Any) -> Self:
        """A copy with some values replaced, checked again. Raises UsageError."""
        return type(self)(**{**dict(self), **values})


def _is_text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("it must be a text")
    return value


PathText = Annotated[str, PlainValidator(_is_text)]
"""A path, or several, as text. Unlike pydantic's own text it may hold bytes that are not UTF-8, as file names do."""


def unset(*sentinels: Any, negative: bool = False) -> BeforeValidator:
    """Read what stood for "not set" in earlier versions, and still does on the command line, as None.

    Args:
        sentinels: values with that meaning.
        negative: whether every negative number has it.
    """

    def as_none(value: Any) -> Any:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if negative and is_number and value < 0:
            return None
        return None if any(value == one and type(value) is not bool for one in sentinels) else value

    return BeforeValidator(as_none)


def in_words(error: ValidationError, model: type[BaseModel]) -> str:
    """The first mistake that pydantic found, as one sentence with the field's name, its value and the rule.

    An unknown name goes before all else: where a name is misspelt, the right one is missing, too.
    """
    mistakes = error.errors(include_url=False)
    first = next((mistake for mistake in mistakes if mistake["type"] == "extra_forbidden"), mistakes[0])
    name = ".".join(str(part) for part in first["loc"] if not str(part).startswith("function-"))
    if first["type"] == "extra_forbidden":
        return unknown_name(name, model.model_fields)
    if first["type"] == "missing":
        return f"{name} is missing"
    message = first["msg"].removeprefix("Value error, ").replace("Input should", "it must").replace("tuple", "list")
    if not name:
        return message
    return f"{name} is {first['input']!r}; {message}"


def unknown_name(name: str, known: Iterable[str]) -> str:
    """The sentence for a name that does not exist."""
    return f"there is no {name!r}; there are {', '.join(sorted(known))}"
