"""The ways in which a model can follow a token tree, and the self-test that says which one is exact for it."""
