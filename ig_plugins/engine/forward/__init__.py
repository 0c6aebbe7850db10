"""One forward of the model: its own layers or faster equals of them, attention over a tree, and the caches it fills."""
