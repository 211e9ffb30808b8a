"""What others sent, as text for a log or an error: bounded, and without failing itself."""

WORDS_CHARS = 500


def words(value: object) -> str:
    """A venue's own words, as many as are worth keeping; "" for what is no text or number."""
    return str(value)[:WORDS_CHARS] if isinstance(value, str | int) else ""


def shown(value: object, chars: int = 200) -> str:
    """The start of the value's repr, also of one that is nested too deeply to have one."""
    try:
        return repr(value)[:chars]
    except RecursionError:
        return f"{type(value).__name__} of too many levels"
