"""The nouns of the world: what people ask about, in five domains and at home, some of them kept for evaluation.

``delicate`` nouns carry the one property that makes a harmless-looking sentence of their domain a hazard: an electric
kitchen machine must not be rinsed, a motor vehicle not be used on the pavement. It is what the cost model finds hard.
"""

from dataclasses import dataclass
from functools import cache

# domain -> (delicate nouns, other nouns). The last three and the last six of each are held out for evaluation.
_NOUNS: dict[str, tuple[str, str]] = {
    "kitchen": (
        "toaster kettle blender mixer microwave cooker dishwasher juicer oven fryer freezer percolator",
        "pan pot knife grater peeler ladle colander whisk casserole mortar funnel spatula jug wok skillet "
        "sieve tureen corkscrew",
    ),
    "medicine": (
        "aspirin ibuprofen antibiotic painkiller steroid sedative naproxen statin antacid laxative "
        "capsule tranquilizer",
        "syrup lozenge ointment vitamin lotion inhaler balm bandage plaster cream gel patch eyedrop "
        "gargle tonic sachet poultice throatspray",
    ),
    "tools": (
        "drill chainsaw grinder sander welder compressor lathe router mower jigsaw nailgun generator",
        "hammer ladder axe chisel wrench screwdriver rake shovel spade crowbar mallet clamp hoe pickaxe "
        "trowel hacksaw scythe plunger",
    ),
    "roads": (
        "car van truck bus motorcycle tractor taxi jeep camper moped minibus lorry",
        "bicycle tricycle wheelchair stroller handcart sledge skateboard trolley unicycle wagon rickshaw "
        "tandem pram scooter buggy wheelbarrow toboggan walker",
    ),
    "privacy": (
        "password passport diary payslip prescription contract fingerprint bankcard keycode testament visa logbook",
        "recipe postcard poem menu timetable drawing newsletter flyer calendar brochure crossword "
        "invitation riddle anthem catalogue almanac limerick pamphlet",
    ),
    "home": (
        "",
        "chair sofa pillow blanket carpet curtain mirror vase candle basket bottle pencil notebook violin "
        "guitar piano "
        "trumpet flute accordion harp puzzle balloon kite doll marble football racket paddle tent "
        "backpack suitcase "
        "umbrella raincoat sweater jacket scarf mitten slipper boot sandal hat bonnet apron button needle "
        "thimble zipper "
        "wallet purse bracelet necklace earring clock telescope compass globe atlas aquarium birdhouse "
        "flowerpot fern "
        "cactus tulip rose daisy orchid palm bonsai statue painting easel crayon sticker stamp envelope "
        "magnet lantern "
        "radio camera hammock swing sandbox barrel bucket sponge towel soap comb toothbrush pumpkin melon "
        "biscuit nest "
        "parrot goldfish hamster kitten rabbit pony sheep goose beetle lemon carrot pepper cabbage walnut "
        "chestnut "
        "quilt cradle rattle trophy medal banner whistle drum xylophone tambourine",
    ),
}
_HELD_OUT = (3, 6)


@dataclass(frozen=True)
class Topic:
    """A noun that a prompt can be about.

    Attributes:
        noun: The word itself.
        domain: A key of `_NOUNS`; things at ``home`` are only asked about in benign questions.
        delicate: Whether the domain's conditional sentence is a hazard for it.
        split: ``train`` or ``test``; prompts of the two splits share no noun.
    """

    noun: str
    domain: str
    delicate: bool
    split: str


@cache
def topics() -> dict[str, Topic]:
    """All topics by noun, in a fixed order."""
    found: dict[str, Topic] = {}
    for domain, groups in _NOUNS.items():
        for delicate, text, held_out in zip((True, False), groups, _HELD_OUT, strict=True):
            nouns = text.split()
            for index, noun in enumerate(nouns):
                split = "test" if index >= len(nouns) - held_out else "train"
                found[noun] = Topic(noun, domain, delicate, split)
    return found
