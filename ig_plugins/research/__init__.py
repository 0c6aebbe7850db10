"""Everything that measures, compares, trains and certifies; whoever only wants guarded answers needs none of it."""
