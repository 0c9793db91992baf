import subprocess
import sys

import psutil

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
