"""Stands in for scripts.gpu_proof.child: does at once what its first request names."""

import json
import os
import signal
import subprocess
import sys
import time

SLEEP = "import time; time.sleep(600)"


def say(**message: object) -> None:
    os.write(int(os.environ["QLLM_PROOF_FD"]), json.dumps(message).encode() + b"\n")


say(ready=True)
for line in sys.stdin:
    what = json.loads(line)["step"]
    say(figure=what, values={"pid": os.getpid()})
    if what == "passes":
        say(end="passed", error="")
    elif what == "fails":
        say(end="failed", error="two is not three")
    elif what == "loses its device":
        say(end="failed", error="gone")
        os._exit(1)
    elif what == "stops in a line":
        os.write(int(os.environ["QLLM_PROOF_FD"]), b'{"figure": "ha')
        sys.exit(3)
    elif what == "crashes":
        sys.stdout.write("the last words\n")
        sys.stdout.flush()
        os.kill(os.getpid(), signal.SIGSEGV)
    else:
        # A grandchild in a session of its own, as services are started.
        orphan = subprocess.Popen([sys.executable, "-c", SLEEP], start_new_session=True)
        say(figure="orphan", values={"pid": orphan.pid})
        if what == "leaves":
            say(end="passed", error="")
        while what == "hangs":
            time.sleep(1)
