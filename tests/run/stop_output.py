"""The command of `run`: reads tokens while the output of the terminal is stopped for all who share it."""

import os
import sys
import termios
import time

mount = os.environ["MOLECULE_TOKENFS_MOUNTPOINT"]
terminal = os.open("/dev/tty", os.O_RDWR)
# Whoever writes in the background is stopped.
settings = termios.tcgetattr(terminal)
settings[3] |= termios.TOSTOP
termios.tcsetattr(terminal, termios.TCSANOW, settings)
while not os.path.exists(mount + "/token"):  # as files it comes later
    time.sleep(0.05)
termios.tcflow(terminal, termios.TCOOFF)
try:
    for turn in range(300):
        start = time.monotonic()
        with open(mount + "/token") as token:
            assert token.read().startswith("ghs_")
        assert time.monotonic() - start < 5
        if turn % 50 == 0:
            os.kill(os.getppid(), 12)  # an upgrade: the supervisor tells of it
finally:
    termios.tcflow(terminal, termios.TCOON)
print("tokens were read")
sys.exit(0)
