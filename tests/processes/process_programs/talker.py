"""A child that does what its parent says over the channel. It uses nothing of ours, so it is an oracle of
what really crosses, and starts in no time.

    python -m talker [ignore-sigterm] [deaf]
"""

import json
import os
import signal
import socket
import subprocess
import sys
from typing import Any

MAX_BYTES = 1024 * 1024


def main() -> None:
    if "ignore-sigterm" in sys.argv:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    channel = socket.socket(fileno=int(os.environ["SCALEUP_CHANNEL"]))

    def say(kind: str, **fields: Any) -> None:
        channel.send(json.dumps({"kind": kind, **fields}).encode())

    say("hello", pid=os.getpid(), group=os.getpgrp(), environment=sorted(os.environ), arguments=sys.argv[1:])
    if "deaf" in sys.argv:
        signal.pause()
    while True:
        data, descriptors, _, _ = socket.recv_fds(channel, MAX_BYTES, 253)
        if not data:
            raise SystemExit(7)  # the parent is gone
        told = json.loads(data)
        match told["kind"]:
            case "echo":
                say("echo", size=len(data), **{key: told[key] for key in told if key != "kind"})
            case "ping":
                say("pong")
            case "write":
                for descriptor in descriptors:
                    os.write(descriptor, b"from the child")
                    os.close(descriptor)
                say("written", count=len(descriptors))
            case "have a child":
                child = subprocess.Popen(["sleep", "60"])
                say("child", pid=child.pid)
            case "say and exit":
                for number in range(told["times"]):
                    say("word", number=number)
                raise SystemExit(told["code"])
            case "exit":
                raise SystemExit(told["code"])


main()
