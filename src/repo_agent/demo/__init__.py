"""The offline demo: the whole chain on a tiny base model that the package ships, and the recipe of that model."""
