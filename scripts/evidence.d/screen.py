"""Draws a terminal's text, from standard input, as SVG that reads well on light and dark pages."""

import html
import sys

WIDTH, HEIGHT, COLUMNS, MARGIN = 8.43, 18, 100, 16

lines = [line.rstrip() for line in sys.stdin.read().split("\n")]
while lines and not lines[-1]:
    lines.pop()
width, height = COLUMNS * WIDTH + 2 * MARGIN, len(lines) * HEIGHT + 2 * MARGIN
print(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" role="img">')
print('<title>The demo: tokens through the mount beside a token frozen in the environment</title>')
print(f'<rect width="{width:.0f}" height="{height}" rx="8" fill="#1b1f24"/>')
print('<g font-family="ui-monospace, Menlo, Consolas, monospace" font-size="14" fill="#d8dee6">')
for number, line in enumerate(lines):
    if line:
        y = MARGIN + HEIGHT * number + 14
        text = html.escape(line)
        length = len(line) * WIDTH
        print(f'<text x="{MARGIN}" y="{y}" textLength="{length:.1f}" xml:space="preserve">{text}</text>')
print("</g></svg>")
