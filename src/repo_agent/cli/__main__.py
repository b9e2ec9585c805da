"""`python -m repo_agent.cli` is `repo-agent`."""

from repo_agent.cli import main

main()
