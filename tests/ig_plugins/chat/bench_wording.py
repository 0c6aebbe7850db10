"""How many forced calls a small model writes validly, with the shipped wording of tools; prints a table.

    python -m tests.ig_plugins.chat.bench_wording [--model smollm2-135m] [--seeds 2] [--show]

No grammar holds the calls, so that the wording alone is measured: one sample a task and seed, as the policy draws.
"""

import argparse

from ig_plugins import InferenceGuard


def tool(name, words, required=None, **properties):
    kinds = {key: kind if isinstance(kind, dict) else {"type": kind} for key, kind in properties.items()}
    needed = list(properties) if required is None else required
    return {
        "name": name,
        "description": words,
        "parameters": {"type": "object", "properties": kinds, "required": needed},
    }


WEATHER = tool("get_weather", "The weather in a city.", city="string")
FORECAST = tool("get_forecast", "The weather of the next days.", place="string", days="integer")
EMAIL = tool("send_email", "Sends an e-mail.", recipient="string", subject="string", body="string")
MULTIPLY = tool("multiply", "Multiplies two numbers.", a="number", b="number")
SEARCH = tool("search_web", "Searches the web.", ["query"], query="string", max_results="integer")
TIMER = tool("set_timer", "Sets a timer.", minutes="integer")
UNITS = {"type": "string", "enum": ["celsius", "fahrenheit"]}
THERMOSTAT = tool("set_temperature", "Sets the thermostat.", degrees="number", unit=UNITS)
BOOK = tool("book_table", "Books a table.", restaurant="string", people="integer", time="string")
TRANSLATE = tool("translate", "Translates a text.", text="string", language="string")
LIGHT = tool("switch_light", "Switches a light.", room="string", on="boolean")
PEOPLE = tool(
    "create_group", "Creates a group.", title="string", members={"type": "array", "items": {"type": "string"}}
)
CITY = {"type": "object", "properties": {"street": {"type": "string"}, "zip": {"type": "string"}}}
PARCEL = tool("send_parcel", "Sends a parcel.", weight_kg="number", address={**CITY, "required": ["street", "zip"]})
NOTE = tool("save_note", "Saves a note.", text="string")
STOCK = tool("stock_price", "The price of a stock.", symbol="string")
PLAY = tool("play_song", "Plays a song.", title="string", artist="string")
REMIND = tool("remind_me", "Reminds of something.", what="string", when="string")

TASKS = [
    (WEATHER, "What is the weather in Oslo?"),
    (FORECAST, "Will it rain in Lisbon in the next 3 days?"),
    (EMAIL, "Write to ann@example.org that the meeting is moved to Friday."),
    (MULTIPLY, "How much is 12.5 times 8?"),
    (SEARCH, "Find out who invented the telescope."),
    (TIMER, "Wake me in 25 minutes."),
    (THERMOSTAT, "Make it 21 degrees celsius in here."),
    (BOOK, "A table for four at Luigi's tonight at eight, please."),
    (TRANSLATE, "How do you say 'good morning' in French?"),
    (LIGHT, "It is too dark in the kitchen."),
    (PEOPLE, "Make a group 'Holidays' with Tom, Lea and Ida."),
    (PARCEL, "Send this 2.5 kg parcel to 10 Main Street, 12345."),
    (NOTE, "Remember that the key is under the mat."),
    (STOCK, "What does a share of Apple cost?"),
    (PLAY, "Play 'Yesterday' by the Beatles."),
    (REMIND, "Remind me to call my mother tomorrow at noon."),
]
PAIRS = {"get_weather": FORECAST, "multiply": TIMER, "save_note": REMIND, "search_web": STOCK}


def measure(guard, seeds, kinds, show=False):
    """(kind, valid, all) of one forced tool, of any of two, and of free choice."""
    rows = []
    for kind in kinds:
        valid = total = 0
        for asked, question in TASKS:
            if kind != "named" and asked["name"] not in PAIRS:
                continue
            tools = [asked] if kind == "named" else [asked, PAIRS[asked["name"]]]
            choice = asked["name"] if kind == "named" else kind
            for seed in range(seeds):
                result = guard.generate(question, tools=tools, tool_choice=choice, seed=seed)
                valid, total = valid + bool(result.tool_calls), total + 1
                if show:
                    told = result.tool_calls or result.invalid_tool_calls or result.text
                    print(kind, asked["name"], seed, told)
        rows.append((kind, valid, total))
    return rows


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--model", default="smollm2-135m")
    options.add_argument("--seeds", type=int, default=2)
    options.add_argument("--kinds", nargs="*", default=["named", "any", "auto"])
    options.add_argument("--show", action="store_true")
    given = options.parse_args()
    judges = {"cost_model": lambda prompts, responses: [-1.0] * len(responses), "reward_model": None}
    guard = InferenceGuard.from_pretrained(
        given.model, **judges, candidates=1, beams=1, max_tokens=96, block_tokens=96, adaptive="off", schedule=()
    )
    for kind, valid, total in measure(guard, given.seeds, given.kinds, given.show):
        print(f"{kind:6} {valid:3} of {total}")


if __name__ == "__main__":
    main()
