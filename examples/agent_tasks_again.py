"""Twenty further tasks and twenty further questions without need of a tool, on which nothing of ours was chosen."""

from typing import Literal

from agent_tasks import Pairs, in_turn, without_need


def exchange_rate(currency: Literal["euro", "yen", "pound"]) -> str:
    """What a dollar is worth in another currency."""
    found = {"euro": "0.92", "yen": "151", "pound": "0.79"}
    return f"One dollar is {found[currency]} {currency}."


def stock_price(company: str) -> str:
    """The price of a company's share today."""
    found = {"apple": 214, "tesla": 251, "ford": 12}
    return f"{company}: {found.get(company.lower(), 'not listed')} dollars."


def train_times(town: str) -> str:
    """When the next train leaves for a town."""
    found = {"bath": "10:42", "york": "11:05", "leeds": "12:30"}
    return f"Next train to {town}: {found.get(town.lower(), 'none today')}."


def hotel_price(town: str) -> str:
    """What a hotel room in a town costs for a night."""
    found = {"bath": 95, "york": 80, "leeds": 70}
    return f"A room in {town}: {found.get(town.lower(), 'none free')} pounds."


def set_alarm(time: str) -> str:
    """Set an alarm clock."""
    return f"Alarm set for {time}."


def play_song(title: str) -> str:
    """Play a song."""
    return f"Playing {title}."


def movie_rating(title: str) -> str:
    """How viewers rate a movie."""
    found = {"jaws": "8.1", "titanic": "7.9", "alien": "8.5"}
    return f"{title}: {found.get(title.lower(), 'not rated')}."


def book_author(title: str) -> str:
    """Who wrote a book."""
    found = {"emma": "Jane Austen", "dracula": "Bram Stoker", "ulysses": "James Joyce"}
    return f"{title}: {found.get(title.lower(), 'not known')}."


def employee_email(name: str) -> str:
    """The email address of an employee."""
    return f"{name}: {name.split()[0].lower()}@example.com."


def vacation_days(name: str) -> str:
    """How many days of vacation an employee has left."""
    return f"{name} has {len(name) + 3} days left."


_PAIRS: Pairs = [
    (
        (exchange_rate, stock_price),
        [
            ("How many yen do I get for a dollar?", 0, "151"),
            ("What does a share of Tesla cost?", 1, "251"),
            ("I need pounds. What is the rate?", 0, "0.79"),
            ("Is Ford under 20 dollars at the stock market?", 1, "12"),
        ],
    ),
    (
        (train_times, hotel_price),
        [
            ("When does the next train to York leave?", 0, "11:05"),
            ("How much is a hotel in Bath?", 1, "95"),
            ("I must be in Leeds today. When can I go?", 0, "12:30"),
            ("We want to sleep in York. What will that cost?", 1, "80"),
        ],
    ),
    (
        (set_alarm, play_song),
        [
            ("Wake me at seven tomorrow.", 0, "seven"),
            ("I want to hear Yesterday.", 1, "Yesterday"),
            ("Set an alarm for 6:30.", 0, "6:30"),
            ("Please play Imagine.", 1, "Imagine"),
        ],
    ),
    (
        (movie_rating, book_author),
        [
            ("How good is the movie Alien?", 0, "8.5"),
            ("Who is the author of Emma?", 1, "Austen"),
            ("What do viewers think of Titanic?", 0, "7.9"),
            ("Which writer made Dracula?", 1, "Stoker"),
        ],
    ),
    (
        (employee_email, vacation_days),
        [
            ("What is the email address of Peter?", 0, "peter@"),
            ("How many days off does Julia still have?", 1, "8"),
            ("I want to write to Simon. Where do I send it?", 0, "simon@"),
            ("Can Laura take a week of vacation?", 1, "8"),
        ],
    ),
]

TASKS = in_turn(_PAIRS)

_WORDS = [
    "Hi there, nice to meet you.",
    "What is the meaning of life?",
    "Thanks, that is all.",
    "Write a birthday wish for my mother.",
    "How do plants grow?",
    "I am bored.",
    "What is the capital of Italy?",
    "Tell me about the Roman Empire.",
    "Can you speak German?",
    "How do I become a better friend?",
    "What makes a good teacher?",
    "Explain gravity to a child.",
    "Have a nice day!",
    "What is two plus two?",
    "Should I get a dog or a cat?",
    "How do I tie a knot?",
    "Who are your makers?",
    "Give me an idea for dinner.",
    "Why do cats purr?",
    "Sing me a song about the rain.",
]

WORDS = without_need(_WORDS, _PAIRS)
