import json
import os
import socket
import subprocess
import sys
from multiprocessing.connection import Connection

import psutil

from service.engine import EngineConfig
from service.engine.messages import Ready, Setup

PARENT = """
import asyncio, sys
from service.engine import EngineConfig, make_engine

async def main():
    engine = make_engine(EngineConfig(model=sys.argv[1], device="cpu"))
    await engine.start()
    print(engine.pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


def test_the_child_never_outlives_its_parent(tiny_model):
    command = [sys.executable, "-c", PARENT, str(tiny_model)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    child.wait(10)
    assert not child.is_running()


CRASH = """
import asyncio, sys
import service.engine.child as child
from service.engine.loop import StepLoop

def broken(self):
    import warnings
    warnings.warn("some library's advice")
    raise RuntimeError("about a secret prompt")

StepLoop.tick = broken
StepLoop.idle = property(lambda self: False)
sys.exit(child.main(int(sys.argv[1])))
"""


def test_the_child_logs_lines_of_json_without_messages_of_errors(tiny_model):
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-c", CRASH, str(theirs.fileno())]
    with ours, theirs, subprocess.Popen(command, pass_fds=[theirs.fileno()], stderr=subprocess.PIPE) as child:
        connection = Connection(os.dup(ours.fileno()))
        connection.send(Setup(EngineConfig(model=str(tiny_model), device="cpu", log_level="warning"), os.getpid()))
        assert isinstance(connection.recv(), Ready)
        _, stderr = child.communicate(timeout=60)
        connection.close()
    advice, error = [json.loads(line) for line in stderr.decode().splitlines()]
    assert (advice["level"], advice["logger"]) == ("warning", "py.warnings")
    assert (child.returncode, error["level"], error["error"]) == (1, "error", "RuntimeError")
    assert "broken" in error["at"][-1]
    assert b"secret" not in stderr
