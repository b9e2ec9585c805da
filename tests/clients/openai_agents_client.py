"""openai-agents against a base URL. usage: openai_agents_client.py URL stream|whole"""

import asyncio
import sys

from agents import Agent, OpenAIChatCompletionsModel, Runner, function_tool, set_tracing_disabled
from openai import AsyncOpenAI

set_tracing_disabled(True)


@function_tool
def read_file(path: str) -> str:
    """Read a file."""
    return f"text of {path}"


async def main(url: str, stream: bool) -> None:
    model = OpenAIChatCompletionsModel("m", AsyncOpenAI(base_url=url, api_key="none-given", max_retries=0))
    agent = Agent(name="reader", instructions="You read files.", model=model, tools=[read_file])
    if stream:
        result = Runner.run_streamed(agent, "What do a.py and b.py hold?", max_turns=5)
        async for _ in result.stream_events():
            pass
    else:
        result = await Runner.run(agent, "What do a.py and b.py hold?", max_turns=5)
    print(result.final_output)


asyncio.run(main(sys.argv[1], sys.argv[2] == "stream"))
