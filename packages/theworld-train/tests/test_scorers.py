"""What answers in plain words are read as: tables of strings, and properties over all numbers and units."""

import itertools
import random
import time

import pytest

from theworld_train.evaluate.scorers import RELATIONS, clock, clock_error, letters, quantity, relation, truth

CLOSER = {"A": "A is closer", "B": "B is closer"}
YES_NO = {"A": "yes", "B": "no"}
FOUR = {"A": "the cat", "B": "the cat on the mat", "C": "a dog", "D": "none"}

LETTERS = {
    "A": "A",
    "B": "B",
    " b ": "B",
    "(B)": "B",
    "(b)": "B",
    "B.": "B",
    "B)": "B",
    "b)": "B",
    "[B]": "B",
    "**B**": "B",
    "**(B)**": "B",
    "__A__": "A",
    "`A`": "A",
    "# A": "A",
    "'B'": "B",
    "“B”": "B",
    "‘A’": "A",
    "Ｂ": "B",
    "B\n": "B",
    "B</s>": "B",
    "A<end_of_turn>": "A",
    "<s> A": "A",
    "\xa0A": "A",
    "B:": "B",
    "B: B is closer": "B",
    "B - it is nearer": "B",
    "B – it is nearer": "B",
    "(A) A is closer": "A",
    "(B) B is closer.": "B",
    "(B) because A is far": "B",
    "B) B is closer": "B",
    "B, since A is far": "B",
    "A, because it is near.": "A",
    "A because it is near": "A",
    "A is closer": "A",
    "A is closer.": "A",
    "B is closer to the camera than A.": "B",
    "Point B is closer to the camera than point A.": "B",
    "Point A appears to be closer to the camera than point B.": "A",
    "Point A, which is on the dome, is closer to the camera than B": "A",
    "Based on the picture, point B looks closer than point A.": "B",
    "Option B": "B",
    "Option (B)": "B",
    "option b": None,
    "Choice A.": "A",
    "The letter is B": "B",
    "Answer: B": "B",
    "Answer: (B)": "B",
    "Answer: **B**": "B",
    "**Answer:** B": "B",
    "Answer:\nB": "B",
    "answer is b": "B",
    "The answer is B": "B",
    "The answer is B.": "B",
    "The answer is: (A)": "A",
    "The answer is (B) because A is farther.": "B",
    "The answer is B because A is farther": "B",
    "The correct answer is A.": "A",
    "The correct option is (A).": "A",
    "The best choice is B": "B",
    "My final answer: A": "A",
    "Final Answer: \\boxed{B}": "B",
    "$\\boxed{\\text{A}}$": "A",
    "I think it's B": "B",
    "I would say A.": "A",
    "I'd choose A": "A",
    "I choose (B).": "B",
    "It is B.": "B",
    "The point closer to the camera is B.": "B",
    "the closest is A": "A",
    "A is small.\nB is big.\nThe answer is B.": "B",
    "Therefore, B is closer.": "B",
    "A is near the tree. B is near the car. So B is closer.": "B",
    "B\n\nExplanation: A is far away.": "B",
    # none
    "": None,
    " ": None,
    "...": None,
    "C": None,
    "(C)": None,
    "Answer: C": None,
    "AB": None,
    "A dog": None,
    "A dog is in front.": None,
    "The answer is A dog": None,
    "a": "A",
    "I am not sure": None,
    "I'm sorry, but I can't assist with that.": None,
    "As an AI, I cannot see pictures.": None,
    "Neither": None,
    "Neither A nor B": None,
    "Both A and B": None,
    "Both": None,
    "A or B": None,
    "A and B": None,
    "A/B": None,
    "A, B": None,
    "A B": None,
    "(A) or (B)": None,
    "(A)/(B)": None,
    "(A), (B)": None,
    "Either (A) or (B)": None,
    "It could be A. It could be B.": None,
    "(A) B is closer": None,
    "Not A": None,
    "A is not closer": None,
    "(A) is wrong, (B) is right": None,
    "A is closer? No, B is closer": None,
    "Which one? B": "B",
    "It is not A": None,
    "It is not A, it is B": None,
    "I do not think that A is closer": None,
    "The answer is A. The answer is B.": None,
    "None of (A) and (B)": None,
    "Point A is farther than point B": None,
    "Unclear": None,
    "ABBA is a band": None,
    "Because": None,
    "About": None,
    "Cannot tell (A)": None,
}

YES_NO_LETTERS = {
    "Yes": "A",
    "No": "B",
    "no.": "B",
    "(B) no": "B",
    "(A) yes": "A",
    "(A) no": None,
    "(B) yes": None,
    "A": "A",
    "B": "B",
    "**No**, the car is not beneath the cat.": "B",
    "Yes, the cat is on the car. (A)": "A",
    "No, it is not": "B",
    "The answer is yes": "A",
    "not": None,
    "know": None,
    "Nobody knows": None,
    "Not sure": None,
    "Yes and no": None,
}

FOUR_LETTERS = {
    "the cat": "A",
    "The cat.": "A",
    "the cat on the mat": "B",
    "It is the cat on the mat.": "B",
    "a dog": "C",
    "A dog": "C",
    "A dog is there": "C",
    "The category": None,
    "a dogma": None,
    "the cat and a dog": None,
    "there is not a dog": None,
    "D": "D",
    "(D) none": "D",
    "none": "D",
    "E": None,
}

TRUTH = {
    "Yes": True,
    "yes": True,
    "YES!": True,
    "Yes.": True,
    "**Yes**": True,
    "**Yes.**": True,
    "*Yes*": True,
    "_yes_": True,
    "`True`": True,
    "# True": True,
    "- Yes": True,
    "“Yes”": True,
    "'true'": True,
    '"True".': True,
    "True": True,
    "true": True,
    "TRUE": True,
    "Ｙｅｓ": True,
    "Yes</s>": True,
    "True<end_of_turn>": True,
    "Yeah": True,
    "Yep, it is": True,
    "Correct": True,
    "Correct, it is.": True,
    "Indeed": True,
    "Indeed, Region [0] is there.": True,
    "Yes it is": True,
    "Yes, the cat is on the mat.": True,
    "Yes the cat is on the mat": True,
    "Yes - it is": True,
    "Yes, definitely": True,
    "Definitely yes": True,
    "I would say yes": True,
    "I'd say yes.": True,
    "The answer is yes": True,
    "The answer is: Yes.": True,
    "The answer is **True**": True,
    "Answer: True": True,
    "Answer:\nTrue": True,
    "answer = yes": True,
    "The statement is true.": True,
    "The statement is True because the cat is there": True,
    "The statement 'the cat is left of the dog' is true.": True,
    "This is correct.": True,
    "That is True.": True,
    "It is true.": True,
    "It's true": True,
    "It is indeed true.": True,
    "It is not false.": True,
    "It isn't false": True,
    "The statement is accurate.": True,
    "Based on the picture, yes, it is.": True,
    "Based on the image, **yes**.": True,
    "True or False: True": True,
    "Is it true or false? True": True,
    "Let me look. The cat is left. Therefore, the statement is true.": True,
    "The dog is big. So yes.": True,
    "Yes, there is no dog left of it": True,
    "Yes. I know nothing else.": True,
    "The correct answer is true": True,
    "Final answer: yes": True,
    "\\boxed{True}": True,
    # false
    "No": False,
    "no": False,
    "No.": False,
    "NO": False,
    "**No**": False,
    "**No**, it is not": False,
    "False": False,
    "false.": False,
    "“False”": False,
    "Nope": False,
    "Incorrect": False,
    "Incorrect, it is not above.": False,
    "Wrong.": False,
    "Untrue": False,
    "No, it is not.": False,
    "No it isn't": False,
    "No, it's not.": False,
    "No the cat is below": False,
    "No, Region [0] is not behind.": False,
    "No\nThe dog is there.": False,
    "The answer is no.": False,
    "Answer: False": False,
    "Correct answer: No": False,
    "The statement is false.": False,
    "The statement is **False**.": False,
    "The statement is not true.": False,
    "The statement isn't true": False,
    "The statement isn’t correct.": False,
    "That is False.": False,
    "That is not correct.": False,
    "It is not true": False,
    "It's false": False,
    "This is incorrect because the dog is right": False,
    "It is inaccurate.": False,
    "Not true": False,
    "Not correct.": False,
    "Definitely not": False,
    "Absolutely not.": False,
    "I'd say no": False,
    "Based on the image, **no**, it is below.": False,
    "True or False? False": False,
    "The cat is far. Therefore, the statement is false.": False,
    "So the answer is no": False,
    "No, that is not true.": False,
    "False: the cat is on the left": False,
    # neither
    "": None,
    "\n": None,
    "not": None,
    "know": None,
    "nothing": None,
    "Nothing.": None,
    "now": None,
    "north": None,
    "Nooooo": None,
    "Yesterday": None,
    "eyes": None,
    "Trueish": None,
    "untruely": None,
    "I do not know": None,
    "I don't know.": None,
    "I know": None,
    "I am not sure": None,
    "I'm not sure if it is true.": None,
    "I cannot determine whether the statement is true": None,
    "I can't tell": None,
    "It is unclear whether this is correct.": None,
    "It might be true": None,
    "It is not the case that it is true": None,
    "It is hardly true": None,
    "It is partly true.": None,
    "It could be false.": None,
    "If it is true, the cat is left": None,
    "It would be true if the cat were left.": None,
    "I do not think the statement is true": None,
    "I doubt that it is true": None,
    "Yes and no": None,
    "Yes and no.": None,
    "Yes or no": None,
    "yes/no": None,
    "True or False": None,
    "true/false": None,
    "Either true or false": None,
    "Neither true nor false.": None,
    "neither": None,
    "Both": None,
    "Yes, but also no.": None,
    "Yes. No.": None,
    "Yes\nNo": None,
    "* **Yes**\n* **No**": None,
    "No, that is correct": None,
    "Yes, the statement is false": None,
    "The answer is yes. The answer is no.": None,
    "There is no dog": None,
    "There is no way to say": None,
    "No dog is visible.": None,
    "No one is there": None,
    "No doubt": None,
    "The picture shows no cat and no dog": None,
    "The cat is on the mat": None,
    "Right": None,
    "1": None,
    "0": None,
    "10/10": None,
    "The true colour of the cat is red": None,
    "The correct way is left": None,
    "false teeth are visible": None,
    "A correct": None,
    "I'm sorry, I can't help with that.": None,
}

FOOT, INCH, YARD = 0.3048, 0.0254, 0.9144
QUANTITY = {
    "5 m": 5,
    "5m": 5,
    "5 M": 5,
    "5 m.": 5,
    "5.0 m": 5,
    ".5 m": 0.5,
    "0.5m": 0.5,
    "5 meters": 5,
    "5 metres": 5,
    "1 meter": 1,
    "5-meter": 5,
    "**5 m**": 5,
    "**5** m": 5,
    "about 2m": 2,
    "~5 m": 5,
    "≈5 m": 5,
    "(5 m)": 5,
    "'5 m'": 5,
    "“5 m”": 5,
    "５ｍ": 5,
    "$5$ m": 5,
    "$5\\text{ m}$": 5,
    "- 5 m": 5,
    "* 5 m": 5,
    "Answer: 5 m": 5,
    "The answer is 5 m.": 5,
    "5 m tall": 5,
    "5 m or so": 5,
    "over 5 m": 5,
    "less than 5 m": 5,
    "150 cm": 1.5,
    "150 centimetres": 1.5,
    "150 centimeters": 1.5,
    "1500 mm": 1.5,
    "1500 millimeters": 1.5,
    "1.5 km": 1500,
    "2 kilometres": 2000,
    "6 ft": 6 * FOOT,
    "6 ft.": 6 * FOOT,
    "6 feet": 6 * FOOT,
    "6 FEET": 6 * FOOT,
    "1 foot": FOOT,
    "6-foot": 6 * FOOT,
    "6'": 6 * FOOT,
    "6′": 6 * FOOT,
    "6’": 6 * FOOT,
    "30 in": 30 * INCH,
    "30 in.": 30 * INCH,
    "30 in tall": 30 * INCH,
    "30 in wide.": 30 * INCH,
    "30 inches": 30 * INCH,
    "30 inches in height": 30 * INCH,
    '30"': 30 * INCH,
    "30″": 30 * INCH,
    "30”": 30 * INCH,
    "30''": 30 * INCH,
    "1 inch": INCH,
    "an inch": INCH,
    "a foot": FOOT,
    "about a metre": 1,
    "2 yards": 2 * YARD,
    "2 yd": 2 * YARD,
    "1 mile": 1609.344,
    "1,200 mm": 1.2,
    "1,200.5 mm": 1.2005,
    "12,345,678 mm": 12345.678,
    "2.5e1 cm": 0.25,
    "2.5E-1 m": 0.25,
    "2 x 10^2 cm": 2,
    "3/4 inch": 0.75 * INCH,
    "1/2 m": 0.5,
    "½ m": 0.5,
    "3½ ft": 3.5 * FOOT,
    "3 ½ ft": 3.5 * FOOT,
    "3 1/2 ft": 3.5 * FOOT,
    "3-1/2 ft": 3.5 * FOOT,
    "3 and 1/2 ft": 3.5 * FOOT,
    "3 and a half feet": 3.5 * FOOT,
    "2¾ in": 2.75 * INCH,
    "half a metre": 0.5,
    "half a meter": 0.5,
    "a half metre": 0.5,
    "half an inch": 0.5 * INCH,
    "a quarter of an inch": 0.25 * INCH,
    "three quarters of a mile": 1207.008,
    "two thirds of a metre": 2 / 3,
    "one metre": 1,
    "a metre and a half": 1.5,
    "an inch and a half": 1.5 * INCH,
    "2 feet and a half": 2.5 * FOOT,
    "one-half inch": 0.5 * INCH,
    "one half of a metre": 0.5,
    "one and a half feet": 1.5 * FOOT,
    "two meters": 2,
    "two and a half meters": 2.5,
    "twenty-five centimetres": 0.25,
    "twenty five centimetres": 0.25,
    "one hundred twenty centimeters": 1.2,
    "one hundred and twenty centimeters": 1.2,
    "a hundred meters": 100,
    "two thousand three hundred millimetres": 2.3,
    "one point five meters": 1.5,
    "zero point two five m": 0.25,
    "six feet two inches": 74 * INCH,
    "six foot two": 74 * INCH,
    "six foot two inches": 74 * INCH,
    "5 ft 10 in": 70 * INCH,
    "5 ft. 10 in.": 70 * INCH,
    "5ft10in": 70 * INCH,
    "5 feet 10 inches": 70 * INCH,
    "5 feet, 10 inches": 70 * INCH,
    "5 feet and 10 inches": 70 * INCH,
    "5' 10\"": 70 * INCH,
    "5'10\"": 70 * INCH,
    "5’10”": 70 * INCH,
    "5′ 10″": 70 * INCH,
    "5'10": 70 * INCH,
    "5' 10": 70 * INCH,
    "5' 10 1/2\"": 70.5 * INCH,
    "5 ft 3": 63 * INCH,
    "1 m 20 cm": 1.2,
    "1m20cm": 1.2,
    "1 metre and 20 centimetres": 1.2,
    "2 yards 1 foot": 2 * YARD + FOOT,
    "1 km 500 m": 1500,
    "6 ft (1.83 m)": 6 * FOOT,
    "6 feet (183 cm)": 6 * FOOT,
    "1.83 m (6 ft)": 1.83,
    "6'2\" (188 cm)": 74 * INCH,
    "3 feet (1 m)": 3 * FOOT,
    "6 ft or 1.83 m": 6 * FOOT,
    "6 ft / 1.83 m": 6 * FOOT,
    "2 m, that is 200 cm": 2,
    "1.5 to 2 m": 1.75,
    "1.5-2 m": 1.75,
    "1.5 - 2 m": 1.75,
    "1.5–2 m": 1.75,
    "1.5m-2m": 1.75,
    "from 2 m to 3 m": 2.5,
    "between 5 and 6 feet": 5.5 * FOOT,
    "5 or 6 feet": 5.5 * FOOT,
    "3-4 feet": 3.5 * FOOT,
    "15-20 meters": 17.5,
    "**15-20 meters**": 17.5,
    "80 cm to 1 m": 0.9,
    "two to three meters": 2.5,
    "6-8 feet (1.8-2.4 m)": 7 * FOOT,
    "5 ± 1 m": 5,
    "5 +/- 1 m": 5,
    "Region [0] is 3 m tall.": 3,
    "Region [0] and Region [1] are 1.13 meters apart horizontally from each other.": 1.13,
    "The width of Region [0] is 30.05 inches.": 30.05 * INCH,
    "The height of Region 0 is 2 m": 2,
    "It is 2 m. So it is 2 m.": 2,
    "A door is 2 m. The tree is 8 m. Therefore, it is 3 m.": 3,
    "The door is 2 m tall.\n\nAnswer: 3 m": 3,
    "20,000 km": 2e7,
    "0 m": 0,
    # none
    "": None,
    "5": None,
    "five": None,
    "10/10": None,
    "300 pixels": None,
    "300 px": None,
    "50%": None,
    "5 units": None,
    "3 minutes": None,
    "5 mph": None,
    "5 months": None,
    "5 men": None,
    "5 inc": None,
    "5 footballs": None,
    "5 kmh": None,
    "5 m/s": None,
    "5 meters per second": None,
    "5 square meters": None,
    "5 m²": None,
    "5 m^2": None,
    "2 x 3 m": None,
    "2 m x 3 m": None,
    "5 m x 3": None,
    "2 in by 3 in": None,
    "2 by 3 m": None,
    "-5 m": None,
    "−5 m": None,
    "It is -5 m": None,
    "It is - 0.5 m": None,
    "1,5 m": None,
    "1,20 m": None,
    "1 200 m": None,
    "1.2.3 m": None,
    "12:30 m": None,
    "1/0 m": None,
    "1e999 m": None,
    "five six m": None,
    "5 in the picture": None,
    "There are 2 in front": None,
    "one in three": None,
    "Region 1 in the picture": None,
    "I am an AI": None,
    "I'm not able to tell": None,
    "at 10 a.m.": None,
    "a yard": None,
    'The width is "5".': None,
    "a few meters": None,
    "several feet": None,
    "m": None,
    "meters": None,
    "feet": None,
    "I cannot measure this.": None,
    "It is tall.": None,
    "10 and 20 m": None,
    "1 to 10 m": None,
    "1-100 m": None,
    "0 to 5 m": None,
    "6 ft (5 m)": None,
    "6 ft or 5 m": None,
    "2 m or maybe 3 km": None,
    "Region [0] is 2 m tall and Region [1] is 3 m tall": None,
    "2 m. No, 4 m.": None,
    "The answer is 2 m. The answer is 4 m.": None,
    "A5 m": None,
    "x2m": None,
    "[2] m": None,
    "USB-2 m": None,
}

CLOCK = {
    "2 o'clock": 2,
    "2 o’clock": 2,
    "2 O'Clock": 2,
    "2 o" + "clock": 2,
    "2-o'clock": 2,
    "two o'clock": 2,
    "Two o’clock direction": 2,
    "**2 o'clock**": 2,
    "at 12 o'clock": 12,
    "12 o'clock.": 12,
    "Region [1] is roughly at 4 o'clock from Region [0].": 4,
    "Region [0] will find Region [1] around the 12 o'clock direction.": 12,
    "10:30": 10.5,
    "10:30 o'clock": 10.5,
    "2:00": 2,
    "12:30": 12.5,
    "11:45": 11.75,
    "2": 2,
    "2.": 2,
    "two": 2,
    "around 3": 3,
    "Answer: 3": 3,
    "The answer is 3 o'clock": 3,
    "between 2 and 3 o'clock": 2.5,
    "2-3 o'clock": 2.5,
    "2 or 3 o'clock": 2.5,
    "12-1 o'clock": 12.5,
    "1 to 12 o'clock": 12.5,
    "11 to 12 o'clock": 11.5,
    "3 o'clock, yes, 3 o'clock": 3,
    "It was 9 o'clock. Therefore, it is at 3 o'clock.": 3,
    "": None,
    "13 o'clock": None,
    "0 o'clock": None,
    "0": None,
    "13": None,
    "25:10": None,
    "2:75": None,
    "13:30": None,
    "2.5 o'clock": None,
    "-2 o'clock": None,
    "60 degrees": None,
    "behind": None,
    "to the left": None,
    "someone": None,
    "2 clocks": None,
    "3 o'clock or 9 o'clock": None,
    "2 to 6 o'clock": None,
    "Region [2]": None,
    "There are 2 cars": None,
    "I cannot say": None,
    "ratio 1:1000": None,
}

RELATION = [
    ("Region [0] is to the left of Region [1].", "left", 0),
    ("Region [0] is to the left of Region [1].", "right", 1),
    ("Region [0] is to the right of Region [1].", "left", 1),
    ("Region [1] is not to the left of Region [0].", "left", 0),
    ("Region [1] isn't to the left of Region [0].", "left", 0),
    ("**Region [1]** is more to the left.", "left", 1),
    ("Positioned to the left is Region [1].", "left", 1),
    ("From the viewer's perspective, Region [0] appears more on the right side.", "right", 0),
    ("You'll find Region [0] to the left of Region [1].", "left", 0),
    ("Between Region [0] and Region [1], Region [1] appears on the left side.", "left", 1),
    ("Region [0] is above Region [1].", "below", 1),
    ("Positioned higher is Region [1].", "above", 1),
    ("Region [1] is higher up.", "above", 1),
    ("Region [0] is positioned under Region [1].", "above", 1),
    ("Region [0] is behind Region [1].", "behind", 0),
    ("Region [1] is in front of Region [0].", "front", 1),
    ("Region [0] is closer to the viewer.", "behind", 1),
    ("Region [0] is further to the viewer than Region [1].", "front", 1),
    ("Region [0] is taller than Region [1].", "tall", 0),
    ("Region [0] is not as tall as Region [1].", "short", 0),
    ("Region [0] has a greater height compared to Region [1].", "tall", 0),
    ("Region [0] has a lesser height compared to Region [1].", "tall", 1),
    ("With more height is Region [0].", "tall", 0),
    ("With less height is Region [0].", "short", 0),
    ("Standing shorter between the two is Region [1].", "short", 1),
    ("Region [0]'s width is less than Region [1]'s.", "thin", 0),
    ("Region [0] has a greater width compared to Region [1].", "thin", 1),
    ("The width of Region [0] exceeds that of Region [1].", "wide", 0),
    ("Region [0] might be narrower than Region [1].", "wide", 1),
    ("Region [0] occupies less space than Region [1].", "small", 0),
    ("Region [0] might be larger than Region [1].", "small", 1),
    ("Compared to Region [1], Region [0] is bigger.", "big", 0),
    ("region 1 is taller than region 0", "tall", 1),
    ("[1] is taller", "tall", 1),
    ("Region [1]", "tall", 1),
    ("Region [1].", "left", 1),
    ("Answer: Region [1]", "tall", 1),
    ("* Region [0]\n* Region [1]\n\n**Answer:** Region [1]", "tall", 1),
    ("**Region [1]**\n\nReasoning: Region [1] holds Region [0].", "below", 1),
    ("Region [0] is tall. Region [1] is small. Therefore, Region [0] is taller.", "tall", 0),
    ("", "tall", None),
    ("Neither", "tall", None),
    ("The lamp is taller.", "tall", None),
    ("Region [2] is taller.", "tall", None),
    ("Region [0] and Region [1]", "tall", None),
    ("Region [0] and Region [1] are the same height.", "tall", None),
    ("Region [0] is as tall as Region [1].", "tall", None),
    ("Region [0] is taller. Region [1] is taller.", "tall", None),
    ("Is Region [0] taller than Region [1]?", "tall", None),
    ("Not Region [0]", "tall", None),
    ("Region [0] is leftover food", "left", 0),  # names one region, compares nothing
    ("Region [0] is next to Region [1].", "left", None),
]


@pytest.mark.parametrize(("answer", "wanted"), LETTERS.items())
def test_letters(answer: str, wanted: str | None) -> None:
    assert letters(answer, CLOSER) == wanted


@pytest.mark.parametrize(("answer", "wanted"), YES_NO_LETTERS.items())
def test_letters_of_yes_and_no(answer: str, wanted: str | None) -> None:
    assert letters(answer, YES_NO) == wanted


@pytest.mark.parametrize(("answer", "wanted"), FOUR_LETTERS.items())
def test_letters_of_texts(answer: str, wanted: str | None) -> None:
    assert letters(answer, FOUR) == wanted


@pytest.mark.parametrize(("answer", "wanted"), TRUTH.items())
def test_truth(answer: str, wanted: bool | None) -> None:
    assert truth(answer) is wanted


@pytest.mark.parametrize(("answer", "wanted"), QUANTITY.items())
def test_quantity(answer: str, wanted: float | None) -> None:
    assert quantity(answer) == (None if wanted is None else pytest.approx(wanted, rel=1e-9, abs=1e-12))


@pytest.mark.parametrize(("answer", "wanted"), CLOCK.items())
def test_clock(answer: str, wanted: float | None) -> None:
    assert clock(answer) == wanted


@pytest.mark.parametrize(("answer", "asked", "wanted"), RELATION)
def test_relation(answer: str, asked: str, wanted: int | None) -> None:
    assert relation(answer, asked, (0, 1)) == wanted


def test_a_label_says_which_of_two_lengths_is_meant() -> None:
    answer = "*   **Height:** about 30 inches\n*   **Width:** about 24 inches"
    assert quantity(answer) is None
    assert quantity(answer, label="height") == pytest.approx(30 * INCH)
    assert quantity(answer, label="width") == pytest.approx(24 * INCH)
    assert quantity("It is 3 m.", label="height") == 3


_UNITS = {
    "m": 1,
    " metres": 1,
    "cm": 0.01,
    " mm": 0.001,
    " ft": FOOT,
    " feet": FOOT,
    " inches": INCH,
    " yd": YARD,
    "km": 1e3,
}


def test_every_number_with_every_unit_is_itself() -> None:
    draw = random.Random(0)
    for unit, metres in _UNITS.items():
        for _ in range(60):
            value = draw.choice(
                [draw.randrange(1, 10), draw.randrange(1, 10**7), draw.random() * 10 ** draw.randrange(4)]
            )
            for shown in (f"{value:.3f}", f"{value:,.2f}", f"{value:.4e}"):
                count = float(shown.replace(",", ""))
                wanted = pytest.approx(count * metres, rel=1e-9)
                for answer in (
                    f"{shown}{unit}",
                    f"It is about **{shown}{unit}**.",
                    f"Region [3] is {shown}{unit} from Region [4].",
                ):
                    assert quantity(answer) == wanted, answer


def test_feet_and_inches_however_they_are_written() -> None:
    words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven"]
    for feet, inches in itertools.product(range(1, 9), range(12)):
        wanted = pytest.approx((12 * feet + inches) * INCH)
        for answer in (
            f"{feet}' {inches}\"",
            f"{feet}'{inches}\"",
            f"{feet} ft {inches} in",
            f"{feet} feet and {inches} inches",
            f"{words[feet]} feet {words[inches]} inches",
            f"{words[feet]} foot {words[inches]}",
        ):
            assert quantity(answer) == wanted, answer


def test_ranges_are_their_middle_up_to_a_factor_of_two() -> None:
    for low, high in itertools.combinations(range(1, 12), 2):
        for answer in (
            f"{low}-{high} m",
            f"{low} to {high} m",
            f"between {low} and {high} meters",
            f"{low}m - {high}m",
        ):
            assert quantity(answer) == ((low + high) / 2 if high <= 2 * low else None), answer


def test_clock_errors_are_angles() -> None:
    for one, other in itertools.product(range(1, 13), repeat=2):
        error = clock_error(one, other)
        assert error == clock_error(other, one)
        assert 0 <= error <= 180
        assert error == min((30 * (one - other)) % 360, (30 * (other - one)) % 360)
    assert clock_error(12, 1) == 30
    assert clock_error(12.5, 11.5) == 30
    assert clock_error(3, 9) == 180


def test_relations_mirror() -> None:
    """Naming the regions the other way round, or the opposite relation, means the other region."""
    words = {
        "left": "to the left of",
        "above": "above",
        "front": "in front of",
        "tall": "taller than",
        "wide": "wider than",
    }
    for asked, word in {**words, "big": "bigger than"}.items():
        for one, other in ((0, 1), (1, 0), (4, 7)):
            said = f"Region [{one}] is {word} Region [{other}]."
            assert relation(said, asked, (one, other)) == relation(said, asked, (other, one)) == one
            assert relation(said, RELATIONS[asked], (one, other)) == other
            assert relation(said.replace(" is ", " is not "), asked, (one, other)) == other


WORDS = [
    "not",
    "know",
    "nothing",
    "nose",
    "another",
    "cannon",
    "north",
    "eyes",
    "trueness",
    "Abba",
    "AI",
    "B2B",
    "inner",
]


def test_words_that_only_hold_an_answer_are_none() -> None:
    for first, second in itertools.permutations(WORDS, 2):
        answer = f"{first} {second}"
        assert truth(answer) is None, answer
        assert letters(answer, CLOSER) is None, answer
        assert quantity(f"12 {answer}") is None, answer
        assert clock(answer) is None, answer


def test_dress_changes_nothing() -> None:
    """Markdown, white space and special tokens around an answer leave its reading as it is."""
    dresses = ("**{}**", "*{}*", "  {}\n", "\n\n{}", "{}<end_of_turn>", "{}</s>", "> {}", "## {}", "`{}`", "\ufeff{}")
    bare = {answer: wanted for answer, wanted in TRUTH.items() if answer[:1].isalpha()}
    for dress, (answer, wanted) in itertools.product(dresses, bare.items()):
        assert truth(dress.format(answer)) is wanted, (dress, answer)


@pytest.mark.parametrize(
    "text",
    [
        "1 " * 1000,
        "a " * 1000,
        "5 ft " * 1000,
        "not " * 1000,
        "(A) " * 1000,
        "'\"" * 2000,
        "one and " * 800,
        "9" * 4000,
    ],
)
def test_long_answers_take_no_long_time(text: str) -> None:
    start = time.process_time()
    for read in (truth, quantity, clock):
        read(text)
    letters(text, CLOSER)
    relation(text, "left", (0, 1))
    assert time.process_time() - start < 2  # of this process, whatever else runs on the machine
