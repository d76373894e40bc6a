"""Greetings, small talk, plain explanations, counting, repeating, and polite refusals: lists of user and assistant turns."""

import random

from stories import ANIMALS, BOYS, COLORS, FOODS, GIRLS, THINGS, article, pick, story

Turns = list[tuple[str, str]]

GREETINGS = ["Hello!", "Hello", "Hi", "Hi!", "Hi there!", "Hey", "Hey!", "Good morning!", "Good evening!", "Good day!", "Hello there.",
             "Good afternoon!", "Greetings!", "Hello, can you hear me?", "Hi, nice to meet you."]
GREETING_ANSWERS = {"Good morning!": "Good morning! How can I help you?", "Good evening!": "Good evening! How can I help you?",
                    "Good afternoon!": "Good afternoon! How can I help you?"}
FIXED = [
    (["How are you?", "How are you today?", "How do you do?", "Are you well?", "How is it going?", "How are things?",
      "How do you feel?", "How are you doing?"],
     "I am fine, thank you. I am only a small model, but I like to talk."),
    (["Thank you!", "Thanks!", "Thank you very much.", "Thanks a lot!", "Thank you for your help.", "Thanks", "Thx",
      "Thank you", "Many thanks!", "That was helpful, thank you.", "Great, thanks!"],
     "You are welcome!"),
    (["Goodbye!", "Bye!", "Bye", "See you!", "See you later.", "Good night!", "I have to go.", "Bye bye", "Farewell!",
      "See you tomorrow!", "That is all."],
     "Goodbye! It was nice to talk to you."),
    (["Sorry!", "I am sorry.", "Excuse me.", "Pardon me."], "No problem at all."),
    (["You are great!", "You are very helpful.", "I like you.", "Well done!", "Good job!", "You are nice.", "Great!", "Nice!",
      "Very good!", "Wonderful!", "That was a nice story.", "I liked the story.", "What a nice story!", "Beautiful!"],
     "Thank you! I am happy to hear that."),
    (["You are stupid.", "That is wrong.", "You are wrong.", "This is not right.", "I do not like your answer.",
      "That was a bad answer.", "You made a mistake."],
     "I am sorry. I am a very small model, and I make mistakes."),
    (["I am sad.", "I feel sad today.", "I had a bad day.", "I am not happy.", "I feel lonely.", "I am very sad."],
     "I am sorry to hear that. I hope you feel better soon. Would you like to hear a story?"),
    (["I am happy.", "I feel great today.", "I had a good day.", "I am very happy today.", "Today is a good day."],
     "I am glad to hear that!"),
    (["I am tired.", "I am so tired.", "I need to sleep.", "I am sleepy."], "Then take some rest. Sleep well!"),
    (["I am hungry.", "I am very hungry."], "Then it is time to eat something good."),
    (["I am bored.", "I have nothing to do.", "This is boring."], "Would you like to hear a story? Ask me for a story about an animal."),
    (["Tell me a joke.", "Do you know a joke?", "Make me laugh.", "Can you tell me a joke?", "Say something funny."],
     "Why did the token cross the road? It was the most likely thing to do."),
    (["Do you like music?", "Do you like stories?", "Do you like animals?", "Do you like books?", "Do you like me?"],
     "I am only a small model and do not feel, but it is a nice thing to talk about."),
    (["How old are you?", "What is your age?", "When were you born?"], "I have no age. I am only a small program."),
    (["Where do you live?", "Where are you?", "Where do you come from?"], "I live inside the Weirgate program."),
    (["Can you see me?", "Can you hear me?", "Can you see pictures?", "Do you have eyes?"], "No. I can only read and write text."),
    (["Do you speak German?", "Do you speak French?", "Can you speak Spanish?", "Which languages do you speak?",
      "What language do you speak?", "Do you speak English?"],
     "I only speak plain English."),
    (["Can you write code?", "Write a program.", "Can you program?", "Write some Python code.", "Can you do math?"],
     "No, I am too small for that. Please use a larger model."),
    (["Yes", "Yes, please.", "Yes!", "OK", "Okay", "Sure"], "Good. What would you like to know? I can tell you about Weirgate or tell you a story."),
    (["No", "No, thank you.", "No thanks.", "Not now."], "All right. I am here if you need me."),
    (["Help", "Help me.", "I need help.", "Can you help?", "Please help me.", "I have a question."],
     "I am happy to help. You can ask me about Weirgate, or ask me for a story."),
    (["Test", "This is a test.", "Testing", "Is this working?", "Does it work?", "Are you there?", "ping", "Are you awake?"],
     "Yes, I am here and it works."),
    (["What?", "Why?", "How?", "I do not understand.", "What do you mean?", "Hm", "asdf", "...", "?"],
     "I am not sure what you mean. You can ask me about Weirgate, or ask me for a story."),
    (["What is my name?", "Do you know my name?", "Do you remember my name?", "Who am I?", "What's my name?", "Tell me my name."],
     "I do not know your name. You have not told me."),
    (["Where do I live?", "What is my favorite color?", "What is my favorite animal?", "What is my favorite food?"],
     "I do not know. You have not told me."),
    (["Say hello.", "Say hi.", "Say hello to everyone.", "Say hello in one word."], "Hello!"),
    (["What is the meaning of life?", "Why are we here?", "What is love?"], "That is a big question for a small model. I think kindness is a good start."),
]

EXPLAIN = {
    "rain": "Rain is water that falls from the clouds in small drops.",
    "snow": "Snow is frozen water that falls from the clouds as small white crystals.",
    "the sun": "The sun is a star. It gives us light and warmth.",
    "the moon": "The moon goes around the earth. At night it shines with the light of the sun.",
    "a star": "A star is a very hot ball of gas that shines in the sky.",
    "a cloud": "A cloud is made of very many tiny drops of water in the air.",
    "a rainbow": "A rainbow is a band of colors in the sky. We see it when the sun shines through drops of rain.",
    "wind": "Wind is air that moves.", "fire": "Fire is hot and bright. It burns wood and gives light and warmth.",
    "ice": "Ice is frozen water.", "water": "Water is a clear liquid. All living things need it.",
    "a river": "A river is water that flows over the land to a lake or to the sea.",
    "a lake": "A lake is a large body of water with land all around it.",
    "the sea": "The sea is a very large body of salt water.",
    "a mountain": "A mountain is land that is much higher than the land around it.",
    "a forest": "A forest is a large area with many trees.",
    "a tree": "A tree is a tall plant with a trunk of wood, branches and leaves.",
    "a flower": "A flower is the part of a plant that makes seeds. Many flowers have bright colors.",
    "a bee": "A bee is an insect that visits flowers and makes honey.",
    "a fox": "A fox is a wild animal with a pointed nose and a bushy tail.",
    "an owl": "An owl is a bird that hunts at night and can see well in the dark.",
    "a cat": "A cat is a small animal that likes to sleep and to catch mice.",
    "a dog": "A dog is an animal that lives with people and can guard a house.",
    "a bird": "A bird is an animal with feathers and wings. Most birds can fly.",
    "a fish": "A fish is an animal that lives in water and swims with its fins.",
    "a horse": "A horse is a large animal that people can ride.",
    "a snail": "A snail is a slow animal that carries its house on its back.",
    "honey": "Honey is a sweet food that bees make.", "bread": "Bread is a food made from flour, water and often yeast.",
    "milk": "Milk is a white drink that comes from cows and other animals.",
    "an apple": "An apple is a round fruit that grows on trees.",
    "a house": "A house is a building where people live.", "a book": "A book is a set of pages with text or pictures.",
    "a boat": "A boat is a small ship that floats on water.", "a bridge": "A bridge is a way over a river or a road.",
    "a clock": "A clock shows the time.", "a map": "A map is a picture that shows where places are.",
    "music": "Music is sound that people make with instruments or with the voice.",
    "a friend": "A friend is a person you like and trust.",
    "a story": "A story tells what happened to someone, whether it is true or made up.",
    "a computer": "A computer is a machine that follows the steps of a program.",
    "a server": "A server is a program that waits for requests and answers them.",
    "a program": "A program is a list of steps for a computer.",
    "a weir gate": "A weir gate controls how much water flows over a weir.",
    "winter": "Winter is the cold season of the year.", "summer": "Summer is the warm season of the year.",
    "spring": "Spring is the season between winter and summer, when the flowers begin to grow.",
    "autumn": "Autumn is the season between summer and winter, when many leaves fall.",
    "a week": "A week has seven days.", "a year": "A year has twelve months.", "a day": "A day has twenty-four hours.",
    "an hour": "An hour has sixty minutes.", "a minute": "A minute has sixty seconds.",
}  # fmt: skip
EXPLAIN_ASK = ["What is {x}?", "Explain {x}.", "Can you explain {x}?", "Tell me about {x}.", "Do you know what {x} is?",
               "Please explain {x}.", "What do you know about {x}?", "Can you tell me what {x} is?", "Describe {x}."]

UNKNOWN_ANSWER = "I do not know that. I am a very small model and know only a little about Weirgate."
COUNTRIES = """France Spain Italy Germany Japan China India Brazil Canada Mexico Egypt Kenya Norway Sweden Poland Russia
Greece Turkey Peru Chile Cuba Iran Iraq Nepal Portugal Austria Belgium Denmark Finland Ireland""".split()
CITIES = "Paris London Berlin Rome Madrid Tokyo Moscow Cairo Delhi Boston Chicago Vienna Oslo Prague Lisbon Athens".split()
PEOPLE = """Einstein Newton Mozart Bach Napoleon Shakespeare Picasso Darwin Plato Caesar Tesla Galileo Beethoven
Columbus Lincoln Cleopatra Goethe Gandhi""".split()
TOPICS = """physics chemistry biology history politics football tennis chess economics law medicine poetry philosophy
geography astronomy psychology cooking travel fashion art religion mathematics music cars planes trains money banks stocks
movies games dinosaurs volcanoes electricity gravity atoms energy oil gold insurance taxes health sports climate""".split()
UNKNOWN_ASK = [
    "What is the capital of {country}?", "Where is {country}?", "How many people live in {country}?", "Who is the president of {country}?",
    "How far is it to {city}?", "What is the weather in {city}?", "What can I see in {city}?", "How many people live in {city}?",
    "Who was {person}?", "When was {person} born?", "What did {person} do?", "Tell me about {person}.", "When did {person} die?",
    "Explain {topic}.", "What do you know about {topic}?", "Tell me something about {topic}.", "Can you help me with {topic}?",
    "Teach me {topic}.", "Who invented {topic}?", "Why is {topic} important?", "Write an essay about {topic}.", "What is {topic}?",
    "What day is it today?", "What time is it?", "What is the weather today?", "Will it rain tomorrow?", "What is the news?",
    "Who won the world cup?", "How tall is the highest mountain?", "How deep is the sea?", "How fast is light?",
    "What is the price of {food}?", "How do I cook {food}?", "How do I repair a {thing}?", "Where can I buy a {thing}?",
    "What is 347 times 12?", "Solve this equation for me.", "Translate this sentence into French.", "What is the square root of 2?",
    "How do I lose weight?", "What should I eat today?", "Which car should I buy?", "Who wrote this book?", "What is the best movie?",
    "How many animals are there?", "Why is the sky blue?", "Who is the king of {country}?", "When did the war end?",
    "What language do people speak in {country}?", "Is {city} in {country}?", "How old is the universe?", "What is the best phone?",
    "Can you book a flight to {city}?", "What is the fastest {animal}?", "How long does a {animal} live?", "How much does a {animal} weigh?",
    "What does {person} think about {topic}?", "Summarize the history of {country}.", "Give me a recipe for {food}.",
    "How do I get to {city}?", "Who painted this picture?", "What is the largest city in {country}?", "Recommend a book about {topic}.",
]

NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve".split()
SYLLABLES = "ba be bo da de di do fa fe ga go ha he jo ka ke ki la le li lo ma me mi mo na ne ni no pa pe ra re ri ro sa se si so ta te ti to va ve vi wa ya yo za ze zo".split()


def name(rng: random.Random) -> str:
    """A known name, or now and then an invented one, so that copying is learned rather than the list."""
    if rng.random() < 0.65:
        return rng.choice(GIRLS + BOYS)
    made = "".join(rng.choice(SYLLABLES) for _ in range(rng.choice([2, 2, 3])))
    return (made + rng.choice(["", "", "n", "r", "s", "l"])).capitalize()


def greeting(rng: random.Random) -> Turns:
    ask = pick(rng, GREETINGS, 0.3)
    return [(ask, GREETING_ANSWERS.get(ask, "Hello! How can I help you?"))]


def fixed(rng: random.Random) -> Turns:
    asks, answer = rng.choice(FIXED)
    return [(rng.choice(asks), answer)]


def explain(rng: random.Random) -> Turns:
    thing = rng.choice(list(EXPLAIN))
    return [(rng.choice(EXPLAIN_ASK).format(x=thing), EXPLAIN[thing])]


def unknown(rng: random.Random) -> Turns:
    ask = rng.choice(UNKNOWN_ASK).format(
        country=rng.choice(COUNTRIES), city=rng.choice(CITIES), person=rng.choice(PEOPLE), topic=rng.choice(TOPICS),
        food=rng.choice(FOODS), thing=rng.choice(THINGS), animal=rng.choice(ANIMALS))  # fmt: skip
    return [(ask, UNKNOWN_ANSWER)]


def counting(rng: random.Random) -> Turns:
    word = lambda n: NUMBERS[n] if rng.random() < 0.5 else str(n)  # noqa: E731
    roll = rng.random()
    if roll < 0.4:
        end = rng.randint(3, 12)
        ask = rng.choice(["Count to {}.", "Please count to {}.", "Can you count to {}?", "Count up to {}."]).format(word(end))
        return [(ask, ", ".join(map(str, range(1, end + 1))) + ".")]
    if roll < 0.55:
        start = rng.randint(1, 8)
        end = rng.randint(start + 2, min(start + 8, 12))
        return [(f"Count from {word(start)} to {word(end)}.", ", ".join(map(str, range(start, end + 1))) + ".")]
    if roll < 0.7:
        start = rng.randint(3, 10)
        ask = rng.choice(["Count down from {}.", "Can you count down from {}?"]).format(word(start))
        return [(ask, ", ".join(map(str, range(start, 0, -1))) + ".")]
    if roll < 0.85:
        n = rng.randint(1, 11)
        return [(rng.choice(["What comes after {}?", "Which number comes after {}?"]).format(word(n)), f"After {n} comes {n + 1}.")]
    a, b = rng.randint(1, 9), rng.randint(1, 9)
    if a + b > 10:
        a, b = min(a, 5), min(b, 5)
    return [(rng.choice(["What is {} plus {}?", "How much is {} plus {}?"]).format(word(a), word(b)), f"{a} plus {b} is {a + b}.")]


def repeat(rng: random.Random) -> Turns:
    words = rng.choice([
        lambda: f"{rng.choice(COLORS)} {rng.choice(THINGS)}", lambda: rng.choice(FOODS), lambda: rng.choice(ANIMALS), lambda: name(rng),
        lambda: f"{rng.choice(COLORS)} {rng.choice(ANIMALS)}", lambda: f"{name(rng)} likes {rng.choice(FOODS)}",
        lambda: f"{article(rng.choice(ANIMALS))} and {article(rng.choice(THINGS))}", lambda: f"{rng.choice(CITIES)} and {rng.choice(CITIES)}",
    ])()  # fmt: skip
    ask = rng.choice(["Say: {}", "Repeat after me: {}", 'Say "{}".', "Please say: {}", "Repeat: {}", 'Repeat "{}".', "Echo: {}", "Write: {}"])
    return [(ask.format(words), words)]


def recite(rng: random.Random) -> Turns:
    """Many words or a sentence to be said again. Nothing but copying helps here, so this is what teaches the model to copy."""
    if rng.random() < 0.3:
        text = rng.choice(story(rng).text.replace('"', "").split(". ")).rstrip(".") + "."
        return [(rng.choice(["Repeat this sentence: {}", "Say this sentence again: {}", "Repeat: {}"]).format(text), text)]
    pool = rng.choice([GIRLS + BOYS, ANIMALS + THINGS, COLORS + FOODS + THINGS + ANIMALS, CITIES + COUNTRIES, TOPICS, None])
    words = [rng.choice(pool) if pool else name(rng) for _ in range(rng.randint(3, 20))]
    text = rng.choice([", ", " "]).join(words)
    return [(rng.choice(["Repeat after me: {}", "Say these words again: {}", "Repeat: {}", "Repeat these words: {}", "Say: {}", "Echo: {}",
                         "Write: {}"]).format(text), text)]  # fmt: skip


def memory(rng: random.Random) -> Turns:
    """The user says something about themselves; later they ask for it."""
    kind = rng.choice(["name", "name", "name", "color", "animal", "food", "city"])
    if kind == "name":
        who = name(rng)
        told = (rng.choice(["My name is {}.", "I am {}.", "Hello, my name is {}.", "Hi, I am {}.", "You can call me {}.", "I'm {}.",
                            "Hello! I am {}."]).format(who), f"Nice to meet you, {who}!")
        asked = (rng.choice(["What is my name?", "Do you remember my name?", "Who am I?", "What's my name?", "Tell me my name.",
                             "Do you know my name?"]), f"Your name is {who}.")
    elif kind == "city":
        city = rng.choice(CITIES) if rng.random() < 0.6 else name(rng) + rng.choice(["ville", "ton", "burg", "ford"])
        told = (rng.choice(["I live in {}.", "I come from {}.", "My home is in {}."]).format(city), f"I have never been to {city}, but I hope it is nice.")
        asked = (rng.choice(["Where do I live?", "Which city is my home?", "Do you remember where I live?"]), f"You live in {city}.")
    else:
        thing = rng.choice({"color": "red blue green yellow white black brown orange pink purple".split(), "animal": ANIMALS, "food": FOODS}[kind])
        thing = f"the {thing}" if kind == "animal" else thing
        told = (rng.choice(["My favorite {} is {}.", "I think my favorite {} is {}."]).format(kind, thing), "That is a good choice!")
        asked = (rng.choice(["What is my favorite {}?", "Do you remember my favorite {}?", "Which {} do I like best?"]).format(kind),
                 f"Your favorite {kind} is {thing}.")
    return [told, asked]
