"""Letters and digits as strokes, so that text is drawn without fonts and single strokes can be left out."""

from itertools import pairwise

from linewatch.commands.drawn.canvas import Point

# Each glyph is some lines, each line some points: x 0 to 4, y 0 (top) to 6.
_LINES = {
    "A": "06-20-46 14-34", "B": "00-06-46-43-03 00-30-33", "C": "40-00-06-46", "D": "00-06-36-45-41-30-00", "E": "40-00-06-46 03-33",
    "F": "40-00-06 03-33", "G": "40-00-06-46-43-23", "H": "00-06 40-46 03-43", "I": "20-26", "K": "00-06 40-03-46", "L": "00-06-46",
    "M": "06-00-23-40-46", "N": "06-00-46-40", "O": "00-40-46-06-00", "P": "06-00-40-43-03", "R": "06-00-40-43-03 13-46",
    "S": "40-00-03-43-46-06", "T": "00-40 20-26", "U": "00-06-46-40", "V": "00-26-40", "X": "00-46 40-06", "Y": "00-23-40 23-26",
    "Z": "00-40-06-46", "0": "00-40-46-06-00 40-06", "1": "11-20-26 06-46", "2": "00-40-43-03-06-46", "3": "00-40-46-06 03-43",
    "4": "00-03-43 40-46", "5": "40-00-03-43-46-06", "6": "40-00-06-46-43-03", "7": "00-40-16", "8": "00-40-46-06-00 03-43",
    "9": "43-03-00-40-46-06", "-": "13-33", "/": "06-40", ".": "25-26", " ": "",
}  # fmt: skip

Stroke = tuple[Point, Point]


def strokes(text: str, corner: Point, height: float) -> list[Stroke]:
    """The strokes of a line of text, straight ones, in the order of the letters.

    Args:
        text: of the glyphs that there are: A to Z without J, Q and W, digits, space and `-/.`.
        corner: upper left of its first letter.
        height: of a letter in pixels, see `advance` for its width.
    """
    unit, found = height / 6, []
    for number, letter in enumerate(text):
        left = corner[0] + number * advance(height)
        for line in _LINES[letter].split():
            points = [(left + int(p[0]) * unit, corner[1] + int(p[1]) * unit) for p in line.split("-")]
            found += list(pairwise(points))
    return found


def advance(height: float) -> float:
    """From one letter to the next, in pixels."""
    return 0.95 * height
