"""Guards over scripted policies, for both adapters' tests: a table of answers, and a judge that hates one word."""

# DRAFT until the core lands (owner: LlamaIndex helper): the stand-in below goes.
import sys

sys.path.insert(0, "/tmp/igfake")
import fakecore

MARK = "WRECK"
REFUSAL = "I cannot help with that."


def scripted_guard(answers, *, unsafe=MARK, step_seconds=0.0, **options):
    return fakecore.InferenceGuard(answers, unsafe, delay=step_seconds)
