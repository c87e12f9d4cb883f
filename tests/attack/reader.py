"""Opens and reads a file until STOP is there: reader.py PATH STOP

Each line: when the open began and ended (nanoseconds of CLOCK_BOOTTIME), and the token's fingerprint or
the errno.
"""

import errno
import hashlib
import os
import sys
import time

path, stop = sys.argv[1:]
PAUSE = 0.01


def now():
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def name(error):
    return errno.errorcode.get(error.errno, str(error.errno))


def look():
    start = now()
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        return start, now(), name(error)
    end = now()
    token = b""
    try:
        while chunk := os.read(file, 65536):
            token += chunk
    except OSError as error:
        return start, end, "read-" + name(error)
    finally:
        os.close(file)
    return start, end, hashlib.sha256(token).hexdigest()[:8] if token else "read-nothing"


flushed = time.monotonic()
while not os.path.exists(stop):
    start, end, what = look()
    print(start, end, what)
    if time.monotonic() > flushed + 0.5:
        sys.stdout.flush()
        flushed = time.monotonic()
    time.sleep(PAUSE)
