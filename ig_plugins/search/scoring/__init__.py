"""How the lanes of a block are judged: without a critic (`direct`), or with one (`critic`)."""
