"""What the programs of the agent share."""

import ctypes, errno, fcntl, hashlib, json, os, random, resource, shutil, signal, socket, struct
import subprocess, sys, termios, threading, time, traceback

MOUNT = os.environ["MOUNT"]
CONFIGS = os.environ["CONFIGS"]
PROGRAM = os.environ["PROGRAM"]
PLACE = os.environ["PLACE"]
FORM = os.environ["FORM"]
SPAN = float(os.environ["SPAN"])
random.seed(int(os.environ["SEED"]))
END = time.monotonic() + SPAN


def going():
    return time.monotonic() < END


def harm(sentence):
    print("harm:", sentence, flush=True)


def done(*words):
    print("done", *words, flush=True)


def failing(kind, value, trace):
    # Standard error may be what is attacked.
    print("failed:", "".join(traceback.format_exception(kind, value, trace)), flush=True)


sys.excepthook = failing


def look(name="token"):
    """Opens and reads; an errno or the bytes."""
    try:
        with open(os.path.join(MOUNT, name), "rb") as file:
            return file.read()
    except OSError as error:
        return error.errno


def ask(words):
    """Writes to the file that asks for a fetch."""
    try:
        with open(os.path.join(MOUNT, "refresh"), "w") as control:
            control.write(words)
        return 0
    except OSError as error:
        return error.errno


def status():
    with open(os.path.join(MOUNT, "status.json")) as file:
        return json.load(file)


def reject():
    """Says that the token of now was refused."""
    token = look()
    if isinstance(token, bytes):
        ask(hashlib.sha256(token).hexdigest()[:8])
