"""Small heads that judge: on text alone, or on the policy's own hidden states."""
