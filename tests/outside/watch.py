# Prints what Python's watchdog tells of the directory that is named, and of live/ in it.
import os
import signal
import sys

from watchdog.events import FileSystemEventHandler
from watchdog.observers import Observer


class Printer(FileSystemEventHandler):
    def on_any_event(self, event):
        if event.is_directory:
            return
        if event.event_type == "moved":
            print("moved", os.path.basename(event.dest_path), flush=True)
        # What became of the attributes is "modified" before version 7.
        elif event.event_type in ("attrib", "modified"):
            print("touched", os.path.basename(event.src_path), flush=True)


observer = Observer()
for folder in [sys.argv[1], os.path.join(sys.argv[1], "live")]:
    observer.schedule(Printer(), folder)
observer.start()
print("ready", flush=True)
signal.pause()
