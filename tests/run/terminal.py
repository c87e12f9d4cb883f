"""Types at a terminal, and reads what comes: terminal.py SCENE COMMAND...

The command leads the session of a new terminal. Each scene is a list of what to wait for and what to
type then; the exit code of the command is printed at the end.
"""

import os
import pty
import select
import signal
import sys
import time

LIMIT = 20  # seconds for each thing to wait for

SCENES = {
    # A shell with job control is the command of `run`.
    "shell": [
        ("# ", "sleep 61; echo ended $?\n"),
        ("sleep 61", None),
        (0.3, "\x03"),
        ("# ", "echo got-$?\n"),
        ("got-130", "sleep 62\n"),
        (0.3, "\x1a"),
        ("Stopped", "fg\n"),
        ("sleep 62", None),
        (0.3, "\x03"),
        ("# ", "exit 5\n"),
    ],
    # `run` is a job of a shell.
    "job": [
        ("# ", "$RUN -- sleep 63\n"),
        ("serving at", None),
        (0.3, "\x1a"),
        ("Stopped", "fg\n"),
        (0.3, "\x03"),
        ("# ", "echo got-$?\n"),
        ("got-130", "$RUN -- sh -c 'read line; echo read-$line'\n"),
        ("serving at", None),
        (0.3, "typed\n"),
        ("read-typed", "exit 6\n"),
    ],
    # Nobody could continue the command: Ctrl-Z does nothing, and Ctrl-C ends it.
    "alone": [
        ("serving at", None),
        (0.3, "\x1a"),
        (0.3, "\x03"),
    ],
    # The command opens its streams by their names.
    "opened": [("all is open", None)],
    # The demo is a job of a shell: it stops for longer than it lasts, and goes on to its end.
    "demo": [
        ("# ", "stty rows 24 cols 80; $DEMO\n"),
        ("git clone", None),
        (1, "\x1a"),
        ("Stopped", None),
        (10, "echo still-$((40 + 2)); fg\n"),
        ("still-42", None),
        ("mounted token: ", "echo got-$?\n"),
        ("got-", "exit 7\n"),
    ],
    # Nothing is typed.
    "nothing": [],
    # The command stops the output, and lets it go on.
    "stopped": [("tokens were read", None)],
    # A shell whose command may type into it.
    "typed": [
        ("# ", "$TYPE\n"),
        ("typing: ", None),
        (0.5, "echo the-shell-is-$((40 + 2))\n"),
        ("the-shell-is-42", "exit 5\n"),
    ],
}


def main():
    scene, command = sys.argv[1], sys.argv[2:]
    child, terminal = pty.fork()
    if child == 0:
        os.execvp(command[0], command)
    said = b""
    try:
        for wait, keys in SCENES[scene]:
            if isinstance(wait, str):
                said = read_until(terminal, said, wait.encode())
            else:
                time.sleep(wait)
            if keys:
                os.write(terminal, keys.encode())
        status = read_to_the_end(terminal, child)
    except BaseException:
        os.kill(child, signal.SIGKILL)
        raise
    print("ended", os.waitstatus_to_exitcode(status))


def read(terminal, end):
    ready, _, _ = select.select([terminal], [], [], max(0, end - time.monotonic()))
    if not ready:
        sys.exit("nothing came any more")
    try:
        chunk = os.read(terminal, 4096)
    except OSError:  # EIO: everybody who had the terminal is gone
        chunk = b""
    sys.stdout.buffer.write(chunk)
    sys.stdout.flush()
    return chunk


def read_until(terminal, said, words):
    """Gives what was read after the words."""
    end = time.monotonic() + LIMIT
    while words not in said:
        chunk = read(terminal, end)
        if not chunk:
            sys.exit(f"ended before {words}")
        said += chunk
    return said.split(words, 1)[1]


def read_to_the_end(terminal, child):
    end = time.monotonic() + LIMIT
    while read(terminal, end):
        pass
    return os.waitpid(child, 0)[1]


main()
