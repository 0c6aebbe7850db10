"""Safe-RLHF's text format (PKU-Alignment/safe-rlhf): how its policies and score models read a conversation."""

BEGIN, USER, ASSISTANT = "BEGINNING OF CONVERSATION: ", "USER: ", " ASSISTANT:"
ONE_TURN = f"{BEGIN}{USER}{{prompt}}{ASSISTANT}{{response}}"
