DEFAULTS = {
    "theme": {"name": "light", "contrast": 1},
    "editor": {"tab": 4, "rulers": [80]},
    "autosave": True,
}
