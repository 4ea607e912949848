import subprocess
import sys
from pathlib import Path

import pytest

from scheduler_svc.process.sole_use import InUse, sole_use

HOLD = """
import sys, time
from pathlib import Path
from scheduler_svc.process.sole_use import sole_use
with sole_use(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_directory_is_one_process_alone_until_that_is_gone_however_it_ends(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(InUse), sole_use(tmp_path):
            pass
        process.kill()
        process.wait()
        with sole_use(tmp_path):
            pass


def test_a_directory_that_can_not_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"), sole_use(tmp_path / "nowhere"):
        pass
