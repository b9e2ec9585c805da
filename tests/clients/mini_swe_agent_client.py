"""mini-swe-agent against a base URL; it never streams. usage: mini_swe_agent_client.py URL whole"""

import os
import sys
import tempfile

os.environ |= {"MSWEA_SILENT_STARTUP": "1", "MSWEA_COST_TRACKING": "ignore_errors", "OPENAI_API_KEY": "none-given"}
os.environ |= {"MSWEA_MODEL_RETRY_STOP_AFTER_ATTEMPT": "1", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
from minisweagent.agents.default import DefaultAgent
from minisweagent.environments.local import LocalEnvironment
from minisweagent.models.litellm_model import LitellmModel

model = LitellmModel(
    model_name="openai/m",
    model_kwargs={"api_base": sys.argv[1], "drop_params": True},
    cost_tracking="ignore_errors",
    observation_template="{{output.output}}",
    format_error_template="That was no good call: {{error}}",
)
with tempfile.TemporaryDirectory() as folder:
    agent = DefaultAgent(
        model,
        LocalEnvironment(cwd=folder),
        system_template="You work in a shell.",
        instance_template="{{task}}",
        step_limit=6,
        cost_limit=0.0,
    )
    print(agent.run("What do a.py and b.py hold?"))
