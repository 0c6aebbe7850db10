"""What changes how long an answer takes and not what it says; without these files everything else works."""
