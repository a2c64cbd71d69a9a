"""What is said of what others sent: never longer than a person reads. Pure."""

MOST = 200


def quoted(value: object, most: int = MOST) -> str:
    """A value as a message quotes it, cut where it is long.

    >>> quoted("a" * 1000, most=5)
    "'aaaaa'... (1000 characters)"
    """
    if isinstance(value, (str, bytes)) and len(value) > most:
        return f"{value[:most]!r}... ({len(value)} {'characters' if isinstance(value, str) else 'bytes'})"
    return repr(value)


def truncated(text: str, most: int) -> str:
    """A text for people, of at most `most` characters.

    >>> truncated("a" * 1000, 26)
    'aaaaa... (1000 characters)'
    """
    if len(text) <= most:
        return text
    end = f"... ({len(text)} characters)"
    return (text[: max(0, most - len(end))] + end)[:most]
