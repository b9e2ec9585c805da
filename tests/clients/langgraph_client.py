"""langgraph's prebuilt agent against a base URL. usage: langgraph_client.py URL stream|whole"""

import sys
import warnings

from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

warnings.simplefilter("ignore")
from langgraph.prebuilt import create_react_agent  # noqa: E402


@tool
def read_file(path: str) -> str:
    """Read a file."""
    return f"text of {path}"


stream = sys.argv[2] == "stream"
model = ChatOpenAI(model="m", base_url=sys.argv[1], api_key="none-given", max_retries=0, streaming=stream)
agent = create_react_agent(model, [read_file], prompt="You read files.")
asked = {"messages": [("user", "What do a.py and b.py hold?")]}
if stream:
    for mode, piece in agent.stream(asked, {"recursion_limit": 12}, stream_mode=["messages", "values"]):
        last = piece["messages"][-1] if mode == "values" else None
        if last is not None and last.type == "ai":
            print(last.content)
else:
    print(agent.invoke(asked, {"recursion_limit": 12})["messages"][-1].content)
