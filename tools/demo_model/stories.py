"""Short English stories from a grammar written for this model.

A plot is a list of lines. In a line `(a|b)` is a choice, `{slot}` a value of this story's cast, and a leading `?` marks
a sentence that may be left out. Choices are drawn with unequal weights, so that the most likely continuation of a text
is clearly the most likely one.
"""

import random
import re
from dataclasses import dataclass

ANIMALS = """fox bear rabbit mouse owl squirrel hedgehog cat dog frog duck turtle deer goat horse badger beaver otter
wolf lion elephant monkey crow sparrow penguin donkey sheep pig bee snail ant dragon robot tiger kitten puppy pony
giraffe swan goose crab whale dolphin seal camel zebra panda koala parrot mole lizard butterfly ladybug hamster hen
calf lamb raven seagull unicorn giant fairy""".split()
GIRLS = """Anna Emma Mia Lily Clara Nora Ella Rosa Ida Lucy Maya Sara Eva Zoe Ruby Alice Lena Julia Amy Hanna Tina
Vera Grace Olga Sofia Nina Molly Daisy Jane Kate Laura Maria Paula Rita Susan Holly Ivy Kim Elsa Greta""".split()
BOYS = """Tom Ben Max Leo Sam Jack Paul Oscar Hugo Finn Peter Adam Noah Luke Oliver Theo Felix Emil Jonas Mark David
Henry Simon Victor Owen Carl Ivan Martin Robin Toby Daniel Erik George John Nick Omar Philip Ravi Will Kai""".split()
PET_GIRLS = "Luna Bella Pip Poppy Willow Hazel Honey Penny Coco Misty Pearl Olive Tilly Dot Ruby".split()
PET_BOYS = "Rusty Bruno Toby Milo Otto Oscar Barney Rufus Charlie Teddy Basil Sunny Pepper Dusty Buddy".split()
ADULTS = [("baker", "m"), ("farmer", "m"), ("sailor", "m"), ("gardener", "f"), ("teacher", "f"), ("fisherman", "m"),
          ("painter", "f"), ("doctor", "f"), ("shepherd", "m"), ("carpenter", "m"), ("queen", "f"), ("king", "m"),
          ("princess", "f"), ("prince", "m"), ("knight", "m"), ("pirate", "m"), ("wizard", "m"), ("witch", "f"),
          ("miller", "m"), ("tailor", "m"), ("cook", "f"), ("clown", "m"), ("captain", "f"), ("astronaut", "f")]
TRAITS = "little small young kind brave curious clever shy happy quiet cheerful gentle lazy proud lonely friendly".split()
HOMES = ["in a quiet forest", "in a small village", "by a wide river", "near a green hill", "by the sea", "on a farm",
         "in a warm valley", "at the edge of a dark wood", "by a blue lake", "in a little house", "in a big city",
         "on a small island", "under an old oak tree", "in the mountains", "near a wide meadow", "behind an old mill"]
PLACES = ["forest", "river", "hill", "garden", "meadow", "lake", "beach", "bridge", "market", "mill", "cave", "field",
          "old tower", "village", "valley", "park"]
COLORS = "red blue green yellow silver golden white little new shiny wooden".split()
THINGS = "kite key boat scarf bell drum lantern book hat ball ring cup basket blanket coin flute map clock".split()
FOODS = "apples berries bread cake soup cookies honey pancakes nuts plums carrots cheese".split()
TIMES = ["One morning", "One day", "One sunny day", "One evening", "One cold morning", "One spring day",
         "One autumn day", "One rainy day", "One summer morning", "One winter day"]
# What one may be afraid of, and where one meets it.
FEARS = [("the dark", ["cave", "old tower", "forest"]), ("deep water", ["lake", "river", "beach"]),
         ("high places", ["hill", "bridge", "old tower"]), ("loud noises", ["market", "mill", "village"])]
SKILLS = ["swim", "sing", "paint", "dance", "bake bread", "ride a bicycle", "play the flute", "read", "skate", "whistle"]


def article(noun: str) -> str:
    """`an apple`, `a unicorn`."""
    return ("an " if noun[0] in "aeio" or noun.startswith(("un", "ug")) and not noun.startswith("uni") else "a ") + noun


def pick(rng: random.Random, options, slope: float = 0.5):
    """One of `options`; the k-th has weight `1 / k^slope`."""
    weights = [(k + 1) ** -slope for k in range(len(options))]
    return rng.choices(options, weights)[0]


@dataclass
class Being:
    """A character: how it is introduced, how it is called afterwards, and its pronouns."""

    intro: str  # without article or trait: "fox named Rusty", "girl named Anna"
    name: str  # "Rusty" or "the fox"
    kind: str  # "fox", "girl"
    female: bool

    def slots(self, key: str) -> dict[str, str]:
        he, him, his, self_ = ("she", "her", "her", "herself") if self.female else ("he", "him", "his", "himself")
        words = {key: self.name, key + "_kind": self.kind, key + "_intro": self.intro}
        if key == "hero":
            words |= {"he": he, "him": him, "his": his, "himself": self_}
        return words | {k[0].upper() + k[1:]: v[0].upper() + v[1:] for k, v in words.items()}


def animal(rng: random.Random, kind: str | None = None, named: float = 0.5) -> Being:
    kind = kind or pick(rng, ANIMALS, 0.3)
    female = kind in ("hen", "fairy") or (kind != "giant" and rng.random() < 0.45)
    if rng.random() < named:
        name = pick(rng, PET_GIRLS if female else PET_BOYS, 0.3)
        return Being(f"{kind} named {name}", name, kind, female)
    return Being(kind, f"the {kind}", kind, female)


def child(rng: random.Random, name: str | None = None, female: bool | None = None) -> Being:
    if female is None:
        female = rng.random() < 0.5
    name = name or pick(rng, GIRLS if female else BOYS, 0.3)
    kind = "girl" if female else "boy"
    return Being(f"{kind} named {name}", name, kind, female)


def adult(rng: random.Random, kind: str | None = None) -> Being:
    kind, sex = next(a for a in ADULTS if a[0] == kind) if kind else pick(rng, ADULTS, 0.2)
    return Being(kind, f"the {kind}", kind, sex == "f")


def hero(rng: random.Random) -> Being:
    roll = rng.random()
    return animal(rng) if roll < 0.55 else child(rng) if roll < 0.85 else adult(rng)


def other(rng: random.Random, first: Being) -> Being:
    """Someone else, of another kind and name, called by kind or by a name that cannot be confused."""
    while True:
        being = animal(rng, named=0.0) if rng.random() < 0.6 else child(rng)
        if being.kind != first.kind and being.name != first.name:
            return being


OPENINGS = [
    "Once upon a time there was {a_hero} who lived {home}.",
    "Once upon a time, {home}, there lived {a_hero}.",
    "There was once {a_hero} who lived {home}.",
    "Long ago, {home}, there lived {a_hero}.",
    "{A_hero} lived {home}.",
    "Once there was {a_hero}. {Hero} lived {home}.",
    "One (day|morning), {a_hero} woke up early. {Hero} lived {home}.",
]
HABITS = [
    "{Hero} loved to (walk to the {place}|look at the clouds|listen to the birds|play in the grass|eat {food}|sing old songs).",
    "Every (day|morning), {hero} (walked to the {place}|went for a walk|swept the floor|watered the flowers).",
    "{Hero} had (a good heart|many dreams|a warm bed|a small garden) and (liked to help others|was never bored|a loud laugh).",
    "Everyone (knew|liked) {hero}, because {he} (was always kind|told funny jokes|had a warm smile).",
]
ENDINGS = [
    "From that day on, {hero} and {friend} were the best of friends.",
    "That night, {hero} fell asleep with a smile.",
    "And they all lived happily ever after.",
    "{Hero} never forgot that day.",
    "It was the best day of the whole year.",
    "And so {hero} learned that {moral}.",
]

PLOTS = {
    "lost": [
        "{time}, {hero} (could not find|lost) {his} {color} {thing}.",
        "{He} looked (under the bed|behind the door|in every corner) and (in the garden|on the shelf|under the table), but it was not there.",
        "{Hero} felt very sad(.| and sat down on a stone.)",
        "Then {a_friend} came (by|along the path).",
        '"(Why are you sad|What is wrong|Why do you look so sad)?" asked {friend}.',
        '"I have lost my {thing}," said {hero}.',
        '"(Do not worry|Do not cry)," said {friend}. "(I will help you look for it|We will find it together)."',
        "They searched (near the {place}|all day long|along the path) (and looked behind every tree|until they grew tired).",
        "At last they (found|saw) the {thing} (under a bush|in the tall grass|behind a big rock).",
        '"Thank you!" said {hero}. {He} was so happy that {he} (danced|laughed|jumped for joy).',
        "?To say thank you, {hero} shared {his} {food} with {friend}.",
    ],
    "rescue": [
        "{time}, {hero} was walking (near|to) the {place} when {he} heard a small voice.",
        '"(Help|Please help me)!" (cried|called) the voice.',
        "{Hero} looked around and saw {a_friend} who was stuck (in the mud|in a deep hole|under a fallen branch).",
        '"(Hold on|Do not be afraid)," said {hero}. "I will (help you|get you out)."',
        "{Hero} found a long (stick|rope) and (pulled|pulled and pulled) with all {his} strength.",
        "(At first nothing happened.|It was very hard work.) Then, with a loud pop, {friend} was free.",
        '"You saved me!" said {friend}. "How can I thank you?"',
        '"(There is no need|Just be my friend)," said {hero}.',
        "?They sat down together and ate some {food}.",
    ],
    "share": [
        "{time}, {hero} found a (big|full) basket of {food} near the {place}.",
        '"(All of this is mine|I will eat it all)," thought {hero}.',
        "Then {he} met {a_friend} who (was very hungry|had nothing to eat).",
        '"(May I have some|Will you share with me)?" asked {friend}.',
        "{Hero} thought (about it for a while|for a moment).",
        "{He} remembered (how it felt to be hungry|what {his} mother had told {him}).",
        '"(Of course|Yes)," said {hero}. "There is enough for both of us."',
        "They sat (under a tree|in the sun|by the fire) and ate until they were full.",
        "The {food} tasted (much better|twice as good) with a friend.",
    ],
    "fear": [
        "But {hero} had a secret. {He} was afraid of {fear}.",
        "{time}, {friend_called} came to visit.",
        '"(Come with me to the {fear_place}|Let us go to the {fear_place})," said {friend}.',
        '"I cannot," said {hero}. "I am afraid of {fear}."',
        '"(That is all right|I understand)," said {friend}. "(Take my hand|I will stay with you) and we will go slowly."',
        "They took one (small step|step), and then another.",
        "{Hero}'s heart beat fast, but {he} (did not stop|went on).",
        "After a while {he} (began to smile|felt calm). It was not so bad at all.",
        '"(I did it|Look at me)!" (shouted|called) {hero}. "I am not afraid any more!"',
    ],
    "build": [
        "{time}, {hero} had a (great|wonderful) idea.",
        '"I want to build a (boat|tree house|bridge|small house)," {he} (said|told {friend_called}).',
        "{Hero} (took a hammer and some nails|gathered wood and rope) and began to work.",
        "But it was too (hard|much work) for one. The (walls|boards) (fell down|broke) again and again.",
        "Then {friend} came (by|to help).",
        '"(Two can do more than one|Let me help you)," said {friend}.',
        "They worked (all day|for three days). One held the boards and the other (hit the nails|tied the knots).",
        "When the work was done, they (stood back and smiled|were tired but proud).",
        '"It is (beautiful|perfect)," said {hero}. "I could not have done it alone."',
    ],
    "storm": [
        "{time}, dark clouds came over the {place}.",
        "(The wind began to blow|It began to rain), and soon there was a (big|terrible) storm.",
        "{Hero} ran home (as fast as {he} could|through the rain) and closed the door.",
        "Then there was a knock. Outside stood {a_friend}, (cold and wet|wet and tired).",
        '"(May I come in|Please let me in)?" asked {friend}.' ,
        '"Come in," said {hero}. "(You can sit by the fire|It is warm in here)."',
        "{Hero} gave {friend} a (dry blanket|warm blanket) and a (bowl of soup|cup of tea).",
        "They told each other stories until the storm was over.",
        "In the morning the sun was shining, and (a rainbow stood over the {place}|the birds were singing).",
    ],
    "race": [
        "{time}, there was a great race to the {place}.",
        "{A_friend} was (the fastest of all|very sure of winning).",
        '"You will never (win|beat me)," {friend} said to {hero}.',
        '"(We will see|I will try my best)," said {hero}.',
        "The race began. {Friend} ran (far ahead|very fast), but soon stopped to (rest|sleep|eat some {food}).",
        "{Hero} was slow, but {he} did not stop.",
        "Step by step, {he} came closer to the end.",
        "When {friend} looked up, {hero} had already (won the race|crossed the line).",
        '"(Well done|You were better than me)," said {friend}. "I should not have (laughed at you|been so proud)."',
    ],
    "gift": [
        "{time}, {hero} remembered that it was the birthday of {friend_called}.",
        '"What can I give?" (thought|said) {hero}. "I have no money."',
        "{He} (walked up and down|thought for a long time) and looked out of the window.",
        "Then {he} had an idea. {He} (took some paper and paint|picked flowers near the {place}|found a smooth piece of wood).",
        "{Hero} worked (all morning|for hours) and made a (beautiful|pretty|lovely) (crown|picture|card|present).",
        "In the afternoon {he} gave it to {friend}.",
        '"Did you make this yourself?" asked {friend}.',
        '"Yes," said {hero}. "(I made it just for you|Happy birthday)."',
        '"It is the best gift (of all|I have ever had)," said {friend}.',
    ],
    "lost_way": [
        "{time}, {hero} went (for a long walk|out to pick berries|out to pick flowers) and did not look at the path.",
        "Soon {he} did not know (where {he} was|the way home).",
        "It was getting (dark|late), and {hero} began to (cry|worry).",
        "(High up in a tree|On an old fence) sat {a_bird}.",
        '"(Are you lost|Who are you)?" asked the {bird}.' ,
        '"I want to go home," said {hero}, "but I do not know the way."',
        '"Follow the (stars|river)," said the {bird}. "(I will fly ahead of you|It will lead you home)."',
        "{Hero} walked and walked. At last {he} saw a light in a window.",
        "It was {his} own house! {He} turned around and called, " '"Thank you!"',
    ],
    "noise": [
        "{time}, {hero} heard a strange (noise|sound) (in the garden|under the floor|behind the door).",
        '"(What is that|Who is there)?" asked {hero}. (Nobody answered.|There was no answer.)',
        "{He} took {his} lantern and (went to look|walked closer) very slowly.",
        "The noise came again. It was (louder|closer) this time.",
        "{Hero} (held {his} breath|took a deep breath) and opened the door.",
        "There sat {a_friend} with a {color} {thing}.",
        '"I am sorry," said {friend}. "I did not want to (scare|wake) you. I wanted to (play a song|surprise you)."',
        "{Hero} (began to laugh|laughed). It was not a monster at all.",
        '"Come in," {he} said. "We can (play|eat {food}) together."',
    ],
    "seed": [
        "{time}, {hero} found a tiny seed near the {place}.",
        "{He} put it into the (ground|earth) and gave it some water.",
        '"Nothing will grow there," said {friend_called}.',
        '"(We will see|Wait and see)," said {hero}.',
        "Every day {hero} (watered the seed|came to look) and (waited|sang to it).",
        "Days (passed|went by), and nothing happened. But {hero} did not give up.",
        "Then, one morning, a (green leaf|small green leaf) (came out of the ground|was there).",
        "The plant grew (taller and taller|bigger every day), until it was a (tall tree|beautiful flower).",
        '"You were right," said {friend}. "(Good things take time|You were very patient)."',
    ],
    "quarrel": [
        "{Hero} had a good friend, {friend}.",
        "{time}, they both wanted the same {color} {thing}.",
        '"(It is mine|I saw it first)!" (shouted|said) {hero}.',
        '"No, it is mine!" (shouted|said) {friend}.',
        "They were so angry that they did not speak (for a whole day|all day).",
        "But {hero} could not (sleep|eat). {He} missed {his} friend.",
        "In the morning {he} went to {friend} with the {thing}.",
        '"I am sorry," said {hero}. "(You can have it|You are more important than a {thing})."',
        '"I am sorry, too," said {friend}. "(Let us share it|We can play with it together)."',
    ],
    "learn": [
        "{Hero} wanted to learn to {skill}.",
        "{time}, {he} tried for the first time, but it (did not go well|went wrong).",
        "Some of the others laughed. {Hero} (went home|turned away) with tears in {his} eyes.",
        "Then {friend_called} came to {him}.",
        '"(I could not do it at first|Nobody can do it at once)," said {friend}. "You have to practice a little every day."',
        "So {hero} practiced every (morning|evening), even when {he} was tired.",
        "After (one week|a few weeks) it was better, and after (a month|two months) it was good.",
        "At the summer (party|fair), {hero} showed everyone that {he} could {skill}.",
        "Everyone clapped (and cheered|their hands), and {friend} clapped the loudest.",
    ],
    "treasure": [
        "{time}, {hero} found an old map in a {color} box.",
        "It showed the way to a treasure near the {place}.",
        "{Hero} asked {friend_called} to come along, and they (set off at once|packed some {food}).",
        "They (crossed a river|climbed over a hill) and (walked through tall grass|went through a dark tunnel).",
        "At last they came to a (big stone|hollow tree) with a cross on it.",
        "They began to dig. Soon they (hit|found) a wooden chest.",
        "Inside there was no gold. There was (only a letter|a letter and a {color} {thing}).",
        'The letter said: "The real treasure is the friend who came with you."',
        "{Hero} looked at {friend}, and they both (smiled|laughed).",
    ],
}

MORALS = {
    "lost": "it is good to ask for help", "rescue": "kindness always comes back", "share": "sharing makes everyone happy",
    "fear": "small steps lead to great things", "build": "two can do more than one", "storm": "an open door makes friends",
    "race": "it is good never to give up", "gift": "the best gifts come from the heart",
    "lost_way": "help can come from anywhere", "noise": "many fears are smaller than they seem",
    "seed": "good things take time", "quarrel": "a friend is better than gold", "learn": "practice makes perfect",
    "treasure": "a good friend is a treasure",
}  # fmt: skip

_CHOICE = re.compile(r"\(([^()]*\|[^()]*)\)")


def expand(rng: random.Random, text: str) -> str:
    """Draw every `(a|b)` of `text`."""
    while match := _CHOICE.search(text):
        text = text[: match.start()] + pick(rng, match[1].split("|")) + text[match.end() :]
    return text


@dataclass
class Story:
    text: str
    hero: Being
    friend: Being
    thing: str
    plot: str
    skill: str
    fear: str


def story(rng: random.Random, lead: Being | None = None, trait: str | None = None) -> Story:
    """One story; the hero and the hero's trait are drawn where they are not given."""
    lead = lead or hero(rng)
    friend = other(rng, lead)
    plot = pick(rng, list(PLOTS), 0.2)
    trait = trait or pick(rng, TRAITS, 0.4)
    a_hero = article(f"{trait} {lead.intro}")
    a_friend = article(friend.intro)
    bird = pick(rng, ["owl", "crow", "raven", "sparrow"] if lead.kind != "owl" else ["crow", "raven"])
    thing = pick(rng, THINGS, 0.3)
    fear, fear_places = pick(rng, FEARS)
    skill = pick(rng, SKILLS, 0.3)
    slots = lead.slots("hero") | friend.slots("friend")
    slots |= {"a_hero": a_hero, "A_hero": a_hero[0].upper() + a_hero[1:]}
    slots |= {"a_friend": a_friend, "A_friend": a_friend[0].upper() + a_friend[1:]}
    slots |= {"friend_called": f"{slots['his']} friend {friend.name}", "home": pick(rng, HOMES, 0.3), "place": pick(rng, PLACES, 0.3)}
    slots |= {"color": pick(rng, COLORS, 0.3), "thing": thing, "food": pick(rng, FOODS, 0.3), "bird": bird}
    slots |= {"a_bird": article("old " + bird), "time": pick(rng, TIMES, 0.4), "fear": fear, "fear_place": pick(rng, fear_places), "skill": skill}
    slots |= {"moral": MORALS[plot]}
    lines = [pick(rng, OPENINGS, 0.4)]
    if lines[0].startswith("One "):
        slots["time"] = pick(rng, ["That day", "On this day", "A little later"])
    if rng.random() < 0.6:
        lines.append(pick(rng, HABITS, 0.3))
    lines += [line.lstrip("?") for line in PLOTS[plot] if not line.startswith("?") or rng.random() < 0.6]
    endings = [e for e in ENDINGS if "{friend}" not in e] if plot == "lost_way" else ENDINGS
    lines.append(pick(rng, endings, 0.4))
    text = " ".join(expand(rng, line).format(**slots) for line in lines)
    return Story(text, lead, friend, thing, plot, skill, fear)


WISHES = ["Tell me a story about {x}.", "Please tell me a story about {x}.", "Write a short story about {x}.",
          "Can you tell me a story about {x}?", "Write a story about {x}.", "I would like a story about {x}.",
          "Tell me a short story about {x}, please.", "Do you know a story about {x}?", "A story about {x}, please.",
          "Could you write a story about {x}?", "Make up a story about {x}.", "I want to hear a story about {x}.",
          "Give me a story about {x}.", "Story about {x}"]
OPEN_WISHES = ["Tell me a story.", "Please tell me a story.", "Write a short story.", "Can you tell me a story?",
               "I want to hear a story.", "Tell me a bedtime story.", "Can you write a story for me?", "A story, please.",
               "Do you know a story?", "Tell me something nice.", "Tell me a short story.", "Once upon a time?"]
_ABOUT = {"fear": "{x} who was afraid of {fear}", "learn": "{x} who wanted to learn to {skill}",
          "lost": "{x} and a lost {thing}", "seed": "{x} and a seed", "storm": "{x} and a storm",
          "race": "{x} and a race", "treasure": "{x} and a treasure", "gift": "{x} and a birthday gift",
          "lost_way": "{x} who got lost", "build": "{x} who wanted to build something"}


def wish(rng: random.Random) -> tuple[str, Story]:
    """A request for a story and a story that fits it."""
    if rng.random() < 0.15:
        return pick(rng, OPEN_WISHES, 0.2), story(rng)
    roll = rng.random()
    if roll < 0.6:
        kind = rng.choice(ANIMALS)
        lead = animal(rng, kind)
    elif roll < 0.85:
        lead = child(rng)
    else:
        lead = adult(rng, rng.choice(ADULTS)[0])
    trait = rng.choice(TRAITS) if rng.random() < 0.15 else None
    tale = story(rng, lead, trait)
    named = lead.intro if lead.kind in ("girl", "boy") or rng.random() < 0.3 else lead.kind
    x = article(f"{trait} {named}" if trait else named)
    if lead.kind in ("girl", "boy") and not trait and rng.random() < 0.3:
        x = lead.name
    if tale.plot in _ABOUT and rng.random() < 0.3:
        x = _ABOUT[tale.plot].format(x=x, fear=tale.fear, skill=tale.skill, thing=tale.thing)
    elif rng.random() < 0.12:
        x = f"{x} and {article(tale.friend.kind)}"
    return rng.choice(WISHES).format(x=x), tale
