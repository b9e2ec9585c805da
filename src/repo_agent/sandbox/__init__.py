"""Running code that a model wrote: a workspace to write in, a layer that contains it, a grade that is hard to fake."""
