"""Draws a terminal's text with its colours, from standard input, as SVG that reads well on light and dark pages."""

import html
import re
import sys

WIDTH, HEIGHT, COLUMNS, MARGIN = 8.43, 18, 100, 16
# What the demo uses of ECMA-48 SGR: codes, and what each changes.
COLOURS = {"31": "#ff7b72", "32": "#7ee787", "39": None}
# The bright ones of the 256 colours.
BRIGHT = {"38;5;9": "31", "38;5;10": "32"}


def runs(line, style):
    """Texts with their styles; `style` goes on from line to line."""
    for code, text in re.findall(r"(?:\x1b\[([0-9;]*)m)?([^\x1b]*)", line):
        for number in BRIGHT.get(code, code).split(";"):
            if number in COLOURS:
                style["fill"] = COLOURS[number]
            elif number == "1":
                style["font-weight"] = "bold"
            elif number == "2":
                style["opacity"] = "0.6"
            elif number == "22":
                style["font-weight"] = style["opacity"] = None
            elif number == "0":
                style.clear()
        if text:
            yield text, dict(style)


lines = sys.stdin.read().split("\n")
while lines and not re.sub(r"\x1b\[[0-9;]*m", "", lines[-1]).strip():
    lines.pop()
width, height = COLUMNS * WIDTH + 2 * MARGIN, len(lines) * HEIGHT + 2 * MARGIN
print(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" role="img">')
print('<title>The demo: tokens through the mount, one frozen in the environment, and one for one repository</title>')
print(f'<rect width="{width:.0f}" height="{height}" rx="8" fill="#1b1f24"/>')
print('<g font-family="ui-monospace, Menlo, Consolas, monospace" font-size="14" fill="#d8dee6">')
style = {}
for number, line in enumerate(lines):
    column, y = 0, MARGIN + HEIGHT * number + 14
    for text, styled in runs(line, style):
        marks = "".join(f' {name}="{value}"' for name, value in styled.items() if value)
        # Each part has its own place: not every program that draws SVG keeps blanks.
        for part in re.finditer(r"\S+(?: \S+)*", text):
            x, length = MARGIN + (column + part.start()) * WIDTH, len(part[0]) * WIDTH
            print(
                f'<text x="{x:.1f}" y="{y}" textLength="{length:.1f}"{marks}>'
                f"{html.escape(part[0])}</text>"
            )
        column += len(text)
print("</g></svg>")
