"""Run a few lines in two gloo processes and bring both reports back."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def in_two_processes(code: str, folder: Path) -> list[Any]:
    """Return what ``code`` left in ``report`` in each process; ``sys.argv[1]`` is ``folder``."""
    ending = (
        "; import json; open(f'{sys.argv[1]}/{torch.distributed.get_rank()}.json', 'w').write(json.dumps(report))"
        "; torch.distributed.destroy_process_group()"  # gloo's threads abort a process that ends without
    )
    (folder / "main.py").write_text("import sys, torch; torch.distributed.init_process_group('gloo'); " + code + ending)
    port = str(random.randint(20000, 60000))
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", port]
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    subprocess.run([*launch, str(folder / "main.py"), str(folder)], check=True, cwd=ROOT, env=environment)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]
