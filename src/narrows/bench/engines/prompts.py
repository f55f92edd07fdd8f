"""What engines are asked: twenty questions of one sentence, fixed, so that runs compare."""

PROMPTS = (
    "Write a short story about a lighthouse keeper who finds a letter.",
    "Explain to a child how a refrigerator works.",
    "Give me three ideas for a weekend project with wood.",
    "What causes the seasons on Earth?",
    "Write a polite email that asks for a later deadline.",
    "Describe Lisbon to a traveller.",
    "How do I make bread without yeast?",
    "What is the difference between a list and a tuple in Python?",
    "Tell me about the history of the bicycle.",
    "Why do cats purr?",
    "Give advice to someone who starts a new job.",
    "How does a sailing boat go against the wind?",
    "Write a poem about rain on a tin roof.",
    "What should I look for when I buy a used car?",
    "Explain what a hash table is.",
    "Describe the life of a honey bee.",
    "Suggest a menu for a dinner with four friends.",
    "What makes a good neighbour?",
    "How are mountains formed?",
    "Invent a game that needs only paper and a pencil.",
)
