"""Whole numbers in text that comes from outside."""


def read_digits(text: str, most: int) -> int | None:
    """The number that ASCII digits stand for; None for anything else, and for a number over `most`.

    `str.isdigit` says yes to characters that `int` refuses, such as a superscript two, and `int` refuses thousands of digits.
    """
    if not (text.isascii() and text.isdigit()) or len(text.lstrip("0")) > len(str(most)):
        return None
    number = int(text.lstrip("0") or "0")
    return number if number <= most else None
