"""What runs inside the sandbox: standard library and pytest alone, nothing else of ours."""
