"""The facade: text in, verified result out."""
