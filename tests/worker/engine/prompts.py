"""Twenty prompts of a few words to a few paragraphs."""

TEXTS = [
    "Hi",
    "The capital of France is",
    "def fibonacci(n):\n",
    "Once upon a time, in a village by the sea,",
    "1, 2, 3, 5, 8, 13,",
    "Water boils at",
    "Der schnelle braune Fuchs springt über",
    "The three laws of thermodynamics state that",
    "import numpy as np\n\nx = np.",
    "A list of European countries:\n- Germany\n- France\n-",
    "She opened the letter and read: 'Dear",
    "In 1969, Neil Armstrong",
    "The recipe needs flour, sugar,",
    "Photosynthesis is the process by which green plants",
    "To be, or not to be, that is the",
    "Machine learning models are trained by minimizing",
]
LONG = "The history of computing is long and full of surprising turns. "
PARAGRAPHS = [LONG * 4 + "It began", LONG * 8 + "Later", LONG * 12 + "Today", LONG * 16 + "Soon"]
