"""mini-swe-agent on the benchmark's script: its agent, its deterministic model, a shell a step, its trajectory on disk.

    PYTHON benchmarks/support/peer_mini.py SCRIPT.json ROLLOUTS     (an environment that has mini-swe-agent)

The calls become shell commands. Prints processor milliseconds a step, and apart those of the shells.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ["MSWEA_SILENT_STARTUP"] = "1"
from minisweagent import __version__
from minisweagent.agents.default import DefaultAgent
from minisweagent.environments.local import LocalEnvironment
from minisweagent.models.test_models import DeterministicModel, make_output

CALLS = json.loads(Path(sys.argv[1]).read_text())
FILES = json.loads(Path(sys.argv[1]).with_name("files.json").read_text())
SHELL = {
    "list_files": "find {rel_dir} -type f",
    "read_file": "head -c {max_chars} {rel_path}",
    "grep": "grep -rn '{pattern}' {rel_dir}",
    "write_file": "printf '%s' '{content}' > {rel_path}",
}


def rollout() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name, text in FILES.items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        commands = [SHELL[name].format(**args) for name, args in CALLS]
        commands.append("echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT")
        outputs = [make_output(f"```bash\n{command}\n```", [{"command": command}], 0.0) for command in commands]
        agent = DefaultAgent(
            DeterministicModel(outputs=outputs, cost_per_call=0.0),
            LocalEnvironment(cwd=folder),
            system_template="You fix code.",
            instance_template="{{task}}",
            output_path=Path(folder, "trajectory.json"),
        )
        agent.run("repair it")


times = int(sys.argv[2])
rollout()
before, started = os.times(), time.process_time()
for _ in range(times):
    rollout()
own, after, steps = time.process_time() - started, os.times(), times * (len(CALLS) + 1)
shells = after.children_user + after.children_system - before.children_user - before.children_system
print(json.dumps({"cpu_ms": 1000 * own / steps, "shell_ms": 1000 * shells / steps, "version": __version__}))
