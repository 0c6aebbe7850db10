"""Training of everything that judges, and of the small policies that the project ships."""
