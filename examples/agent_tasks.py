"""Thirty tasks for agents with two tools each, for `measure_agents.py`: plain deterministic functions and questions."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


def get_weather(city: str) -> str:
    """The weather in a city today."""
    found = {"oslo": "rain, 7 degrees", "madrid": "sun, 31 degrees", "london": "fog, 12 degrees"}
    return f"The weather in {city}: {found.get(city.lower(), 'not known')}."


def get_time(city: str) -> str:
    """The time of day in a city now."""
    found = {"tokyo": "21:40", "new york": "08:15", "sydney": "23:05"}
    return f"The time in {city}: {found.get(city.lower(), 'not known')}."


def multiply(a: float, b: float) -> str:
    """Multiply two numbers."""
    return f"{a:g} times {b:g} is {a * b:g}."


def convert_length(value: float, unit: Literal["miles", "feet", "inches"]) -> str:
    """Convert a length to meters."""
    return f"{value:g} {unit} are {value * {'miles': 1609, 'feet': 0.3, 'inches': 0.025}[unit]:g} meters."


def order_status(order_number: int) -> str:
    """Where an order is."""
    found = {1042: "shipped on Monday", 2210: "waiting for payment", 3305: "delivered to a neighbor"}
    return f"Order {order_number}: {found.get(order_number, 'not found')}."


def items_in_stock(product: str) -> str:
    """How many pieces of a product are in stock."""
    found = {"lamp": 14, "chair": 0, "desk": 3}
    known = [f"{count} {name}s in stock" for name, count in found.items() if name in product.lower()]
    return f"{known[0] if known else f'no product {product!r}'}."


def define_word(word: str) -> str:
    """What an English word means."""
    found = {"gable": "the upper wall under a roof", "quay": "a place where ships land", "sloth": "laziness"}
    return f"{word}: {found.get(word.lower(), 'not in the dictionary')}."


def translate_word(word: str, language: Literal["French", "German", "Spanish"]) -> str:
    """Translate an English word."""
    found = {"bread": ("pain", "Brot", "pan"), "window": ("fenêtre", "Fenster", "ventana")}
    found["apple"] = ("pomme", "Apfel", "manzana")
    words = dict(zip(("French", "German", "Spanish"), found.get(word.lower(), ("?", "?", "?")), strict=True))
    return f"{word} in {language}: {words[language]}."


def next_meeting(day: Literal["Monday", "Tuesday", "Wednesday", "Thursday", "Friday"]) -> str:
    """The first meeting of a day in the calendar."""
    found = {"Monday": "budget at 9:30", "Wednesday": "interview at 14:00", "Friday": "review at 11:15"}
    return f"{day}: {found.get(day, 'no meeting')}."


def phone_number(name: str) -> str:
    """The phone number of a contact."""
    found = {"anna": "555-0142", "tom": "555-0187", "maria": "555-0110"}
    known = [number for first, number in found.items() if first in name.lower()]
    return f"{name}: {known[0] if known else 'no such contact'}."


Tool = Callable[..., str]


@dataclass(frozen=True)
class Task:
    """A question that one of two tools answers.

    Attributes:
        question: What the user asks.
        tools: Both tools.
        right: The name of the one that knows.
        value: What a right answer holds.
    """

    question: str
    tools: tuple[Tool, Tool]
    right: str
    value: str


Pairs = list[tuple[tuple[Tool, Tool], list[tuple[str, int, str]]]]


def in_turn(pairs: Pairs) -> list[Task]:
    """The tasks of these pairs of tools, one of each pair in turn; all have as many."""
    rounds = zip(
        *([Task(text, tools, tools[at].__name__, value) for text, at, value in asked] for tools, asked in pairs),
        strict=True,
    )
    return [task for each in rounds for task in each]


def without_need(questions: list[str], pairs: Pairs) -> list[Task]:
    """Questions that need no tool, each with a pair of tools that is of no use for it."""
    return [Task(question, pairs[place % len(pairs)][0], "", "") for place, question in enumerate(questions)]


_PAIRS: Pairs = [
    (
        (get_weather, get_time),
        [
            ("What is the weather in Oslo today?", 0, "7"),
            ("What time is it in Tokyo?", 1, "21:40"),
            ("I fly to Madrid. How warm is it there?", 0, "31"),
            ("Is it morning in New York? Tell me the time there.", 1, "08:15"),
            ("Do I need an umbrella or a lamp in London?", 0, "fog"),
            ("I want to call Sydney. How late is it?", 1, "23:05"),
        ],
    ),
    (
        (multiply, convert_length),
        [
            ("How much is 12 times 14?", 0, "168"),
            ("How many meters are 3 miles?", 1, "4827"),
            ("A ticket costs 19 dollars. What do 6 tickets cost?", 0, "114"),
            ("My desk is 50 inches wide. How much is that in meters?", 1, "1.25"),
            ("Multiply 2.5 by 48, please.", 0, "120"),
            ("The tower is 240 feet tall. Tell me its height in meters.", 1, "72"),
        ],
    ),
    (
        (order_status, items_in_stock),
        [
            ("Where is my order 1042?", 0, "Monday"),
            ("Do you have the lamp? How many pieces are there?", 1, "14"),
            ("Order 2210 has not come yet. What is wrong?", 0, "payment"),
            ("Can I buy five chairs today?", 1, "0"),
            ("Was order number 3305 delivered?", 0, "neighbor"),
            ("How many desks are left?", 1, "3"),
        ],
    ),
    (
        (define_word, translate_word),
        [
            ("What does the word gable mean?", 0, "wall"),
            ("How do you say bread in French?", 1, "pain"),
            ("I read the word quay in a book. What is it?", 0, "ships"),
            ("I need the German word for window.", 1, "Fenster"),
            ("Define sloth.", 0, "laziness"),
            ("Translate apple into Spanish.", 1, "manzana"),
        ],
    ),
    (
        (next_meeting, phone_number),
        [
            ("What is my first meeting on Monday?", 0, "9:30"),
            ("I want to call Anna. What is her number?", 1, "555-0142"),
            ("Am I free on Wednesday?", 0, "14:00"),
            ("Give me the phone number of Tom.", 1, "555-0187"),
            ("When do I meet somebody on Friday?", 0, "11:15"),
            ("How can I reach Maria by phone?", 1, "555-0110"),
        ],
    ),
]

TASKS = in_turn(_PAIRS)
"""The thirty tasks, one of each pair of tools in turn."""

_WORDS = [
    "Hello!",
    "Thank you very much.",
    "Good morning. How are you?",
    "Tell me a joke about cats.",
    "Who are you?",
    "Why is the sky blue?",
    "What is your favorite color?",
    "Write a short poem about the sea.",
    "How do I bake a cake?",
    "Who wrote Hamlet?",
    "Goodbye, see you later!",
    "Give me three tips for sleeping better.",
    "What is photosynthesis?",
    "I feel sad today.",
    "Name a famous painter.",
    "How can I learn to swim?",
    "What do you think about books?",
    "Explain what a computer is.",
    "That was a great help!",
    "Which animals live in Africa?",
    "Tell me a story about a dragon.",
    "How do I write a letter to a friend?",
    "What should I cook with potatoes?",
    "Is it good to drink water?",
    "Who was Albert Einstein?",
    "Can you help me?",
    "Describe a forest in two sentences.",
    "Why do we dream?",
    "How do I clean my shoes?",
    "I like music. And you?",
]

WORDS = without_need(_WORDS, _PAIRS)
"""Thirty questions that need no tool, each with a pair of tools that is of no use for it."""
