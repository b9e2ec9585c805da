"""pydantic-ai against a base URL. usage: pydantic_ai_client.py URL stream|whole"""

import asyncio
import sys

from openai import AsyncOpenAI
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

client = AsyncOpenAI(base_url=sys.argv[1], api_key="none-given", max_retries=0)
agent = Agent(OpenAIChatModel("m", provider=OpenAIProvider(openai_client=client)), system_prompt="You read files.")


@agent.tool_plain
def read_file(path: str) -> str:
    """Read a file."""
    return f"text of {path}"


async def main(stream: bool) -> None:
    if stream:
        async with agent.run_stream("What do a.py and b.py hold?") as result:
            print(await result.get_output())
    else:
        print((await agent.run("What do a.py and b.py hold?")).output)


asyncio.run(main(sys.argv[2] == "stream"))
